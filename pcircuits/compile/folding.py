"""Which nodes become one layer: equal depth, kind, sizes and compatible parameters."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from pcircuits.compile.plan import Operand, Source
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

Place = tuple[int, int]

# Indicators of variables with more categories than this fold only with their equals, so that
# positions share one table.
_SHARED_SUPPORTS = 16


def fold(circuit: Circuit) -> list[list[AnyNode]]:
    """Groups the nodes of a circuit into layers, each after those that it reads.

    Nodes that share a parameter form layers of their own, so that a layer has either one parameter
    for all its folds or one for each. Products, and sums unit by unit, form one layer also where
    their numbers of children differ.
    """
    depths = _depths(circuit)
    groups: dict[tuple[int, Hashable], list[AnyNode]] = {}
    for node in circuit.nodes:
        groups.setdefault((depths[node], _signature(circuit, node)), []).append(node)
    # Python's sort is stable: groups of one depth stay in the order of their first nodes.
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def is_segmented(nodes: list[AnyNode]) -> bool:
    """Whether the nodes of a group differ in their numbers of children."""
    return len({len(node.children) for node in nodes}) > 1


def operand(places: list[Place]) -> Operand:
    """Describes how to gather the values at the given (layer, fold) places, in order."""
    layers, folds = np.array(places).T
    order = np.argsort(layers, kind="stable")
    distinct, first = np.unique(layers[order], return_index=True)
    parts = np.split(folds[order], first[1:])
    sources = tuple(_source(int(layer), part) for layer, part in zip(distinct, parts, strict=True))
    if np.array_equal(order, np.arange(len(places))):
        return Operand(sources, None)
    return Operand(sources, np.argsort(order))


def _depths(circuit: Circuit) -> dict[AnyNode, int]:
    depths: dict[AnyNode, int] = {}
    for node in circuit.nodes:
        depths[node] = max((depths[child] + 1 for child in node.children), default=0)
    return depths


def _signature(circuit: Circuit, node: AnyNode) -> Hashable:
    if isinstance(node, Input):
        shared = node.num_categories > _SHARED_SUPPORTS or node.num_units > 1
        supports = node.supports if shared else node.supports is not None
        return (Input, node.num_units, node.num_categories, _tie(circuit, node), supports)
    if isinstance(node, Product):
        return (Product, node.num_units)
    sizes = tuple(child.num_units for child in node.children)
    if isinstance(node, KroneckerProduct):
        return (KroneckerProduct, sizes)
    tie = _tie(circuit, node)
    # A sum of one unit over children of one unit is the same either way.
    if all(size == node.num_units for size in sizes) and (node.mixing or node.num_units == 1):
        return (Sum, node.num_units, tie, node.weighted)
    return (Sum, node.mixing, sizes, node.num_units, tie, node.weighted)


def _tie(circuit: Circuit, node: Input | Sum) -> Hashable:
    """What nodes of one layer agree on: a parameter that they share or hold parts of."""
    if not node.has_parameter:
        return None
    name = circuit.parameter_names[node]
    shared = len(circuit.parameter_owners[name]) > 1
    if isinstance(node.parameter, Part):
        return (name, "parts")
    # Unequal numbers of children do not share a parameter.
    return (name, len(node.children)) if shared else None


def _source(layer: int, folds: np.ndarray) -> Source:
    steps = np.diff(folds)
    step = int(steps[0]) if len(steps) else 1
    if step > 0 and np.all(steps == step):
        return Source(layer, slice(int(folds[0]), int(folds[-1]) + 1, step), len(folds))
    return Source(layer, folds, len(folds))
