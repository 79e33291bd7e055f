"""Kernels for CUDA devices in Triton: sums with the products below them, and whole plans.

Nothing here is imported before it is asked for, so that the package does without Triton.
"""
