"""A kernel whose masks may be left out, to see whether that is found."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def copy_kernel(source, target, size, BLOCK: tl.constexpr, masked_store: tl.constexpr):
    """Copies `size` numbers."""
    at = tl.arange(0, BLOCK)
    values = tl.load(source + at, mask=at < size)
    if masked_store:
        tl.store(target + at, values, mask=at < size)
    else:
        tl.store(target + at, values)


@triton.jit
def sum_kernel(source, target, size, BLOCK: tl.constexpr, zero_elsewhere: tl.constexpr):
    """Adds `size` numbers up."""
    at = tl.arange(0, BLOCK)
    if zero_elsewhere:
        values = tl.load(source + at, mask=at < size, other=0.0)
    else:
        values = tl.load(source + at, mask=at < size)
    tl.store(target, tl.sum(values, axis=0))
