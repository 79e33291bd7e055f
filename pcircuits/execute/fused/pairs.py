"""Sums over all pairs of two rows: some pairs of some rows are made at a time, and never kept.

A block of pairs stays in the cache between being made and being multiplied with its weights, and so
do these. The way back makes it once more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.kernels import SKIP, normalise
from pcircuits.execute.fused.memory import block_for, carve
from pcircuits.execute.fused.pair_kernels import give, give_divided, give_pairs, sum_pairs
from pcircuits.execute.fused.program import FusedSum
from pcircuits.execute.fused.runs import Down
from pcircuits.execute.fused.tables import TableGradient, factor_of, stride_of
from pcircuits.execute.weights import Weights

# What `kernels.multiply` takes of the arenas of one number of units.
ForwardArrays = tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray, np.ndarray, np.ndarray]

# Rows at once, and numbers of pairs: half of a common second-level cache.
_ROWS, _PAIRS = 256, 1 << 17


def forward(
    own: FusedSum,
    places: np.ndarray,
    arrays: Mapping[int, ForwardArrays],
    table: Weights,
    out: np.ndarray,
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
    factor, room = factor_of(table), _room(own, batch, out.dtype)
    routine, stride = address_of(factor.dtype), stride_of(factor)
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
        rows = slice(fold * batch, (fold + 1) * batch)
        out_scales[rows] = scales[0] + scales[1]
        weights = factor.data_ptr() + fold * stride
        sum_pairs(routine, sides[0], sides[1], weights, out[rows], room, _ROWS)


def backward(
    own: FusedSum,
    places: tuple[np.ndarray, np.ndarray],
    down: Mapping[int, Down],
    table: Weights,
    u: np.ndarray,
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
    factor, room = factor_of(table), _room(own, batch, u.dtype)
    routine, stride = address_of(factor.dtype), stride_of(factor)
    gradient = 0 if collector is None else collector.address
    for fold in range(own.num_folds):
        left, right = (
            _side(down[units], place, batch)
            for units, place in zip(own.units, places[0][:, fold], strict=True)
        )
        flows = np.empty_like(left), np.zeros_like(right)
        more = adds or (fold > 0 and stride == 0)
        of_fold = (factor.data_ptr() + fold * stride, gradient and gradient + fold * stride, more)
        rows = slice(fold * batch, (fold + 1) * batch)
        give_pairs(routine, u[rows], left, right, *of_fold, *flows, room, _ROWS)
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


def _room(own: FusedSum, batch: int, dtype: np.dtype) -> np.ndarray:
    """Room for a block of pairs: of all left units, of some, or of one."""
    left, right = own.units
    of_one = min(batch, _ROWS) * right
    wanted = [((min(left * of_one, max(of_one, _PAIRS)),), dtype)]
    return carve(block_for(wanted), wanted)[0]
