"""Log-weights as number * 2 ** exponent, which is what the compiled passes add and multiply."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pcircuits.execute.numba.kernels import DEAD_WEIGHT, LARGEST, Numbers

Array = np.ndarray

_LN_2 = math.log(2.0)


def weight_numbers(logs: Array, dtype: Any, *, clip: bool = False) -> Numbers | None:
    """Weights as numbers in [1, 2], or 0, of a type; None if one of them is too large or small.

    Args:
        logs: (W,) log-weights below +inf.
        dtype: float32 or float64.
        clip: Take the largest or smallest number instead.
    """
    wide = logs.astype(np.float64)
    dead = wide == -np.inf
    some_dead = bool(dead.any())
    if some_dead:
        wide[dead] = 0.0
    exponents = np.floor(wide * (1.0 / _LN_2))
    if clip:
        exponents = exponents.clip(-LARGEST, LARGEST)
        wide = np.minimum(wide, exponents * _LN_2 + _LN_2)
    elif not np.abs(exponents).max(initial=0.0) < LARGEST:
        return None
    wide -= exponents * _LN_2
    numbers = np.exp(wide).astype(dtype)
    found = exponents.astype(np.int64)
    if some_dead:
        numbers[dead], found[dead] = 0.0, DEAD_WEIGHT
    return Numbers(numbers, found)


def table_numbers(logs: Array, row_starts: Array, dtype: Any) -> Numbers | None:
    """Entries of tables with one exponent a row; None if one of them is too large or small.

    Args:
        logs: Log-entries of all rows, below +inf.
        row_starts: (R + 1,) first entry of each row.
        dtype: float32 or float64.
    """
    top = np.maximum.reduceat(logs, row_starts[:-1]).astype(np.float64)
    top[top == -np.inf] = 0.0
    exponents = np.ceil(top * (1.0 / _LN_2))
    if not np.abs(exponents).max(initial=0.0) < LARGEST:
        return None
    shift = np.repeat(exponents * _LN_2, np.diff(row_starts))
    numbers = np.exp(logs - shift).astype(dtype)
    # What the type cannot hold is not 0: a tile that meets it is evaluated otherwise.
    numbers[(numbers < np.finfo(dtype).tiny) & (logs > -np.inf)] = np.inf
    return Numbers(numbers, exponents.astype(np.int64))
