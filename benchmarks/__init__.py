"""Benchmarks: what is compared, how it is measured, and what came out."""
