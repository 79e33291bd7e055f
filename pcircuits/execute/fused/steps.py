"""Steps along a chain in log space in one compiled call, for few rows."""

from __future__ import annotations

import math

import numpy as np
import torch

from pcircuits.execute.fused.blas import SIZES, address_of, multiply_matrices
from pcircuits.execute.fused.kernels import Array, compiled


def log_steps(
    values: Array,
    messages: Array,
    places: tuple[np.ndarray, np.ndarray],
    tables: np.ndarray,
    floor: float,
    *,
    transposed: bool,
) -> int:
    """Sends values times messages through tables, one step after the other, as long as it is safe.

    Args:
        values: (L, B, K) log-values below +inf, contiguous.
        messages: (L, B, K) log-messages, in which each step writes one place.
        places: (S,) places of the values and messages that each step reads, and (S,) that it
            writes.
        tables: (S,) addresses of the (K, K) tables in linear space, as `Weights.factor` has them.
        floor: Sums, without the maximum of their row, up to this may have lost terms to underflow.
        transposed: Whether sums are over the rows of the tables.

    Returns:
        How many steps were made: the next one, if there is one, would not have been safe.
    """
    routine = address_of(torch.float32 if values.dtype == np.float32 else torch.float64)
    return _steps(routine, values, messages, *places, tables, floor, transposed)


@compiled
def _steps(
    routine: int,
    values: Array,
    messages: Array,
    reads: Array,
    writes: Array,
    tables: Array,
    floor: float,
    transposed: bool,
) -> int:
    shifted, tops = np.empty_like(values[0]), np.empty(values.shape[1], values.dtype)
    rows, units = shifted.shape
    scalars, sizes = np.array([1.0, 0.0], values.dtype), np.empty(SIZES, np.int64)
    for s in range(len(reads)):
        value, message, out = values[reads[s]], messages[reads[s]], messages[writes[s]]
        for b in range(rows):
            top = value[b, 0] + message[b, 0]
            for k in range(units):
                shifted[b, k] = value[b, k] + message[b, k]
                top = max(top, shifted[b, k])
            tops[b] = top
            # A row without any number is all NaN then, and found to be so below.
            for k in range(units):
                shifted[b, k] = math.exp(shifted[b, k] - top)
        multiply_matrices(
            routine,
            shifted.ctypes.data,
            False,
            tables[s],
            not transposed,
            out.ctypes.data,
            rows,
            units,
            units,
            scalars,
            sizes,
        )
        for b in range(rows):
            for k in range(units):
                total = out[b, k]
                if not total > floor:
                    return s
                out[b, k] = math.log(total) + tops[b]
    return len(reads)
