"""One product with a table of weights in log space in one compiled call, for few rows."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from pcircuits.execute.fused.blas import SIZES, address_of, multiply_matrices
from pcircuits.execute.fused.kernels import Array, compiled
from pcircuits.execute.weights import Weights


def log_product(x: Tensor, weights: Weights, *, transposed: bool) -> Tensor | None:
    """`weights.log_matmul` of one table, or `log_matmul_transposed`.

    Args:
        x: (B, K) log-values below +inf, on the CPU; (B, O) if transposed.
        weights: The table, (1, 1, O, K), without a shift.
        transposed: Whether sums are over its rows.

    Returns:
        (B, O) log-values, (B, K) if transposed; None where underflow may have spoilt one.
    """
    factor = weights.factor.contiguous()
    out = x.new_empty(len(x), factor.shape[transposed])
    least = _step(address_of(x.dtype), x.numpy(), factor.data_ptr(), transposed, out.numpy())
    return out if least > weights.floor else None


@compiled
def _step(routine: int, x: Array, table: int, transposed: bool, out: Array) -> float:
    """Fills `out`; the least of the sums whose logarithms these are, without the rows' maxima."""
    shifted, tops = np.empty_like(x), np.empty(len(x), x.dtype)
    for b in range(len(x)):
        top = x[b, 0]
        for k in range(1, x.shape[1]):
            top = max(top, x[b, k])
        tops[b] = top
        # A row without any number is all NaN then, and found to be so below.
        for k in range(x.shape[1]):
            shifted[b, k] = math.exp(x[b, k] - top)
    scalars, sizes = np.array([1.0, 0.0], x.dtype), np.empty(SIZES, np.int64)
    source, rows, inner, columns = shifted.ctypes.data, len(x), x.shape[1], out.shape[1]
    multiply_matrices(
        routine,
        source,
        False,
        table,
        not transposed,
        out.ctypes.data,
        rows,
        inner,
        columns,
        scalars,
        sizes,
    )
    least = np.inf
    for b in range(rows):
        for o in range(columns):
            total = out[b, o]
            least = min(least, total) if total == total else -np.inf
            out[b, o] = math.log(total) + tops[b]
    return least
