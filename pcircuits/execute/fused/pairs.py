"""Sums over all pairs of two rows: some pairs of some rows are made at a time, and never kept.

A block of pairs stays in the cache between being made and being multiplied with its weights, and so
do these. The way back makes it once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.kernels import SKIP, normalise
from pcircuits.execute.fused.pair_kernels import all_pairs, contract_pairs, give, give_divided
from pcircuits.execute.fused.program import FusedSum
from pcircuits.execute.fused.runs import Down
from pcircuits.execute.fused.tables import TableGradient
from pcircuits.execute.weights import Weights

# What `kernels.multiply` takes of the arenas of one number of units.
ForwardArrays = tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray, np.ndarray, np.ndarray]

# Rows at once, and numbers of pairs: half of a common second-level cache.
_ROWS, _PAIRS = 256, 1 << 18


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
                at = leaf_rows[place * batch : (place + 1) * batch]
                side, scale = _normalised(leaves, leaf_scales, at)
            else:
                first = (place - leaf_folds) * batch
                side, scale = _normalised(values, value_scales, value_rows[first : first + batch])
            sides.append(side)
            scales.append(scale)
        out_scales[fold * batch : (fold + 1) * batch] = scales[0] + scales[1]
        rows_out, weights = out[fold * batch : (fold + 1) * batch], _of_fold(table, fold).t()
        for rows, block, columns, buffer in _blocks(own, batch, out.dtype):
            all_pairs(sides[0][rows, block], sides[1][rows], buffer.numpy())
            rows_out[rows].addmm_(buffer, weights[columns], beta=float(block.start > 0))


def backward(
    own: FusedSum,
    places: tuple[np.ndarray, np.ndarray],
    down: Mapping[int, Down],
    table: Weights,
    u: Tensor,
    collector: TableGradient | None,
    adds: bool,
) -> None:
    """Gives the gradient of a sum's values to the rows that it reads, and to its weights.

    Args:
        own: The sum.
        places: (2, F) places of the two factors, and of their gradients.
        down: Units -> their arenas.
        table: The sum's weights.
        u: (F * B, O) gradient with respect to the sum's values as numbers.
        collector: What collects the gradient of the weights; None if it is not wanted.
        adds: Whether something is there already.
    """
    batch = len(u) // own.num_folds
    for fold in range(own.num_folds):
        sides = [
            _side(down[units], place, batch)
            for units, place in zip(own.units, places[0][:, fold], strict=True)
        ]
        (left, right), rows_u = sides, u[fold * batch : (fold + 1) * batch]
        flows = np.empty_like(left), np.zeros_like(right)
        weights = _of_fold(table, fold)
        for rows, block, columns, buffer in _blocks(own, batch, u.dtype):
            torch.mm(rows_u[rows], weights[:, columns], out=buffer)
            both = left[rows, block], right[rows]
            contract_pairs(buffer.numpy(), *both, flows[0][rows, block], flows[1][rows])
            if collector is not None:
                more = adds or rows.start > 0 or (fold > 0 and len(table.log) == 1)
                tile = collector.tile(fold, columns)
                tile.addmm_(rows_u[rows].t(), buffer, beta=float(more))
        to = zip(own.units, *(part[:, fold] for part in places), flows, strict=True)
        for units, place, flow_place, flow in to:
            _give(down[units], place, flow_place, batch, flow)


def _side(down: Down, place: int, batch: int) -> np.ndarray:
    """(B, K) rows of a fold, divided by their sums."""
    if place < down.leaf_folds:
        values, rows = down.leaves, down.leaf_rows[place * batch : (place + 1) * batch]
    else:
        first = (place - down.leaf_folds) * batch
        values, rows = down.values, down.value_rows[first : first + batch]
    return _normalised(values, np.zeros(len(values)), rows)[0]


def _give(down: Down, place: int, flow_place: int, batch: int, flow: np.ndarray) -> None:
    """Gives (B, K) gradients of logarithms to the rows of a fold."""
    if place < down.leaf_folds:
        if down.leaf_mode != SKIP:
            rows = down.flow_rows[place * batch : (place + 1) * batch]
            give(flow, rows, down.leaf_mode, down.leaf_flows)
        return
    first, to = (place - down.leaf_folds) * batch, (flow_place - down.leaf_folds) * batch
    give_divided(flow, down.values, first, down.flows, to)


def _normalised(
    values: np.ndarray, scales: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by their sums, and their scales."""
    side = np.empty((len(rows), values.shape[1]), values.dtype)
    scale = np.empty(len(rows))
    normalise(values, scales, rows, side, scale)
    return side, scale


def _blocks(
    own: FusedSum, batch: int, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """Slices of the rows, of the left units, of their pairs, and room for these."""
    left, right = own.units
    num_rows = min(batch, _ROWS)
    num_units = min(left, max(1, _PAIRS // (num_rows * right)))
    room = torch.empty(num_rows * num_units * right, dtype=dtype)
    for start in range(0, left, num_units):
        block = slice(start, min(start + num_units, left))
        columns = slice(block.start * right, block.stop * right)
        for first in range(0, batch, num_rows):
            rows = slice(first, min(first + num_rows, batch))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            yield rows, block, columns, room[: shape[0] * shape[1]].view(shape)


def _of_fold(table: Weights, fold: int) -> Tensor:
    """(O, I * J) weights."""
    return table.linear[fold % len(table.linear), 0]
