"""Circuits without what is zero, or almost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.compiler import compile_circuit
from pcircuits.errors import ParameterError
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.operators.assembly import Assembler
from pcircuits.operators.tables import Weight, dtype_of, weight_of, zeros_of
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum
from pcircuits.validate.units import UnitGraph


def prune(weighted: WeightedCircuit, threshold: float = 0.0) -> tuple[WeightedCircuit, float]:
    """Leaves out nodes and units that do not matter.

    With threshold 0 that are those that are zero everywhere or reach the root by weights of zero
    only, and no world changes its value. Otherwise the weights of sums whose expected use, how
    often a derivation of a random world from the circuit's own distribution takes them, is at most
    the threshold are set to zero first (tied weights are used together; Dang, Liu and Van den
    Broeck, "Sparse probabilistic circuits via pruning and growing", NeurIPS 2022, with the
    circuit's own flows in place of the data's). Nodes that work unit by unit (a product and its
    children) keep the same units. What is left is not normalised again.

    Args:
        weighted: The circuit, normalised or not.
        threshold: Largest expected use that is left out.

    Returns:
        The smaller circuit, and the share of the sum over all worlds that was removed at most.
        So the total variation between the normalised circuits is at most that share.

    Raises:
        ParameterError: If the threshold is negative, or nothing would be left.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=3, num_categories=2))
        >>> tables = model.probabilities() | {"weights": torch.tensor([0.6, 0.399, 0.001])}
        >>> model.set_probabilities(tables)
        >>> smaller, removed = pc.operators.prune(model.weighted(), threshold=0.01)
        >>> tuple(smaller.log_weights["weights"].shape), round(removed, 4)
        ((2,), 0.001)
    """
    if not threshold >= 0:
        raise ParameterError(f"threshold must be a number >= 0; found {threshold}")
    bound = 0.0
    if threshold > 0:
        weighted, bound = _without_rare(weighted, threshold)
    graph = UnitGraph(weighted.circuit, zeros_of(weighted))
    used = graph.used()
    if not any(used):
        raise ParameterError(
            "nothing would be left: without the weights of zero "
            f"(and those used at most {threshold} times) the circuit is zero in every world"
        )
    return _restricted(weighted, graph, used), bound


def _without_rare(weighted: WeightedCircuit, threshold: float) -> tuple[WeightedCircuit, float]:
    """The circuit with rarely used weights of sums set to zero, and how often those were used."""
    owners = weighted.circuit.parameter_owners
    kept, removed = dict(weighted.log_weights), 0.0
    for name, uses in _expected_uses(weighted).items():
        if isinstance(owners[name][0], Sum):
            rare = uses <= threshold
            removed += float(uses[rare].sum())
            kept[name] = kept[name].masked_fill(rare, -torch.inf)
    return WeightedCircuit(weighted.circuit, kept), removed


def _expected_uses(weighted: WeightedCircuit) -> dict[str, Tensor]:
    """Name -> derivative of the log sum over all worlds by the log-weights (the flows)."""
    circuit = weighted.circuit
    leaves = {
        name: tensor.detach().double().requires_grad_()
        for name, tensor in weighted.log_weights.items()
    }
    shape = (1, circuit.num_variables, circuit.num_categories)
    nothing = Evidence(log_potentials=torch.zeros(shape, dtype=torch.float64))
    if not leaves:
        return {}
    with torch.enable_grad():
        total = forward(compile_circuit(circuit), leaves, nothing).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves.values())
    uses = (zero if use is None else use for use, zero in zip(found, zeros, strict=True))
    return dict(zip(leaves, uses, strict=True))


@dataclass(frozen=True)
class _Kept:
    """The nodes that stay, and which of their units.

    Attributes:
        units: Node -> units, ascending.
        terms: Sum -> places of the children that it keeps.
    """

    units: Mapping[AnyNode, tuple[int, ...]]
    terms: Mapping[Sum, tuple[int, ...]]


def _restricted(weighted: WeightedCircuit, graph: UnitGraph, used: bytearray) -> WeightedCircuit:
    circuit = weighted.circuit
    kept = _kept(circuit, graph, used)
    assembler = Assembler(dtype_of(weighted))
    made: dict[AnyNode, int] = {}
    for node in circuit.nodes:
        if node not in kept.units:
            continue
        match node:
            case Input():
                made[node] = _input(assembler, weighted, node, kept.units[node])
            case Product():
                made[node] = assembler.product([made[c] for c in node.children], name=node.name)
            case KroneckerProduct():
                made[node] = assembler.kronecker([made[c] for c in node.children], name=node.name)
            case Sum():
                made[node] = _sum(assembler, weighted, node, kept, made)
    return assembler.build(made[circuit.root])


def _input(
    assembler: Assembler, weighted: WeightedCircuit, node: Input, units: tuple[int, ...]
) -> int:
    weight = weight_of(weighted, node)
    content: Weight | tuple[tuple[int, ...], ...]
    if weight is None:
        assert node.supports is not None, "an input has weights or supports"
        content = tuple(node.supports[unit] for unit in units)
    else:
        content = _part(weight, units, tuple(range(node.num_categories)))
    return assembler.input(node.variable, node.num_categories, content, name=node.name)


def _sum(
    assembler: Assembler,
    weighted: WeightedCircuit,
    node: Sum,
    kept: _Kept,
    made: Mapping[AnyNode, int],
) -> int:
    units, terms = kept.units[node], kept.terms[node]
    columns = terms
    if not node.mixing:
        starts = [0]
        for child in node.children:
            starts.append(starts[-1] + child.num_units)
        columns = tuple(starts[t] + unit for t in terms for unit in kept.units[node.children[t]])
    weight = weight_of(weighted, node)
    if weight is not None:
        weight = _part(weight, units, columns)
    children = [made[node.children[term]] for term in terms]
    return assembler.sum(children, len(units), weight, mixing=node.mixing, name=node.name)


def _part(weight: Weight, rows: tuple[int, ...], columns: tuple[int, ...]) -> Weight:
    """Some rows and columns of a weight; the weight itself if they are all."""
    if weight.table.shape == (len(rows), len(columns)):
        return weight
    table = weight.table[list(rows)][:, list(columns)]
    return Weight(table, weight.name, (weight.key, rows, columns))


def _kept(circuit: Circuit, graph: UnitGraph, used: bytearray) -> _Kept:
    own = {
        node: {place for place, unit in enumerate(graph.units(node)) if used[unit]}
        for node in circuit.nodes
    }
    nodes = [node for node in circuit.nodes if own[node]]
    terms = {n: _terms(graph, used, n) for n in nodes if isinstance(n, Sum)}
    groups = _Groups(nodes, terms)
    wanted: dict[AnyNode, set[int]] = {}
    for node in nodes:
        wanted.setdefault(groups.of(node), set()).update(own[node])
    for node in groups.whole(nodes):
        wanted[groups.of(node)] = set(range(node.num_units))
    units: dict[AnyNode, tuple[int, ...]] = {}
    for node in nodes:
        if isinstance(node, KroneckerProduct):
            units[node] = _combinations(node, units)
        else:
            units[node] = tuple(sorted(wanted[groups.of(node)]))
    return _Kept(units, terms)


def _combinations(
    node: KroneckerProduct, units: Mapping[AnyNode, tuple[int, ...]]
) -> tuple[int, ...]:
    """The units of an all-pairs product that its children's units leave, used or not."""
    found: tuple[int, ...] = (0,)
    for child in node.children:
        found = tuple(unit * child.num_units + own for unit in found for own in units[child])
    return found


