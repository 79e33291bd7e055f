"""What a picture of a circuit shows: vertices and edges, one for each unit or one for each node."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum
from pcircuits.viz.subject import Subject

_SHOWN_CATEGORIES = 6


@dataclass(frozen=True)
class Vertex:
    """One symbol of the picture.

    Attributes:
        kind: "input", "product" or "sum".
        node: The node it stands for.
        unit: The unit it stands for; None for all of the node's units.
        caption: What stands beside a sum or product, or inside an input; may be empty.
    """

    kind: str
    node: AnyNode
    unit: int | None
    caption: str


@dataclass(frozen=True)
class Edge:
    """One line of the picture.

    Attributes:
        parent: Number of the upper vertex.
        child: Number of the lower one.
        slot: Which child of the upper vertex's node the lower one's node is.
        weight: Weight of a sum's edge between single units, if known.
    """

    parent: int
    child: int
    slot: int
    weight: float | None


@dataclass(frozen=True)
class Diagram:
    """Vertices, each before those below it, and edges."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Names:
    """How variables and nodes are called.

    Attributes:
        variables: One name a variable.
        nodes: Whether names given to sums and products are shown.
    """

    variables: list[str]
    nodes: bool


def node_diagram(subject: Subject, names: Names) -> Diagram:
    """One vertex for each node; a weight is shown where the edge carries just one."""
    order = list(reversed(subject.circuit.nodes))
    place = {node: i for i, node in enumerate(order)}
    edges = [
        Edge(place[node], place[child], slot, _only_weight(subject, node, slot))
        for node in order
        for slot, child in enumerate(node.children)
    ]
    vertices = [Vertex(kind_of(n), n, None, _node_caption(n, names)) for n in order]
    return Diagram(tuple(vertices), tuple(edges))


def unit_diagram(subject: Subject, names: Names) -> Diagram:
    """One vertex for each unit that the root reaches by edges whose weight is not zero."""
    links = _unit_links(subject)
    order = [
        (node, unit)
        for node in reversed(subject.circuit.nodes)
        for unit in range(node.num_units)
        if (node, unit) in links
    ]
    place = {key: i for i, key in enumerate(order)}
    edges = [
        Edge(place[key], place[link.child], link.slot, link.weight)
        for key in order
        for link in links[key]
    ]
    vertices = [
        Vertex(kind_of(node), node, unit, _unit_caption(subject, node, unit, names))
        for node, unit in order
    ]
    return Diagram(tuple(vertices), tuple(edges))


def count_units(circuit: Circuit) -> tuple[int, int]:
    """Vertices and edges that a picture of all units would have."""
    vertices = sum(node.num_units for node in circuit.nodes)
    edges = 0
    for node in circuit.nodes:
        fan = node.num_inputs if isinstance(node, Sum) else len(node.children)
        edges += node.num_units * fan
    return vertices, edges


def kind_of(node: AnyNode) -> str:
    """What symbol a node gets: "input", "product" or "sum"."""
    if isinstance(node, Input):
        return "input"
    return "sum" if isinstance(node, Sum) else "product"


@dataclass(frozen=True)
class _Link:
    child: tuple[AnyNode, int]
    slot: int
    weight: float | None


def _unit_links(subject: Subject) -> dict[tuple[AnyNode, int], list[_Link]]:
    """Reached (node, unit) -> its edges downwards."""
    found: dict[tuple[AnyNode, int], list[_Link]] = {}
    reached: dict[AnyNode, set[int]] = {subject.circuit.root: {0}}
    for node in reversed(subject.circuit.nodes):
        rows = _Weights.of(subject, node)
        for unit in sorted(reached.get(node, ())):
            found[node, unit] = links = list(_links_of(node, unit, rows))
            for link in links:
                reached.setdefault(link.child[0], set()).add(link.child[1])
    return found


