"""Writes a circuit down again with other inputs; what they leave on paper moves up to the sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pcircuits.operators.assembly import Assembler
from pcircuits.operators.tables import Weight, table_of, weight_of
from pcircuits.operators.units import Units, add, kronecker, product
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum

Leaf = Callable[[Input], Units]
"""What becomes of an input."""


def rewritten(
    assembler: Assembler, weighted: WeightedCircuit, leaf: Leaf, *, prefix: str = ""
) -> Units:
    """Adds all nodes of a circuit to an assembler, with new inputs.

    Args:
        assembler: Takes the nodes.
        weighted: The circuit.
        leaf: What becomes of an input.
        prefix: Put before the names of nodes and parameters.

    Returns:
        The root.
    """
    made: dict[AnyNode, Units] = {}
    for node in weighted.circuit.nodes:
        if isinstance(node, Input):
            made[node] = leaf(node)
            continue
        parts = [made[child] for child in node.children]
        made[node] = _inner(assembler, weighted, node, parts, prefix)
    return made[weighted.circuit.root]


def copied(
    assembler: Assembler,
    weighted: WeightedCircuit,
    node: Input,
    *,
    variable: int | None = None,
    prefix: str = "",
) -> Units:
    """Adds an input as it is, perhaps of another variable."""
    weight = prefixed(weight_of(weighted, node), prefix)
    content = node.supports if weight is None else weight
    assert content is not None, "an input has weights or supports"
    number = assembler.input(
        node.variable if variable is None else variable,
        node.num_categories,
        content,
        name=name_of(node, prefix),
    )
    return Units(node.num_units, number)


def _inner(
    assembler: Assembler,
    weighted: WeightedCircuit,
    node: Product | KroneckerProduct | Sum,
    parts: Sequence[Units],
    prefix: str,
) -> Units:
    name = name_of(node, prefix)
    match node:
        case Product():
            return product(assembler, parts, name)
        case KroneckerProduct():
            return kronecker(assembler, parts, name)
        case Sum():
            weight = prefixed(weight_of(weighted, node), prefix)
            table = table_of(weighted, node)
            return add(assembler, parts, weight, table, mixing=node.mixing, name=name)


def name_of(node: AnyNode, prefix: str) -> str | None:
    """The node's given name with a prefix; None if it has none."""
    return None if node.name is None else prefix + node.name


def prefixed(weight: Weight | None, prefix: str) -> Weight | None:
    """The weight under a name, and tied to others, with a prefix."""
    if weight is None or not prefix:
        return weight
    return replace(weight, name=prefix + weight.name, key=(prefix, weight.key))
