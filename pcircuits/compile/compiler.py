"""The compiler: circuit to plan."""

from __future__ import annotations

import copyreg
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from pcircuits.compile.folding import Place, fold, is_segmented, operand
from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Layer,
    MixingLayer,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
    WeightReference,
)
from pcircuits.errors import CompileError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Sum

_MOST_CONSTANTS = 2**28


def compile_circuit(circuit: Circuit) -> Plan:
    """Compiles a circuit to a plan of folded layers.

    Args:
        circuit: The circuit; it is read and not changed.

    Returns:
        The plan; `print(plan)` shows its layers and cost.

    Raises:
        CompileError: If `circuit` is not a `Circuit`, or has indicators over absurdly many
            categories.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.binary_tree(8, num_units=4, num_categories=3))
        >>> plan.num_folds  # eight inputs at once, then four pairs, ...
        (8, 4, 4, 2, 2, 1, 1)
    """
    if not isinstance(circuit, Circuit):
        raise CompileError(f"expected a Circuit, found {type(circuit).__name__}")
    places: dict[AnyNode, Place] = {}
    layers: list[Layer] = []
    references = _References(circuit)
    for group in fold(circuit):
        ordered = sorted(group, key=lambda node: [places[child] for child in node.children])
        layers.append(_layer(references, ordered, places))
        places.update({node: (len(layers) - 1, i) for i, node in enumerate(ordered)})
    rows = {name: _rows(circuit, name) for name in circuit.parameter_shapes}
    named = {circuit.node_names[node]: place for node, place in places.items()}
    return Plan(circuit, tuple(layers), circuit.parameter_shapes, rows, named)


def _reduced(plan: Plan) -> tuple[Any, ...]:
    return compile_circuit, (plan.circuit,)


# For other processes: what is made of a circuit depends on nothing else.
copyreg.pickle(Plan, _reduced)


def _rows(circuit: Circuit, name: str) -> int | np.ndarray:
    lengths = circuit.parameter_rows[name]
    if lengths is None:
        return circuit.parameter_shapes[name][-1]
    distinct = set(lengths)
    if len(distinct) == 1:
        return distinct.pop()
    return np.repeat(np.arange(len(lengths)), lengths)


def _layer(references: _References, nodes: list[AnyNode], places: dict[AnyNode, Place]) -> Layer:
    first = nodes[0]
    if isinstance(first, Input):
        inputs = [node for node in nodes if isinstance(node, Input)]
        variables = np.array([node.variable for node in inputs])
        weights = references.of_inputs(inputs)
        return InputLayer(variables, first.num_units, first.num_categories, weights)
    if is_segmented(nodes):
        return _segment_layer(references, nodes, places)
    operands = tuple(
        operand([places[node.children[slot]] for node in nodes])
        for slot in range(len(first.children))
    )
    sizes = tuple(child.num_units for child in first.children)
    if isinstance(first, Sum):
        sums = [node for node in nodes if isinstance(node, Sum)]
        weights = references.of_sums(sums)
        # A mixture of single units is a product with a vector.
        if not first.mixing or first.num_units == 1:
            return SumLayer(operands, sizes, first.num_units, weights)
        size = _group_size([node.children for node in nodes])
        heads = nodes[::size]
        grouped = tuple(
            operand([places[node.children[slot]] for node in heads]) for slot in range(len(sizes))
        )
        return MixingLayer(operands, sizes, first.num_units, weights, size, grouped)
    if isinstance(first, KroneckerProduct):
        return KroneckerLayer(operands, sizes, first.num_units)
    return ProductLayer(operands, first.num_units)


def _group_size(children: Sequence[tuple[AnyNode, ...]]) -> int:
    """Largest H such that each H consecutive nodes, from the first on, have the same children."""
    lengths = [len(list(group)) for _, group in itertools.groupby(children)]
    return math.gcd(*lengths)


def _segment_layer(
    references: _References, nodes: list[AnyNode], places: dict[AnyNode, Place]
) -> Layer:
    counts = np.array([len(node.children) for node in nodes])
    owners = np.repeat(np.arange(len(nodes)), counts)
    ranks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    operands = (operand([places[child] for node in nodes for child in node.children]),)
    units = nodes[0].num_units
    sums = [node for node in nodes if isinstance(node, Sum)]
    if not sums:
        return SegmentProductLayer(operands, owners, ranks, len(nodes), units)
    weights = references.of_edges(sums)
    return SegmentSumLayer(operands, owners, ranks, len(nodes), units, weights)