def _terms(graph: UnitGraph, used: bytearray, node: Sum) -> tuple[int, ...]:
    """Places of the children of which a used unit of the sum adds a unit."""
    feeds = {feed for feeds in graph.distinct_feeds(node, used) for feed in feeds}
    return tuple(
        place
        for place, child in enumerate(node.children)
        if not feeds.isdisjoint(graph.units(child))
    )


class _Groups:
    """Which nodes keep the same units: a product and its children, a mixing sum and its."""

    def __init__(self, nodes: Iterable[AnyNode], terms: Mapping[Sum, Sequence[int]]) -> None:
        self._above: dict[AnyNode, AnyNode] = {}
        self._members: dict[AnyNode, int] = {}
        for node in nodes:
            self._above[node] = node
            self._members[node] = 1
            if isinstance(node, Product):
                self._join(node, node.children)
            elif isinstance(node, Sum) and node.mixing:
                children = [node.children[place] for place in terms[node]]
                self._join(node, [c for c in children if c.num_units == node.num_units])

    def of(self, node: AnyNode) -> AnyNode:
        """The node that stands for the group of a node."""
        while self._above[node] is not node:
            self._above[node] = self._above[self._above[node]]
            node = self._above[node]
        return node

    def whole(self, nodes: Sequence[AnyNode]) -> list[AnyNode]:
        """Nodes that keep all units: all-pairs products that must agree with others, and below."""
        frozen: set[AnyNode] = set()
        while True:
            before = len(frozen)
            for node in reversed(nodes):
                if isinstance(node, KroneckerProduct) and (
                    self._members[self.of(node)] > 1 or self.of(node) in frozen
                ):
                    frozen |= {self.of(inner) for inner in (node, *node.children)}
            if len(frozen) == before:
                return [node for node in nodes if self.of(node) in frozen]

    def _join(self, node: AnyNode, others: Iterable[AnyNode]) -> None:
        for other in others:
            first, second = self.of(node), self.of(other)
            if first is not second:
                self._above[first] = second
                self._members[second] += self._members[first]
