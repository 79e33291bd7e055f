"""Circuits as `networkx` graphs of single sum, product and input nodes, and back.

A node of the graph has the attribute `kind`: "sum", "product" or "input". Edges lead from a node to
its children, those of a sum with the attribute `weight`. An input has `variable` and either
`probabilities`, one a category, or `support`, the categories on which it is 1, with
`num_categories`. Children are taken in the order in which their edges were added.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Mapping
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from pcircuits.errors import FormatError, shown
from pcircuits.parameters import WeightedCircuit
from pcircuits.scalars import ScalarBuilder
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum


def weighted_from_networkx(graph: nx.DiGraph) -> WeightedCircuit:
    """Reads a circuit and its weights from a graph.

    Nodes become nodes of one unit under their own names (`str` of them); equal depths are folded
    when the circuit is compiled, whatever their numbers of children. All weights of sums together
    are one parameter and all input rows of one number of categories another. A sum none of whose
    edges has a weight is a plain sum: all of its weights are 1.

    Args:
        graph: A directed acyclic graph with one node that nothing leads to, the root.

    Returns:
        The circuit and its log-weights in float64, as given: they need not be normalised.

    Raises:
        FormatError: If the graph has a cycle or several roots, or an attribute is missing or of
            a wrong form.
        StructureError: If the circuit is not smooth or not decomposable.

    Examples:
        Rain, and grass that is wet more often if it rains:

        >>> import networkx as nx
        >>> graph = nx.DiGraph()
        >>> graph.add_node("rain?", kind="sum")
        >>> for rain, p_rain, p_wet in ((0, 0.8, 0.4), (1, 0.2, 0.9)):
        ...     indicator = {"variable": 0, "support": [rain], "num_categories": 2}
        ...     table = {"variable": 1, "probabilities": [1 - p_wet, p_wet]}
        ...     graph.add_node(f"rain={rain}", kind="input", **indicator)
        ...     graph.add_node(f"wet|{rain}", kind="input", **table)
        ...     graph.add_node(f"case {rain}", kind="product")
        ...     graph.add_edge(f"case {rain}", f"rain={rain}")
        ...     graph.add_edge(f"case {rain}", f"wet|{rain}")
        ...     graph.add_edge("rain?", f"case {rain}", weight=p_rain)
        >>> model = pc.CircuitModel.of(pc.weighted_from_networkx(graph))
        >>> wet = pc.Evidence(torch.tensor([[0, 1]]), torch.tensor([[False, True]]))
        >>> round(model.marginals(wet)[0, 0, 1].item(), 2)  # P(rain | wet)
        0.36
        >>> ax = pc.viz.draw(model, variable_names=["rain", "wet"])
    """
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph() or not len(graph):
        raise FormatError(f"expected a networkx DiGraph with nodes; found {graph!r}")
    roots = [node for node, degree in graph.in_degree() if degree == 0]
    try:
        order = list(nx.topological_sort(graph))
    except nx.NetworkXUnfeasible as error:
        cycle = [edge[0] for edge in nx.find_cycle(graph)]
        raise FormatError(f"a circuit has no cycle; found {cycle}") from error
    if len(roots) != 1:
        raise FormatError(f"expected one node that no edge leads to, the root; found {roots[:8]}")
    builder, made = ScalarBuilder(), dict[Hashable, int]()
    for node in reversed(order):
        made[node] = _add(builder, graph, node, made)
    return builder.build(made[roots[0]])


def from_networkx(graph: nx.DiGraph) -> Circuit:
    """The circuit of a graph, without its weights; see `weighted_from_networkx`.

    Args:
        graph: A directed acyclic graph with one node that nothing leads to, the root.

    Returns:
        The circuit.

    Raises:
        FormatError: If the graph has a cycle or several roots, or an attribute is missing or of
            a wrong form.
        StructureError: If the circuit is not smooth or not decomposable.

    Examples:
        >>> import networkx as nx
        >>> graph = pc.to_networkx(pc.families.chow_liu([-1, 0], num_categories=2))
        >>> isinstance(graph, nx.DiGraph), graph.number_of_nodes()
        (True, 9)
        >>> circuit = pc.from_networkx(graph)
        >>> pc.validate(circuit).num_nodes, pc.validate(circuit).deterministic
        (9, True)
    """
    return weighted_from_networkx(graph).circuit


def to_networkx(
    circuit: Circuit | WeightedCircuit, log_weights: Mapping[str, Tensor] | None = None
) -> nx.DiGraph:
    """Writes a circuit as a graph of single units, in the form that `from_networkx` reads.

    Unit k of the node `name` becomes the node `name`, or `name[k]` if there are several. Edges of
    a sum whose weight is zero are left out. Parallel edges (a child twice) are not representable.

    Args:
        circuit: The circuit, or one with its weights.
        log_weights: Name -> log-weights. Without any, sums have no `weight` and inputs that are
            not indicators have equal `probabilities`.

    Returns:
        A directed acyclic graph.

    Raises:
        FormatError: If a sum or product has the same unit of a child twice, or a unit has no
            child left.

    Examples:
        >>> graph = pc.to_networkx(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> sorted(graph.nodes[node]["kind"] for node in graph)
        ['input', 'input', 'input', 'input', 'product', 'product', 'sum']
    """
    if isinstance(circuit, WeightedCircuit):
        return to_networkx(circuit.circuit, circuit.log_weights)
    graph = nx.DiGraph()
    for node in circuit.nodes:
        weights = _weights(circuit, node, log_weights)
        for unit in range(node.num_units):
            name = _unit_name(circuit, node, unit)
            graph.add_node(name, **_attributes(node, unit, weights))
            if not isinstance(node, Input):
                _add_edges(graph, circuit, node, unit, weights)
    root = _unit_name(circuit, circuit.root, 0)
    reached = nx.descendants(graph, root) | {root}
    graph.remove_nodes_from([name for name in list(graph) if name not in reached])
    return graph


def _add(
    builder: ScalarBuilder, graph: nx.DiGraph, node: Hashable, made: Mapping[Hashable, int]
) -> int:
    attributes = graph.nodes[node]
    kind, name = attributes.get("kind"), str(node)
    if kind == "input":
        return _add_input(builder, node, attributes, len(graph))
    edges = graph.adj[node]
    children = [made[child] for child in edges]
    if not children:
        raise FormatError(
            f"node {node!r} of kind {shown(kind)} has no children; only inputs have none"
        )
    if kind == "product":
        return builder.add_product(children, name=name)
    if kind == "sum":
        return builder.add_sum(children, _edge_log_weights(node, edges), name=name)
    raise FormatError(
        f"node {node!r}: kind must be 'sum', 'product' or 'input'; found {shown(kind)}"
    )


def _add_input(
    builder: ScalarBuilder, node: Hashable, attributes: Mapping[str, Any], num_nodes: int
) -> int:
    variable = attributes.get("variable")
    # Every variable has a node: a larger index would cost memory before any other check.
    if type(variable) is not int or not 0 <= variable < num_nodes:
        raise FormatError(
            f"input {node!r}: variable must be an integer from 0 to {num_nodes - 1}, less than the "
            f"number of nodes; found {shown(variable)}"
        )
    if attributes.get("support") is not None:
        size = attributes.get("num_categories")
        if type(size) is not int or size < 1:
            raise FormatError(
                f"input {node!r} has a support; expected num_categories >= 1 beside it, found "
                f"{shown(size)}"
            )
        support = [operator.index(c) for c in _listed(node, "support", attributes["support"])]
        return builder.add_indicator(variable, support, size, name=str(node))
    found = _listed(node, "probabilities", attributes.get("probabilities", ()))
    if not found:
        raise FormatError(f"input {node!r} has neither `probabilities` nor `support`")
    return builder.add_input(variable, [_log(node, p) for p in found], name=str(node))


def _edge_log_weights(node: Hashable, edges: Mapping[Hashable, Any]) -> list[float] | None:
    weights = [attributes.get("weight") for attributes in edges.values()]
    if all(weight is None for weight in weights):
        return None
    if any(weight is None for weight in weights):
        raise FormatError(f"sum {node!r}: some of its edges have a weight, others not")
    return [_log(node, weight) for weight in weights]


def _listed(node: Hashable, what: str, value: Any) -> list[Any]:
    """The numbers of an attribute, whatever kind of sequence it is."""
    try:
        numbers = list(value)
        for number in numbers:
            (operator.index if what == "support" else float)(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(
            f"input {node!r}: {what} must be a list of numbers; found {shown(value)}"
        ) from error
    return numbers


def _log(node: Hashable, number: Any) -> float:
    try:
        weight = math.nan if isinstance(number, str) else float(number)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise FormatError(f"node {node!r}: expected weights >= 0; found {shown(number)}")
    return math.log(weight) if weight > 0 else -math.inf


def _unit_name(circuit: Circuit, node: AnyNode, unit: int) -> str:
    name = circuit.node_names[node]
    return name if node.num_units == 1 else f"{name}[{unit}]"


def _weights(
    circuit: Circuit, node: AnyNode, log_weights: Mapping[str, Tensor] | None
) -> list[list[float]] | None:
    """(K, C or V) weights of a node's units; None where it has none, or none are given."""
    if not isinstance(node, (Input, Sum)) or not node.has_parameter or log_weights is None:
        return None
    tensor = log_weights[circuit.parameter_names[node]]
    if isinstance(node.parameter, Part):
        rows = node.num_units if isinstance(node, Input) else math.prod(node.parameter_shape)
        tensor = tensor[node.parameter.start : node.parameter.start + rows]
    linear: list[list[float]] = torch.exp(tensor.detach()).view(node.num_units, -1).tolist()
    return linear


def _attributes(node: AnyNode, unit: int, weights: list[list[float]] | None) -> dict[str, Any]:
    if not isinstance(node, Input):
        return {"kind": "sum" if isinstance(node, Sum) else "product"}
    found = {"kind": "input", "variable": node.variable, "num_categories": node.num_categories}
    if node.supports is not None:
        return found | {"support": node.supports[unit]}
    equal = [1.0 / node.num_categories] * node.num_categories
    return found | {"probabilities": equal if weights is None else weights[unit]}


def _add_edges(
    graph: nx.DiGraph,
    circuit: Circuit,
    node: Product | KroneckerProduct | Sum,
    unit: int,
    weights: list[list[float]] | None,
) -> None:
    name = _unit_name(circuit, node, unit)
    row = None if weights is None else weights[unit]
    for slot, (child, below) in enumerate(_children(node, unit)):
        if row is not None and row[slot] == 0:
            continue
        target = _unit_name(circuit, child, below)
        if graph.has_edge(name, target):
            raise FormatError(f"node {name!r} has the child {target!r} twice")
        graph.add_edge(name, target, **({} if row is None else {"weight": row[slot]}))
    if graph.out_degree(name) == 0:
        raise FormatError(f"all weights of {name!r} are zero: prune the circuit first")


def _children(node: Product | KroneckerProduct | Sum, unit: int) -> list[tuple[AnyNode, int]]:
    """Children's units that one unit reads, in the order of its weights."""
    match node:
        case Product():
            return [(child, unit) for child in node.children]
        case KroneckerProduct():
            units, rest = [], unit
            for child in reversed(node.children):
                rest, own = divmod(rest, child.num_units)
                units.append(own)
            return list(zip(node.children, reversed(units), strict=True))
        case Sum(mixing=True):
            return [(child, unit if child.num_units > 1 else 0) for child in node.children]
        case Sum():
            return [(child, k) for child in node.children for k in range(child.num_units)]
