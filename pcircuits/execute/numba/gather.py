"""Inner products with rows of a large table, read where they lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.numba.arithmetic import compiled
from pcircuits.execute.numba.threads import in_threads

Array = np.ndarray

# Rows read at once: as many streams as a processor prefetches well. A few hundred are a thread's.
_AT_ONCE, _PART = 4, 256


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
            first, second = table[rows[n, j]], table[rows[n, j + 1]]
            third, fourth = table[rows[n, j + 2]], table[rows[n, j + 3]]
            one = two = three = four = out.dtype.type(0.0)
            for u in range(len(own)):
                one += first[u] * own[u]
                two += second[u] * own[u]
                three += third[u] * own[u]
                four += fourth[u] * own[u]
            out[n, j], out[n, j + 1], out[n, j + 2], out[n, j + 3] = one, two, three, four
        for j in range(whole, stop):
            row, total = table[rows[n, j]], out.dtype.type(0.0)
            for u in range(len(own)):
                total += row[u] * own[u]
            out[n, j] = total
