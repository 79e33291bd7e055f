"""Which circuits are evaluated in linear space, and where each of their values is kept.

Values of all sums with the same number of units K lie one after the other in one array of rows,
an arena. Sums read elementwise products of rows, or all pairs of two, so products are no layer of
their own. A place counts folds: inputs of K units first, then the sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

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


@dataclass(frozen=True, eq=False)
class Layout:
    """Where values are kept.

    Attributes:
        starts: Sum layer -> its first fold in its arena.
        factors: Of each sum, the (n, F) places of its factors.
        folds: Units -> folds of the arena.
    """

    starts: Mapping[int, int]
    factors: tuple[np.ndarray, ...]
    folds: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Program:
    """A plan as sums over products of rows.

    Attributes:
        sums: The sum layers, each after those it reads; the last one is the root.
        inputs: Units -> the input layers with so many, in the order of their places.
        input_folds: Units -> folds of these.
        kept: The layout in which every sum has a place of its own.
        reused: The layout in which a sum's place is free again after its last reader.
        once: Whether every fold is read exactly once.
        num_values: Values of all layers for one example.
    """

    sums: tuple[FusedSum, ...]
    inputs: Mapping[int, tuple[int, ...]]
    input_folds: Mapping[int, int]
    kept: Layout
    reused: Layout
    once: bool
    num_values: int


_PROGRAMS: WeakKeyDictionary[Plan, Program | None] = WeakKeyDictionary()


def program_of(plan: Plan) -> Program | None:
    """The program of a plan; None if some layer is not a sum over products of inputs and sums."""
    if plan not in _PROGRAMS:
        _PROGRAMS[plan] = _program(plan)
    return _PROGRAMS[plan]


def _program(plan: Plan) -> Program | None:
    root, kinds = plan.layers[-1], (InputLayer, ProductLayer, KroneckerLayer, SumLayer)
    if not isinstance(root, SumLayer) or root.num_units != 1:
        return None
    sums = _sums(plan) if all(isinstance(layer, kinds) for layer in plan.layers) else None
    if sums is None:
        return None
    inputs: dict[int, tuple[int, ...]] = {}
    starts: dict[int, int] = {}
    count = dict.fromkeys((own.num_units for own in sums), 0)
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer):
            inputs[layer.num_units] = (*inputs.get(layer.num_units, ()), i)
            starts[i] = count.get(layer.num_units, 0)
            count[layer.num_units] = starts[i] + num_folds(layer)
    read = np.concatenate([own.factors.reshape(-1, 2) for own in sums])
    return Program(
        sums=sums,
        inputs=inputs,
        input_folds=count,
        kept=_layout(sums, starts, count, reuse=False),
        reused=_layout(sums, starts, count, reuse=True),
        once=len(np.unique(read, axis=0)) == len(read),
        num_values=sum(
            num_folds(layer) * layer.num_units
            for layer in plan.layers
            if isinstance(layer, (InputLayer, SumLayer))
        ),
    )


def _sums(plan: Plan) -> tuple[FusedSum, ...] | None:
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


def _layout(
    sums: Sequence[FusedSum],
    inputs: Mapping[int, int],
    input_folds: Mapping[int, int],
    *,
    reuse: bool,
) -> Layout:
    """Places of all sums, found in the order of evaluation; the first that is free and fits."""
    last = {int(layer): n for n, own in enumerate(sums) for layer in np.unique(own.factors[..., 0])}
    starts: dict[int, int] = {}
    folds: dict[int, int] = {own.num_units: 0 for own in sums}
    live: dict[int, list[tuple[int, int, int]]] = {own.num_units: [] for own in sums}
    for n, own in enumerate(sums):
        # What this sum reads is still in use while it is computed.
        used = live[own.num_units] = [
            block for block in live[own.num_units] if not reuse or block[2] >= n
        ]
        start = 0
        for begin, end, _ in sorted(used):
            if begin - start >= own.num_folds:
                break
            start = max(start, end)
        starts[own.layer] = start
        used.append((start, start + own.num_folds, last.get(own.layer, len(sums))))
        folds[own.num_units] = max(folds[own.num_units], start + own.num_folds)
    units = {own.layer: own.num_units for own in sums}
    first = {**inputs, **{i: input_folds[units[i]] + start for i, start in starts.items()}}
    offsets = np.zeros(max(first) + 1, dtype=np.int64)
    offsets[list(first)] = list(first.values())
    factors = tuple(
        np.ascontiguousarray(offsets[own.factors[..., 0]] + own.factors[..., 1]) for own in sums
    )
    return Layout(starts, factors, folds)
