"""Which circuits are evaluated in linear space, and where each of their values is kept.

Values of all sums with the same number of units K lie one after the other in one array of rows,
an arena. Sums read elementwise products of rows, or all pairs of two, so products are no layer of
their own. A place counts folds: inputs of K units first, then the sums. Every row is read once:
what two sums read would meet again in a sum with two operands, and there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from weakref import WeakKeyDictionary

import numpy as np

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SumLayer,
    WeightReference,
    num_folds,
)
from pcircuits.execute.fused.sums import MISSING, FusedSum, fused_sums


@dataclass(frozen=True, eq=False)
class Run:
    """Sums one after the other over products of equally many units: one compiled call for all.

    Attributes:
        sums: The sums; a single one if it reads pairs.
        products: (S,) first folds of what they read in an arena of elementwise products.
        tables: (S,) which of the program's tables their weights are.
        adds: (S,) whether a later sum has the same one.
        num_units: (S,) units of each.
        arenas: (S,) arena of each, counted as in `Program.input_folds`.
        shapes: (S, 2) numbers of factors n and folds F of each.
        starts: (S,) where the n * F factors of each begin, in a list of those of all.
    """

    sums: tuple[FusedSum, ...]
    products: np.ndarray
    tables: np.ndarray
    adds: np.ndarray
    num_units: np.ndarray
    arenas: np.ndarray
    shapes: np.ndarray
    starts: np.ndarray

    @property
    def units(self) -> tuple[int, ...]:
        """Units of what they read, as of one of them."""
        return self.sums[0].units

    def factors_of(self, places: np.ndarray, number: int) -> np.ndarray:
        """(n, F) places of a sum's factors, out of those of all."""
        start, (count, folds) = self.starts[number], self.shapes[number]
        return places[start : start + count * folds].reshape(count, folds)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where values are kept.

    Attributes:
        firsts: Of each run, the (S,) first folds of its sums in their arena.
        factors: Of each run, the places of its sums' factors, as `Run.factors_of` takes them;
            `MISSING` where there is none.
        folds: Units -> folds of the arena.
    """

    firsts: tuple[np.ndarray, ...]
    factors: tuple[np.ndarray, ...]
    folds: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Program:
    """A plan as sums over products of rows.

    Attributes:
        sums: The sum layers, each after those it reads; the last one is the root.
        runs: The same in runs.
        tables: Of each table of weights, a sum layer that has it.
        inputs: Units -> the input layers with so many, in the order of their places.
        input_starts: Input layer -> place of its first fold.
        input_folds: Units -> folds of these; one entry for each arena.
        kept: The layout in which every sum has a place of its own.
        reused: The layout in which a sum's place is free again after its last reader.
        rereads: Whether the way down reads values of sums: what one of them is multiplied with
            is an input, or nothing, in a chain.
        product_folds: Units -> folds of an arena of all elementwise products.
        products_of_inputs: Units -> for the folds of inputs of so many, in which fold of the
            arena of all elementwise products each is a factor; only where no product has two
            inputs, or more than two factors.
        product_folds_at_once: Units -> folds of one for those of a sum at a time.
        num_values: Values of all layers for one example.
    """

    sums: tuple[FusedSum, ...]
    runs: tuple[Run, ...]
    tables: tuple[int, ...]
    inputs: Mapping[int, tuple[int, ...]]
    input_starts: Mapping[int, int]
    input_folds: Mapping[int, int]
    kept: Layout
    reused: Layout
    rereads: bool
    product_folds: Mapping[int, int]
    products_of_inputs: Mapping[int, Sequence[int]]
    product_folds_at_once: Mapping[int, int]
    num_values: int


_PROGRAMS: WeakKeyDictionary[Plan, Program | None] = WeakKeyDictionary()


def program_of(plan: Plan) -> Program | None:
    """The program of a plan; None if some layer is not a sum over products of inputs and sums."""
    if plan not in _PROGRAMS:
        _PROGRAMS[plan] = _program(plan)
    return _PROGRAMS[plan]


def _program(plan: Plan) -> Program | None:
    root = plan.layers[-1]
    kinds = (InputLayer, ProductLayer, SegmentProductLayer, KroneckerLayer, SumLayer)
    if not isinstance(root, SumLayer) or root.num_units != 1:
        return None
    sums = fused_sums(plan) if all(isinstance(layer, kinds) for layer in plan.layers) else None
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
    input_layers = [i for layers in inputs.values() for i in layers]
    tables = _tables(plan, sums)
    runs, product_folds = _runs(sums, [tables[own.layer] for own in sums], list(count))
    kept = _layout(runs, starts, count, reuse=False)
    return Program(
        sums=sums,
        runs=runs,
        tables=tuple({number: layer for layer, number in tables.items()}.values()),
        inputs=inputs,
        input_starts=starts,
        input_folds=count,
        kept=kept,
        reused=_layout(runs, starts, count, reuse=True),
        rereads=any(_rereads(own, input_layers) for own in sums),
        product_folds=product_folds,
        products_of_inputs=_products_of_inputs(runs, kept, count),
        product_folds_at_once={
            units: max((own.num_folds for own in sums if own.units == (units,)), default=0)
            for units in product_folds
        },
        num_values=sum(
            num_folds(layer) * layer.num_units
            for layer in plan.layers
            if isinstance(layer, (InputLayer, SumLayer))
        ),
    )


def _rereads(own: FusedSum, inputs: Sequence[int]) -> bool:
    num_sums = (~np.isin(own.factors[..., 0], (*inputs, MISSING))).sum(0).max()
    return own.pairs or bool(num_sums > 1 or (num_sums == 1 and len(own.factors) > 2))


def _tables(plan: Plan, sums: Sequence[FusedSum]) -> dict[int, int]:
    """Sum layer -> number of its table of weights."""
    numbers: dict[WeightReference, int] = {}
    found = {}
    for own in sums:
        layer = plan.layers[own.layer]
        assert isinstance(layer, SumLayer)
        found[own.layer] = numbers.setdefault(layer.weights, len(numbers))
    return found


def _runs(
    sums: Sequence[FusedSum], tables: Sequence[int], arenas: Sequence[int]
) -> tuple[tuple[Run, ...], dict[int, int]]:
    """Runs, and how many folds of elementwise products there are for each K."""
    alike = groupby(enumerate(sums), lambda own: (own[1].units, own[1].pairs and own[0]))
    folds: dict[int, int] = {}
    runs = []
    for (units, _), group in alike:
        places, members = zip(*group, strict=True)
        shapes = np.array([own.factors.shape[:2] for own in members])
        first = folds.get(units[0], 0)
        ends = np.cumsum(shapes[:, 1])
        if len(units) == 1:
            folds[units[0]] = first + int(ends[-1])
        runs.append(
            Run(
                sums=members,
                products=first + ends - shapes[:, 1],
                tables=np.array([tables[n] for n in places]),
                adds=np.array([tables[n] in tables[n + 1 :] for n in places]),
                num_units=np.array([own.num_units for own in members]),
                arenas=np.array([arenas.index(own.num_units) for own in members]),
                shapes=shapes,
                starts=np.cumsum(shapes.prod(1)) - shapes.prod(1),
            )
        )
    return tuple(runs), folds


def _products_of_inputs(
    runs: Sequence[Run], layout: Layout, input_folds: Mapping[int, int]
) -> dict[int, list[int]]:
    """See `Program.products_of_inputs`."""
    found = {units: np.zeros(folds, np.int64) for units, folds in input_folds.items()}
    for run, places in zip(runs, layout.factors, strict=True):
        for number, own in enumerate(run.sums):
            factors = run.factors_of(places, number)
            is_input = (factors != MISSING) & (factors < input_folds[own.units[0]])
            if own.pairs or len(factors) > 2 or is_input.sum(0).max() > 1:
                for units in own.units:
                    found.pop(units, None)
            elif own.units[0] in found:
                folds = run.products[number] + np.arange(own.num_folds)
                found[own.units[0]][factors[is_input]] = folds[is_input.nonzero()[1]]
    return {units: folds.tolist() for units, folds in found.items()}


def _layout(
    runs: Sequence[Run],
    inputs: Mapping[int, int],
    input_folds: Mapping[int, int],
    *,
    reuse: bool,
) -> Layout:
    """Places of all sums, found in the order of evaluation; the first that is free and fits."""
    sums = [own for run in runs for own in run.sums]
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
        np.concatenate([_places(own.factors, offsets).ravel() for own in run.sums]) for run in runs
    )
    firsts = tuple(np.array([starts[own.layer] for own in run.sums]) for run in runs)
    return Layout(firsts, factors, folds)


def _places(factors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n, F) places of factors, from where each layer's folds begin."""
    layers, folds = factors[..., 0], factors[..., 1]
    return np.where(layers == MISSING, MISSING, offsets[layers] + folds)
