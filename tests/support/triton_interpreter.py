"""What Triton's interpreter does not do as a device does: products of lower precision.

Importing this makes `tl.dot` in interpreted kernels round its operands as tensor cores would.
Without it bfloat16 operands are multiplied as the integers that store them, and "tf32x3" is not
told from float32, so that no error could be measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """Float32 numbers rounded to nearest with so many bits of mantissa kept."""
    drop = 23 - bits
    whole = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (whole + (1 << (drop - 1))) >> drop << drop
    return kept.astype(np.uint32).view(np.float32)


def tf32x3(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Three products of the high and low parts of float32 numbers, 10 bits each."""
    high_a, high_b = rounded(a, 10), rounded(b, 10)
    low_a, low_b = rounded(a - high_a, 10), rounded(b - high_b, 10)
    return high_a @ high_b + (high_a @ low_b + low_a @ high_b)


def _as_float(handle: Any) -> np.ndarray:
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    data: np.ndarray = handle.data
    return data


def _create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, *_: Any) -> Any:
    left, right = _as_float(a), _as_float(b)
    if precision == interpreter._ir.INPUT_PRECISION.TF32x3 and left.dtype == np.float32:
        product = tf32x3(left, right)
    else:
        product = np.matmul(left, right)
    return interpreter.TensorHandle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)


interpreter.InterpreterBuilder.create_dot = _create_dot
