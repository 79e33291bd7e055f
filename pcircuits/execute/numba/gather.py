"""Inner products with rows of a large table, read where they lie."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from pcircuits.execute.numba.arithmetic import compiled
from pcircuits.execute.numba.threads import in_threads

Array = np.ndarray

# Rows read at once: as many streams as a processor prefetches well. A few hundred are a thread's.
_AT_ONCE, _PART = 8, 256


def gathered_products(x: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Inner products without a copy of the rows.

    Args:
        x: (n, U).
        table: (V, U), of the same type.
        rows: (n, k) integers 0 .. V-1.

    Returns:
        (n, k) sum_u x[n, u] table[rows[n, j], u].
    """
    out = x.new_empty(rows.shape)
    _in_parts(x.contiguous().numpy(), table.numpy(), rows.contiguous().numpy(), out.numpy())
    return out


def gathered_posteriors(
    log_x: Array, table: Array, rows: Array, log_factors: Array, floor: float
) -> Array | None:
    """Inner products times factors, normalised, without a copy of the rows.

    Args:
        log_x: (n, U) logarithms.
        table: (V, U), of the same type, not negative.
        rows: (n, k) integers 0 .. V-1.
        log_factors: (n, k) logarithms.
        floor: Inner products, with x divided by its maximum, up to this may have lost terms.

    Returns:
        (n, k) of which each row sums to one; None if some inner product is not above the floor, or
        some row is zero.
    """
    x, out = np.empty_like(log_x), np.empty_like(log_factors)
    _exponentiate(log_x, x)
    _in_parts(x, table, rows, out)
    return out if _normalise(out, log_factors, floor) else None


def _in_parts(x: Array, table: Array, rows: Array, out: Array) -> None:
    listed = rows.shape[1]

    def run(mine: range) -> None:
        _products(x, table, rows, out, mine.start * _PART, min(mine.stop * _PART, listed))

    in_threads(run, -(-listed // _PART))


@compiled
def _exponentiate(log_x: Array, x: Array) -> None:
    """Fills x with exponentials, divided by the largest of each row."""
    for n in range(len(x)):
        top = log_x[n, 0]
        for u in range(1, x.shape[1]):
            top = max(top, log_x[n, u])
        # A row without any number is all NaN then, and found to be so later.
        for u in range(x.shape[1]):
            x[n, u] = math.exp(log_x[n, u] - top)


@compiled
def _normalise(out: Array, log_factors: Array, floor: float) -> bool:
    for n in range(len(out)):
        own, top, total = out[n], -np.inf, 0.0
        for j in range(len(own)):
            if not own[j] > floor:
                return False
            own[j] = math.log(own[j]) + log_factors[n, j]
            top = max(top, own[j])
        if not top > -np.inf:
            return False
        for j in range(len(own)):
            own[j] = math.exp(own[j] - top)
            total += own[j]
        for j in range(len(own)):
            own[j] /= total
    return True


@compiled
def _products(x: Array, table: Array, rows: Array, out: Array, start: int, stop: int) -> None:
    whole = start + (stop - start) // _AT_ONCE * _AT_ONCE
    for n in range(len(x)):
        own = x[n]
        for j in range(start, whole, _AT_ONCE):
            a, b = table[rows[n, j]], table[rows[n, j + 1]]
            c, d = table[rows[n, j + 2]], table[rows[n, j + 3]]
            e, f = table[rows[n, j + 4]], table[rows[n, j + 5]]
            g, h = table[rows[n, j + 6]], table[rows[n, j + 7]]
            zero = out.dtype.type(0.0)
            of_a = of_b = of_c = of_d = of_e = of_f = of_g = of_h = zero
            for u in range(len(own)):
                of_a += a[u] * own[u]
                of_b += b[u] * own[u]
                of_c += c[u] * own[u]
                of_d += d[u] * own[u]
                of_e += e[u] * own[u]
                of_f += f[u] * own[u]
                of_g += g[u] * own[u]
                of_h += h[u] * own[u]
            out[n, j], out[n, j + 1], out[n, j + 2], out[n, j + 3] = of_a, of_b, of_c, of_d
            out[n, j + 4], out[n, j + 5], out[n, j + 6], out[n, j + 7] = of_e, of_f, of_g, of_h
        for j in range(whole, stop):
            row, total = table[rows[n, j]], out.dtype.type(0.0)
            for u in range(len(own)):
                total += row[u] * own[u]
            out[n, j] = total
