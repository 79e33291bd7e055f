"""Expected counts of every single edge: where flows of tied weights would be added up.

Values rise from the inputs to the root and shares of them run back (Darwiche, 2003), node by node
in float64: pictures are of small circuits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.layers import log_sum
from pcircuits.queries.likelihood import require_possible
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum
from pcircuits.viz.diagram import kronecker_unit, sum_columns
from pcircuits.viz.subject import Subject


@dataclass(frozen=True, eq=False)
class Counts:
    """Expected counts, summed over the examples.

    Attributes:
        units: Node -> (K,) how often each unit takes part.
        weights: Sum -> (K, C) how often each weight does.
    """

    units: dict[AnyNode, Tensor]
    weights: dict[Sum, Tensor]

    def of_edge(self, node: AnyNode, slot: int) -> float:
        """Count of the edge from a node to its child at a slot, over all units."""
        if not isinstance(node, Sum):
            return float(self.units[node].sum())
        columns = {c for s, (c, _) in sum_columns(node, 0) if s == slot}
        return float(self.weights[node][:, sorted(columns)].sum())

    def of_unit_edge(self, node: AnyNode, unit: int, slot: int, child_unit: int) -> float:
        """Count of the edge between two units."""
        if not isinstance(node, Sum):
            return float(self.units[node][unit])
        column = next(c for s, (c, u) in sum_columns(node, unit) if s == slot and u == child_unit)
        return float(self.weights[node][unit, column])


def edge_counts(subject: Subject, evidence: Evidence) -> Counts:
    """Expected counts of all units and weights.

    Args:
        subject: A circuit with weights.
        evidence: Evidence about B examples, checked against the circuit.

    Raises:
        StructureError: If there are no weights.
        EvidenceError: If an example is impossible.
    """
    if subject.log_weights is None and subject.circuit.parameter_shapes:
        raise StructureError("flows need weights: expected a model, found a circuit alone")
    values = _values(subject, evidence)
    require_possible(values[subject.circuit.root][:, 0])
    batch = max(value.shape[0] for value in values.values())
    flows = {
        node: torch.zeros(batch, node.num_units, dtype=torch.float64)
        for node in subject.circuit.nodes
    }
    flows[subject.circuit.root] += 1.0
    weights: dict[Sum, Tensor] = {}
    for node in reversed(subject.circuit.nodes):
        if isinstance(node, Sum):
            shares = _shares(subject, node, values, flows[node])
            weights[node] = shares.sum(0)
            _pass_sum(node, shares, flows)
        else:
            _pass_product(node, flows)
    return Counts({node: flow.sum(0) for node, flow in flows.items()}, weights)


def _values(subject: Subject, evidence: Evidence) -> dict[AnyNode, Tensor]:
    """(B or 1, K) log-values of all nodes."""
    values: dict[AnyNode, Tensor] = {}
    latent = evidence.latent_log_potentials or {}
    for node in subject.circuit.nodes:
        children = [values[child] for child in node.children]
        match node:
            case Input():
                value = _input_value(subject, node, evidence)
            case Product():
                value = torch.stack(torch.broadcast_tensors(*children)).sum(0)
            case KroneckerProduct():
                picked = [
                    child[:, [kronecker_unit(node, u, slot) for u in range(node.num_units)]]
                    for slot, child in enumerate(children)
                ]
                value = torch.stack(torch.broadcast_tensors(*picked)).sum(0)
            case Sum():
                value = log_sum(_terms(subject, node, values))
        name = subject.circuit.node_names[node]
        values[node] = value + latent[name].double() if name in latent else value
    return values


def _input_value(subject: Subject, node: Input, evidence: Evidence) -> Tensor:
    rows = subject.input_log_weights(node)
    assert rows is not None, "the weights were asked for before"
    return log_sum(rows + _potentials(node, evidence)[:, None, :])


def _potentials(node: Input, evidence: Evidence) -> Tensor:
    """(B, V) log-potentials that stand for all that is known of the input's variable."""
    size, variable = node.num_categories, node.variable
    found = torch.zeros(evidence.batch_size, size, dtype=torch.float64)
    if evidence.log_potentials is not None and evidence.categories is None:
        found = evidence.log_potentials[:, variable, :size].double()
    elif evidence.log_potentials is not None and evidence.categories is not None:
        listed = evidence.categories[:, variable, :, None] == torch.arange(size)
        potentials = evidence.log_potentials[:, variable, :, None].double()
        found = log_sum(potentials.where(listed, -torch.inf).transpose(1, 2))
    mask = evidence.mask()
    if mask is None or evidence.values is None:
        return found
    taken = evidence.values[:, variable, None] == torch.arange(size)
    hard = torch.zeros(taken.shape, dtype=torch.float64).masked_fill(~taken, -torch.inf)
    return torch.where(mask[:, variable, None], hard, found)


def _terms(subject: Subject, node: Sum, values: dict[AnyNode, Tensor]) -> Tensor:
    """(B or 1, K, C) log of every weight times its child's value."""
    weights = subject.sum_log_weights(node)
    assert weights is not None, "the weights were asked for before"
    children = _broadcast([values[child] for child in node.children])
    if node.mixing:
        wide = [child.expand(-1, node.num_units) for child in children]
        return weights + torch.stack(wide, -1)
    return weights + torch.cat(children, -1)[:, None, :]


def _broadcast(children: Sequence[Tensor]) -> list[Tensor]:
    batch = max(len(child) for child in children)
    return [child.expand(batch, -1) for child in children]


def _shares(subject: Subject, node: Sum, values: dict[AnyNode, Tensor], flow: Tensor) -> Tensor:
    """(B, K, C) the part of each unit's flow that runs through each weight."""
    terms = _terms(subject, node, values)
    total = log_sum(terms)[..., None]
    alive = total > -torch.inf
    shares = (terms - total.where(alive, 0.0)).exp().where(alive, 0.0)
    return flow[..., None] * shares


def _pass_sum(node: Sum, shares: Tensor, flows: dict[AnyNode, Tensor]) -> None:
    start = 0
    for slot, child in enumerate(node.children):
        if node.mixing:
            part = shares[:, :, slot]
            flows[child] += part if child.num_units > 1 else part.sum(1, keepdim=True)
        else:
            flows[child] += shares[:, :, start : start + child.num_units].sum(1)
            start += child.num_units


def _pass_product(node: AnyNode, flows: dict[AnyNode, Tensor]) -> None:
    for slot, child in enumerate(node.children):
        if isinstance(node, KroneckerProduct):
            units = [kronecker_unit(node, unit, slot) for unit in range(node.num_units)]
            flows[child].index_add_(1, torch.tensor(units), flows[node])
        else:
            flows[child] += flows[node]
