"""Sums over all pairs of two rows: some pairs of some rows are made at a time, and never kept.

A block of pairs stays in the cache between being made and being multiplied with its weights, and so
do these. The way back makes it once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.down_kernels import ADDS
from pcircuits.execute.fused.kept import Kept
from pcircuits.execute.fused.kernels import normalise
from pcircuits.execute.fused.memory import array_of
from pcircuits.execute.fused.pair_kernels import give, give_divided, give_pairs, sum_pairs
from pcircuits.execute.fused.rows import LeafFlows
from pcircuits.execute.fused.sums import FusedSum
from pcircuits.execute.fused.tables import Table, TableGradient

# Rows at once, and numbers of pairs: half of a common second-level cache.
_ROWS, _PAIRS = 256, 1 << 17


def forward(
    own: FusedSum,
    places: np.ndarray,
    kept: Kept,
    table: Table,
    out: np.ndarray,
    out_scales: np.ndarray,
) -> None:
    """Fills `out`, (F * B, O), and the scales of its rows.

    Args:
        own: The sum.
        places: (2, F) places of the two factors.
        kept: Where they are.
        table: The sum's weights.
        out: Where its values are kept.
        out_scales: Where its scales are kept.
    """
    batch = len(out) // own.num_folds
    routine, room = address_of(kept.arenas.sizes.dtype), _room(own, batch, out.dtype)
    for fold in range(own.num_folds):
        (left, scale), (right, other) = (
            _normalised(kept, units, place)
            for units, place in zip(own.units, places[:, fold], strict=True)
        )
        rows = slice(fold * batch, (fold + 1) * batch)
        out_scales[rows] = scale + other
        weights = table.address + fold * table.stride
        sum_pairs(routine, left, right, weights, out[rows], room, _ROWS)


@dataclass(frozen=True, eq=False)
class Flows:
    """Where gradients go.

    Attributes:
        kept: What the evaluation kept.
        leaves: Units -> gradients of the inputs.
        sums: Units -> (S, K) gradients of sums as numbers.
    """

    kept: Kept
    leaves: Mapping[int, LeafFlows]
    sums: Mapping[int, np.ndarray]

    def give(self, units: int, place: int, flow_place: int, flow: np.ndarray) -> None:
        """Gives (B, K) gradients of logarithms to the rows of a fold."""
        (folds, (values, *_)), batch = self.kept.arenas.sums[units], len(flow)
        if place >= folds:
            first, to = (place - folds) * batch, (flow_place - folds) * batch
            give_divided(flow, values, first, self.sums[units], to)
        elif len(self.leaves[units].values) > 0:
            leaves, rows, what = self.leaves[units].arrays
            give(flow, rows[place * batch : (place + 1) * batch], what == ADDS, leaves)


def backward(
    own: FusedSum,
    places: np.ndarray,
    flow_places: np.ndarray,
    to: Flows,
    table: Table,
    u: np.ndarray,
    collector: TableGradient | None,
    adds: bool,
) -> None:
    """Gives the gradient of a sum's values to the rows that it reads, and to its weights.

    Args:
        own: The sum.
        places: (2, F) places of the two factors.
        flow_places: (2, F) places of their gradients.
        to: Where these go.
        table: The sum's weights.
        u: (F * B, O) gradient with respect to the sum's values as numbers.
        collector: What collects the gradient of the weights; None if it is not wanted.
        adds: Whether something is there already.
    """
    batch = len(u) // own.num_folds
    routine, room = address_of(to.kept.arenas.sizes.dtype), _room(own, batch, u.dtype)
    stride, gradient = table.stride, 0 if collector is None else collector.address
    for fold in range(own.num_folds):
        left, right = (
            _normalised(to.kept, units, place)[0]
            for units, place in zip(own.units, places[:, fold], strict=True)
        )
        flows = np.empty_like(left), np.zeros_like(right)
        more = adds or (fold > 0 and stride == 0)
        of_fold = (table.address + fold * stride, gradient and gradient + fold * stride, more)
        rows = slice(fold * batch, (fold + 1) * batch)
        give_pairs(routine, u[rows], left, right, *of_fold, *flows, room, _ROWS)
        ends = zip(own.units, places[:, fold], flow_places[:, fold], flows, strict=True)
        for units, place, flow_place, flow in ends:
            to.give(units, place, flow_place, flow)


def _normalised(kept: Kept, units: int, place: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, K) rows of a fold divided by their sums, and their scales."""
    values, scales, rows = kept.fold(units, place)
    side, scale = np.empty((len(rows), units), values.dtype), np.empty(len(rows))
    normalise(values, scales, rows, side, scale)
    return side, scale


def _room(own: FusedSum, batch: int, dtype: np.dtype) -> np.ndarray:
    """Room for a block of pairs: of all left units, of some, or of one."""
    left, right = own.units
    of_one = min(batch, _ROWS) * right
    return array_of((min(left * of_one, max(of_one, _PAIRS)),), dtype)
