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
    SumLayer,
    num_folds,
)


@dataclass(frozen=True, eq=False)
class FusedSum:
    """A sum layer with the products that it reads.

    Attributes:
        layer: The sum layer.
        factors: (n, F, 2) layer and fold of the factors of what each fold reads.
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
            case KroneckerLayer():
                joined = _joined(factors, pairs, layer.operands)
                is_pair = joined is not None and len(joined) == len(layer.operands) == 2
                factors[i], pairs[i] = joined if is_pair else None, layer.sizes
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
    return np.concatenate(parts)


def _gathered(factors: Mapping[int, np.ndarray | None], operand: Operand) -> np.ndarray | None:
    """(n, F, 2) factors of an operand's folds; None if they are not equally many in each."""
    parts: list[np.ndarray] = []
    for source in operand.sources:
        own = factors[source.layer]
        if own is None or (parts and len(own) != len(parts[0])):
            return None
        parts.append(own[:, source.index])
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return joined if operand.order is None else joined[:, operand.order]
