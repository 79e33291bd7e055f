"""Sum layers together with the products that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Operand,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SumLayer,
    num_folds,
)

# Layer and fold of a factor that a fold does not have, since others of its layer have more.
MISSING = -1


@dataclass(frozen=True, eq=False)
class FusedSum:
    """A sum layer with the products that it reads.

    Attributes:
        layer: The sum layer.
        factors: (n, F, 2) layer and fold of the factors of what each fold reads; `MISSING` twice
            after the last factor of a fold with less than n.
        units: (K,) for elementwise products, all of whose factors have K units; (K, K') for all
            pairs of a row of K and a row of K' units.
        num_units: Units O of the sum.
    """

    layer: int
    factors: np.ndarray
    units: tuple[int, ...]
    num_units: int

    @cached_property
    def pairs(self) -> bool:
        """Whether it reads all pairs of two rows, not their elementwise products."""
        return len(self.units) == 2

    @cached_property
    def num_folds(self) -> int:
        """Number of folds F."""
        return int(self.factors.shape[1])


def fused_sums(plan: Plan) -> tuple[FusedSum, ...] | None:
    """The sum layers; None if one reads something that has no factors."""
    factors: dict[int, np.ndarray | None] = {}
    pairs: dict[int, tuple[int, ...]] = {}
    sums: list[FusedSum] = []
    for i, layer in enumerate(plan.layers):
        folds = np.arange(num_folds(layer))
        match layer:
            case ProductLayer():
                factors[i] = _joined(factors, pairs, layer.operands)
            case SegmentProductLayer():
                factors[i] = _segments(layer, _joined(factors, pairs, layer.operands))
            case KroneckerLayer():
                factors[i] = _pair(_joined(factors, pairs, layer.operands), len(layer.operands))
                pairs[i] = layer.sizes
            case SumLayer():
                (first, *others) = layer.operands
                kinds = {pairs.get(source.layer) for source in first.sources}
                read = _gathered(factors, first)
                if others or len(kinds) > 1 or read is None:
                    return None
                units = kinds.pop() or layer.sizes
                sums.append(FusedSum(i, read, units, layer.num_units))
        if isinstance(layer, (InputLayer, SumLayer)):
            factors[i] = np.stack([np.full_like(folds, i), folds], axis=-1)[None]
    return tuple(sums)


def _joined(
    factors: Mapping[int, np.ndarray | None],
    pairs: Mapping[int, tuple[int, ...]],
    operands: Sequence[Operand],
) -> np.ndarray | None:
    """Factors of all operands; None if those of one are not known, or are pairs."""
    parts = []
    for operand in operands:
        own = _gathered(factors, operand)
        if own is None or any(source.layer in pairs for source in operand.sources):
            return None
        parts.append(own)
    return _missing_last(np.concatenate(parts))


def _pair(factors: np.ndarray | None, number: int) -> np.ndarray | None:
    """(2, F, 2) factors of all pairs of two operands; None if these are products themselves."""
    if factors is None or MISSING in factors:
        return None
    return factors if len(factors) == number == 2 else None


def _segments(layer: SegmentProductLayer, factors: np.ndarray | None) -> np.ndarray | None:
    """(n, F, 2) factors of products of unequal numbers of children, from those of the children."""
    if factors is None:
        return None
    most = int(layer.ranks.max()) + 1
    found = np.full((most, len(factors), layer.num_nodes, 2), MISSING)
    found[layer.ranks, :, layer.nodes] = factors.transpose(1, 0, 2)
    return _missing_last(found.reshape(-1, layer.num_nodes, 2))


def _missing_last(factors: np.ndarray) -> np.ndarray:
    """(n, F, 2) the same factors with those that are missing at the end, where no fold needs it."""
    order = np.argsort(factors[..., 0] == MISSING, axis=0, kind="stable")
    sorted_ = np.take_along_axis(factors, order[..., None], axis=0)
    return sorted_[: int((sorted_[..., 0] != MISSING).sum(0).max())]


def _gathered(factors: Mapping[int, np.ndarray | None], operand: Operand) -> np.ndarray | None:
    """(n, F, 2) factors of an operand's folds; None if those of one are not known."""
    found = [factors[source.layer] for source in operand.sources]
    known = [own for own in found if own is not None]
    if len(known) < len(found):
        return None
    most = max(map(len, known))
    parts = [
        _padded(own[:, source.index], most)
        for own, source in zip(known, operand.sources, strict=True)
    ]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return joined if operand.order is None else joined[:, operand.order]


def _padded(factors: np.ndarray, most: int) -> np.ndarray:
    """(most, F, 2) factors, those beyond the given ones missing."""
    missing = ((0, most - len(factors)), (0, 0), (0, 0))
    return np.pad(factors, missing, constant_values=MISSING)
