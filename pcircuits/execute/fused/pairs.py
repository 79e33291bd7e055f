"""Sums over all pairs of two rows: pairs are made for a few rows at a time and never kept.

A chunk of pairs stays in the cache between being made and being multiplied with the weights. The
way back makes them once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.backward import WeightGradient
from pcircuits.execute.fused.kernels import (
    SKIP,
    all_pairs,
    contract_pairs,
    give,
    give_divided,
    normalise,
)
from pcircuits.execute.fused.program import FusedSum
from pcircuits.execute.fused.rows import InputRows
from pcircuits.execute.weights import Weights

# What `kernels.multiply` and `kernels.share` take of the arenas of one number of units.
ForwardArrays = tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray, np.ndarray, np.ndarray]
BackwardArrays = tuple[np.ndarray, int, int, np.ndarray, int, np.ndarray]

# Numbers of pairs at once: half of a common second-level cache.
_CHUNK = 1 << 18


def forward(
    own: FusedSum,
    places: np.ndarray,
    arrays: Mapping[int, ForwardArrays],
    table: Weights,
    out: Tensor,
    out_scales: np.ndarray,
) -> None:
    """Fills `out`, (F * B, O), and the scales of its rows.

    Args:
        own: The sum.
        places: (2, F) places of the two factors.
        arrays: Units -> the first seven arguments of `kernels.multiply`.
        table: The sum's weights.
        out: Where its values are kept.
        out_scales: Where its scales are kept.
    """
    batch = len(out) // own.num_folds
    for fold in range(own.num_folds):
        sides, scales = [], []
        for units, place in zip(own.units, places[:, fold], strict=True):
            leaves, leaf_scales, leaf_rows, leaf_folds = arrays[units][:4]
            values, value_scales, value_rows = arrays[units][4:]
            if place < leaf_folds:
                rows = leaf_rows[place * batch : (place + 1) * batch]
                side, scale = _normalised(leaves, leaf_scales, rows)
            else:
                first = (place - leaf_folds) * batch
                side, scale = _normalised(values, value_scales, value_rows[first : first + batch])
            sides.append(side)
            scales.append(scale)
        out_scales[fold * batch : (fold + 1) * batch] = scales[0] + scales[1]
        rows_out, columns = out[fold * batch : (fold + 1) * batch], _of_fold(table, fold).T
        for chunk, buffer in _chunks(own, batch, out.dtype):
            all_pairs(sides[0][chunk], sides[1][chunk], buffer.numpy())
            torch.mm(buffer, columns, out=rows_out[chunk])


def backward(
    own: FusedSum,
    places: tuple[np.ndarray, np.ndarray],
    inputs: Mapping[int, InputRows],
    numbers: Mapping[int, np.ndarray],
    arrays: Mapping[int, BackwardArrays],
    table: Weights,
    u: Tensor,
    collector: WeightGradient | None,
) -> None:
    """Gives the gradient of a sum's values to the rows that it reads, and to its weights.

    Args:
        own: The sum.
        places: (2, F) places of the two factors, and of their gradients.
        inputs: Units -> rows of the inputs.
        numbers: Units -> (N, K) rows of the sums.
        arrays: Units -> the last six arguments of `kernels.share`.
        table: The sum's weights.
        u: (F * B, O) gradient with respect to the sum's values as numbers.
        collector: What collects the gradient of the weights; None if it is not wanted.
    """
    batch = len(u) // own.num_folds
    for fold in range(own.num_folds):
        sides, read = [], []
        for units, place in zip(own.units, places[0][:, fold], strict=True):
            leaf_rows, leaf_folds = arrays[units][:2]
            first = (place - leaf_folds) * batch
            leaf = bool(place < leaf_folds)
            rows = leaf_rows[place * batch : (place + 1) * batch] if leaf else None
            values = inputs[units].values.numpy() if leaf else numbers[units]
            at = np.arange(first, first + batch) if rows is None else rows
            sides.append(_normalised(values, np.zeros(len(values)), at)[0])
            read.append((rows, first))
        flows = [np.empty_like(side) for side in sides]
        rows_u = u[fold * batch : (fold + 1) * batch]
        for chunk, buffer in _chunks(own, batch, u.dtype):
            torch.mm(rows_u[chunk], _of_fold(table, fold), out=buffer)
            contract_pairs(
                buffer.numpy(), *(side[chunk] for side in sides), *(flow[chunk] for flow in flows)
            )
            if collector is not None:
                collector.linear_of(fold).addmm_(rows_u[chunk].T, buffer)
        for n, (units, (rows, first), flow) in enumerate(zip(own.units, read, flows, strict=True)):
            _, leaf_folds, leaf_mode, leaf_flows, mode, sum_flows = arrays[units]
            if rows is None:
                at_flow = (places[1][n, fold] - leaf_folds) * batch
                give_divided(flow, numbers[units], first, mode, sum_flows, at_flow)
            elif leaf_mode != SKIP:
                give(flow, rows, leaf_mode, leaf_flows)


def _normalised(
    values: np.ndarray, scales: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by their sums, and their scales."""
    side = np.empty((len(rows), values.shape[1]), values.dtype)
    scale = np.empty(len(rows))
    normalise(values, scales, rows, side, scale)
    return side, scale


def _chunks(own: FusedSum, batch: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the examples, and room for their pairs."""
    columns = own.units[0] * own.units[1]
    size = min(batch, max(1, _CHUNK // columns))
    buffer = torch.empty((size, columns), dtype=dtype)
    for start in range(0, batch, size):
        chunk = slice(start, min(start + size, batch))
        yield chunk, buffer[: chunk.stop - chunk.start]


def _of_fold(table: Weights, fold: int) -> Tensor:
    """(O, I * J) weights."""
    return table.linear[fold % len(table.linear), 0]