@dataclass(frozen=True)
class _Weights:
    """Weights of a sum as nested lists, or None where they are not known or all 1."""

    rows: list[list[float]] | None = field(default=None)
    shown: bool = field(default=False)

    @classmethod
    def of(cls, subject: Subject, node: AnyNode) -> _Weights:
        if not isinstance(node, Sum):
            return cls()
        log = subject.sum_log_weights(node)
        return cls() if log is None else cls(log.exp().tolist(), node.has_parameter)


def _links_of(node: AnyNode, unit: int, weights: _Weights) -> Iterator[_Link]:
    match node:
        case Product():
            yield from (
                _Link((child, unit), slot, None) for slot, child in enumerate(node.children)
            )
        case KroneckerProduct():
            for slot, child in enumerate(node.children):
                yield _Link((child, kronecker_unit(node, unit, slot)), slot, None)
        case Sum():
            for slot, (column, child_unit) in sum_columns(node, unit):
                weight = None if weights.rows is None else weights.rows[unit][column]
                if weight != 0.0:
                    shown = weight if weights.shown else None
                    yield _Link((node.children[slot], child_unit), slot, shown)


def sum_columns(node: Sum, unit: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(slot, (column of the weights, unit of the child)) of one unit's edges."""
    column = 0
    for slot, child in enumerate(node.children):
        if node.mixing:
            yield slot, (slot, unit if child.num_units > 1 else 0)
            continue
        for child_unit in range(child.num_units):
            yield slot, (column, child_unit)
            column += 1


def kronecker_unit(node: KroneckerProduct, unit: int, slot: int) -> int:
    """The unit of one child that enters a unit of the product, the last child's fastest."""
    faster = math.prod(child.num_units for child in node.children[slot + 1 :])
    return unit // faster % node.children[slot].num_units


def _only_weight(subject: Subject, node: AnyNode, slot: int) -> float | None:
    if not isinstance(node, Sum) or not node.has_parameter or node.num_units > 1:
        return None
    log = subject.sum_log_weights(node)
    if log is None or node.children[slot].num_units > 1:
        return None
    column = slot if node.mixing else sum(child.num_units for child in node.children[:slot])
    return float(log[0, column].exp())


def _node_caption(node: AnyNode, names: Names) -> str:
    units = "" if node.num_units == 1 else f"{node.num_units} units"
    own = node.name if names.nodes and node.name else ""
    if isinstance(node, Input):
        own = names.variables[node.variable]
    return "\n".join(filter(None, (own, units)))


def _unit_caption(subject: Subject, node: AnyNode, unit: int, names: Names) -> str:
    if not isinstance(node, Input):
        named = names.nodes and node.name and node.num_units == 1
        return node.name if named and node.name else ""
    name = names.variables[node.variable]
    if node.supports is not None:
        return f"{name} {_support_text(node.supports[unit])}"
    log = subject.input_log_weights(node)
    if log is None:
        return name
    return f"{name}\n{_distribution_text(log[unit].exp())}"


def _support_text(support: tuple[int, ...]) -> str:
    if len(support) == 1:
        return f"= {support[0]}"
    shown = ", ".join(str(category) for category in support[:_SHOWN_CATEGORIES])
    return f"∈ {{{shown}{', …' if len(support) > _SHOWN_CATEGORIES else ''}}}"


def _distribution_text(row: Tensor) -> str:
    """The probabilities of few categories, or the likeliest of many."""
    if len(row) > _SHOWN_CATEGORIES and bool((row == row.max()).all()):
        return f"uniform, {len(row)}"
    if len(row) <= _SHOWN_CATEGORIES:
        return "  ".join(_short(float(p)) for p in row)
    top = int(torch.argmax(row))
    return f"max {_short(float(row[top]))} at {top}"


def _short(probability: float) -> str:
    if probability in (0.0, 1.0):
        return f"{probability:.0f}"
    text = f"{probability:.2f}".lstrip("0")
    return text if text not in (".00", "1.00") else ("<.01" if probability < 0.5 else ">.99")
