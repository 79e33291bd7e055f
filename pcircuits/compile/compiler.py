"""The compiler: circuit to plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from pcircuits.structure.nodes import AnyNode, Circuit, Input, KroneckerProduct, Part, Sum


def compile_circuit(circuit: Circuit) -> Plan:
    """Compiles a circuit to a plan of folded layers.

    Args:
        circuit: The circuit; it is read and not changed.

    Returns:
        The plan; `print(plan)` shows its layers and cost.

    Raises:
        CompileError: If `circuit` is not a `Circuit`.
    """
    if not isinstance(circuit, Circuit):
        raise CompileError(f"expected a Circuit, found {type(circuit).__name__}")
    places: dict[AnyNode, Place] = {}
    layers: list[Layer] = []
    for group in fold(circuit):
        ordered = sorted(group, key=lambda node: [places[child] for child in node.children])
        layers.append(_layer(circuit, ordered, places))
        places.update({node: (len(layers) - 1, i) for i, node in enumerate(ordered)})
    rows = {
        name: None if lengths is None else np.repeat(np.arange(len(lengths)), lengths)
        for name, lengths in circuit.parameter_rows.items()
    }
    named = {circuit.node_names[node]: place for node, place in places.items()}
    return Plan(circuit, tuple(layers), circuit.parameter_shapes, rows, named)


def _layer(circuit: Circuit, nodes: list[AnyNode], places: dict[AnyNode, Place]) -> Layer:
    first = nodes[0]
    if isinstance(first, Input):
        inputs = [node for node in nodes if isinstance(node, Input)]
        variables = np.array([node.variable for node in inputs])
        weights = _input_weights(circuit, inputs)
        return InputLayer(variables, first.num_units, first.num_categories, weights)
    if is_segmented(nodes):
        return _segment_layer(circuit, nodes, places)
    operands = tuple(
        operand([places[node.children[slot]] for node in nodes])
        for slot in range(len(first.children))
    )
    sizes = tuple(child.num_units for child in first.children)
    if isinstance(first, Sum):
        sums = [node for node in nodes if isinstance(node, Sum)]
        # A mixture of single units is a product with a vector.
        kind = MixingLayer if first.mixing and first.num_units > 1 else SumLayer
        return kind(operands, sizes, first.num_units, _sum_weights(circuit, sums))
    if isinstance(first, KroneckerProduct):
        return KroneckerLayer(operands, sizes, first.num_units)
    return ProductLayer(operands, first.num_units)


def _segment_layer(circuit: Circuit, nodes: list[AnyNode], places: dict[AnyNode, Place]) -> Layer:
    counts = np.array([len(node.children) for node in nodes])
    owners = np.repeat(np.arange(len(nodes)), counts)
    ranks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    operands = (operand([places[child] for node in nodes for child in node.children]),)
    units = nodes[0].num_units
    sums = [node for node in nodes if isinstance(node, Sum)]
    if not sums:
        return SegmentProductLayer(operands, owners, ranks, len(nodes), units)
    weights = _edge_weights(circuit, sums)
    return SegmentSumLayer(operands, owners, ranks, len(nodes), units, weights)


def _input_weights(circuit: Circuit, nodes: Sequence[Input]) -> WeightReference:
    first = nodes[0]
    if first.supports is not None:
        # One table where all are equal.
        distinct = nodes[:1] if len({node.supports for node in nodes}) == 1 else nodes
        table = np.full((len(distinct), first.num_units, first.num_categories), -np.inf)
        for fold, node in enumerate(distinct):
            for unit, support in enumerate(node.supports or ()):
                table[fold, unit, list(support)] = 0.0
        return WeightReference((), constant=table)
    if isinstance(first.parameter, Part):
        starts = np.array([_start(node) for node in nodes])
        positions = starts[:, None] + np.arange(first.num_units)
        return WeightReference((circuit.parameter_names[first],), positions)
    return _whole(circuit, nodes)


def _sum_weights(circuit: Circuit, nodes: Sequence[Sum]) -> WeightReference:
    first = nodes[0]
    shape = (first.num_units, first.num_inputs)
    if not first.weighted:
        return WeightReference((), constant=np.zeros((1, *shape)))
    if isinstance(first.parameter, Part):
        starts = np.array([_start(node) for node in nodes])
        positions = starts[:, None, None] + np.arange(math.prod(shape)).reshape(shape)
        return WeightReference((circuit.parameter_names[first],), positions)
    return _whole(circuit, nodes)


def _edge_weights(circuit: Circuit, nodes: Sequence[Sum]) -> WeightReference:
    """Weights of sums with unequal numbers of children, one row of K numbers an edge."""
    first = nodes[0]
    if not first.weighted:
        edges = sum(len(node.children) for node in nodes)
        return WeightReference((), constant=np.zeros((edges, first.num_units)))
    if isinstance(first.parameter, Part):
        names: tuple[str, ...] = (circuit.parameter_names[first],)
        starts = [_start(node) for node in nodes]
    else:
        names = tuple(circuit.parameter_names[node] for node in nodes)
        sizes = [math.prod(node.parameter_shape) for node in nodes]
        starts = [int(end) - size for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
    blocks = [
        start + np.arange(node.num_units * node.num_inputs).reshape(node.num_units, -1).T
        for start, node in zip(starts, nodes, strict=True)
    ]
    return WeightReference(names, np.concatenate(blocks))


def _whole(circuit: Circuit, nodes: Sequence[Input | Sum]) -> WeightReference:
    names = [circuit.parameter_names[node] for node in nodes]
    return WeightReference(tuple(dict.fromkeys(names)))


def _start(node: Input | Sum) -> int:
    assert isinstance(node.parameter, Part)
    return node.parameter.start