class _References:
    """Makes weight references, the same one for the same weights."""

    def __init__(self, circuit: Circuit) -> None:
        self._names = circuit.parameter_names
        self._made: dict[Hashable, WeightReference] = {}
        self._numbers = 0

    def of_inputs(self, nodes: Sequence[Input]) -> WeightReference:
        """Weights of inputs: constant tables, parts of a table or whole ones."""
        first = nodes[0]
        supports = tuple(node.supports for node in nodes if node.supports is not None)
        if supports:
            # One table where all are equal.
            distinct = supports if len(set(supports)) > 1 else supports[:1]
            shape = (len(distinct), first.num_units, first.num_categories)
            return self._once((distinct, shape), lambda: self._indicators(distinct, shape))
        if not isinstance(first.parameter, Part):
            return self._whole(nodes)
        return self._parts(nodes, np.arange(first.num_units))

    def of_sums(self, nodes: Sequence[Sum]) -> WeightReference:
        """Weights of sums with equally many children."""
        first = nodes[0]
        shape = (first.num_units, first.num_inputs)
        if not first.weighted:
            return self._once(shape, lambda: self._ones((1, *shape)))
        if not isinstance(first.parameter, Part):
            return self._whole(nodes)
        return self._parts(nodes, _numbers(shape))

    def of_edges(self, nodes: Sequence[Sum]) -> WeightReference:
        """Weights of sums with unequal numbers of children, a row of K numbers an edge."""
        first = nodes[0]
        if not first.weighted:
            return self._ones((sum(len(node.children) for node in nodes), first.num_units))
        if isinstance(first.parameter, Part):
            names, starts = [self._names[first]], [_start(node) for node in nodes]
        else:
            names = [self._names[node] for node in nodes]
            sizes = [math.prod(node.parameter_shape) for node in nodes]
            starts = [0, *itertools.accumulate(sizes[:-1])]
        blocks = [
            start + _numbers((node.num_units, node.num_inputs)).T
            for start, node in zip(starts, nodes, strict=True)
        ]
        positions = np.concatenate(blocks)
        return WeightReference(tuple(names), _span(positions), positions.shape)

    def _indicators(
        self, supports: Sequence[tuple[tuple[int, ...], ...]], shape: tuple[int, ...]
    ) -> WeightReference:
        table = self._table(shape, -np.inf)
        for place, own in enumerate(supports):
            for unit, support in enumerate(own):
                table[place, unit, list(support)] = 0.0
        return WeightReference((), constant=table)

    def _ones(self, shape: tuple[int, ...]) -> WeightReference:
        return WeightReference((), constant=self._table(shape, 0.0))

    def _table(self, shape: tuple[int, ...], value: float) -> np.ndarray:
        """A table that no parameter holds; its size is a claim of the circuit alone."""
        self._numbers += math.prod(shape)
        if self._numbers > _MOST_CONSTANTS:
            raise CompileError(
                f"indicators and sums without weights need tables of {self._numbers} numbers; "
                f"expected at most {_MOST_CONSTANTS}"
            )
        return np.full(shape, value)

    def _whole(self, nodes: Sequence[Input | Sum]) -> WeightReference:
        names = tuple(dict.fromkeys(self._names[node] for node in nodes))
        return self._once(names, lambda: WeightReference(names))

    def _parts(self, nodes: Sequence[Input | Sum], numbers: np.ndarray) -> WeightReference:
        """Of nodes that hold the same numbers of one parameter, each from its start on."""
        name, starts = self._names[nodes[0]], tuple(_start(node) for node in nodes)

        def make() -> WeightReference:
            positions = np.stack([start + numbers for start in starts])
            return WeightReference((name,), _span(positions), positions.shape)

        return self._once((name, starts, numbers.shape), make)

    def _once(self, key: Hashable, make: Callable[[], WeightReference]) -> WeightReference:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _span(positions: np.ndarray) -> slice | np.ndarray:
    """Consecutive positions as a slice, others flattened."""
    flat = positions.ravel()
    if np.all(np.diff(flat) == 1):
        return slice(int(flat[0]), int(flat[-1]) + 1)
    return flat


def _numbers(shape: tuple[int, ...]) -> np.ndarray:
    """0, 1, 2, ... in a shape."""
    return np.arange(math.prod(shape)).reshape(shape)


def _start(node: Input | Sum) -> int:
    assert isinstance(node.parameter, Part)
    return node.parameter.start
