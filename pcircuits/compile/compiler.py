"""The compiler: circuit to plan."""

from __future__ import annotations

import numpy as np

from pcircuits.compile.folding import Place, fold, operand
from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Layer,
    MixingLayer,
    Plan,
    ProductLayer,
    SumLayer,
    WeightReference,
)
from pcircuits.errors import CompileError
from pcircuits.structure.nodes import AnyNode, Circuit, Input, KroneckerProduct, Sum


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
    shapes = {
        name: node.parameter_shape
        for node, name in circuit.parameter_names.items()
        if isinstance(node, (Input, Sum))
    }
    named = {circuit.node_names[node]: place for node, place in places.items()}
    return Plan(circuit, tuple(layers), shapes, named)


def _layer(circuit: Circuit, nodes: list[AnyNode], places: dict[AnyNode, Place]) -> Layer:
    first = nodes[0]
    operands = tuple(
        operand([places[node.children[slot]] for node in nodes])
        for slot in range(len(first.children))
    )
    sizes = tuple(child.num_units for child in first.children)
    if isinstance(first, Input):
        variables = np.array([node.variable for node in nodes if isinstance(node, Input)])
        return InputLayer(
            variables, first.num_units, first.num_categories, _weights(circuit, nodes)
        )
    if isinstance(first, Sum):
        kind = MixingLayer if first.mixing else SumLayer
        return kind(operands, sizes, first.num_units, _weights(circuit, nodes))
    if isinstance(first, KroneckerProduct):
        return KroneckerLayer(operands, sizes, first.num_units)
    return ProductLayer(operands, first.num_units)


def _weights(circuit: Circuit, nodes: list[AnyNode]) -> WeightReference:
    names = [circuit.parameter_names[node] for node in nodes]
    return WeightReference(tuple(dict.fromkeys(names)))
