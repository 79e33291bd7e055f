"""Which nodes become one layer: equal depth, kind, sizes and compatible parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import numpy as np

from pcircuits.compile.plan import Operand, Source
from pcircuits.structure.nodes import AnyNode, Circuit, Input, KroneckerProduct, Sum

Place = tuple[int, int]


def fold(circuit: Circuit) -> list[list[AnyNode]]:
    """Groups the nodes of a circuit into layers, each after those that it reads.

    Nodes that share a parameter form layers of their own, so that a layer has either one parameter
    for all its folds or one for each.
    """
    depths = _depths(circuit)
    uses = Counter(circuit.parameter_names.values())
    groups: dict[tuple[int, Hashable], list[AnyNode]] = {}
    for node in circuit.nodes:
        groups.setdefault((depths[node], _signature(circuit, node, uses)), []).append(node)
    # Python's sort is stable: groups of one depth stay in the order of their first nodes.
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def operand(places: list[Place]) -> Operand:
    """Describes how to gather the values at the given (layer, fold) places, in order."""
    layers = np.array([layer for layer, _ in places])
    folds = np.array([fold for _, fold in places])
    order = np.argsort(layers, kind="stable")
    sources = tuple(_source(int(layer), folds[layers == layer]) for layer in np.unique(layers))
    if np.array_equal(order, np.arange(len(places))):
        return Operand(sources, None)
    return Operand(sources, np.argsort(order))


def _depths(circuit: Circuit) -> dict[AnyNode, int]:
    depths: dict[AnyNode, int] = {}
    for node in circuit.nodes:
        depths[node] = 1 + max((depths[child] for child in node.children), default=-1)
    return depths


def _signature(circuit: Circuit, node: AnyNode, uses: Counter[str]) -> Hashable:
    name = circuit.parameter_names.get(node)
    tie = name if name is not None and uses[name] > 1 else None
    sizes = tuple(child.num_units for child in node.children)
    if isinstance(node, Input):
        return (Input, node.num_units, node.num_categories, tie)
    if isinstance(node, Sum):
        return (Sum, node.mixing, sizes, node.num_units, tie)
    if isinstance(node, KroneckerProduct):
        return (KroneckerProduct, sizes)
    return (type(node), len(sizes), node.num_units)


def _source(layer: int, folds: np.ndarray) -> Source:
    steps = np.diff(folds)
    if len(folds) == 1 or (steps[0] > 0 and np.all(steps == steps[0])):
        step = int(steps[0]) if len(folds) > 1 else 1
        return Source(layer, slice(int(folds[0]), int(folds[-1]) + 1, step), len(folds))
    return Source(layer, folds, len(folds))
