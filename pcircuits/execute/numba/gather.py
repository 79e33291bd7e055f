"""Inner products with rows of a large table, read where they lie."""

from __future__ import annotations

import numpy as np
import torch
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
    num, listed = rows.shape
    out = x.new_empty(num, listed)
    arrays = (x.contiguous().numpy(), table.numpy(), rows.contiguous().numpy(), out.numpy())
    parts = -(-listed // _PART)

    def run(mine: range) -> None:
        _products(*arrays, mine.start * _PART, min(mine.stop * _PART, listed))

    with torch.no_grad():
        in_threads(run, parts)
    return out


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
