"""Decoding: which tokens to fix at each step, and how to draw them together."""
