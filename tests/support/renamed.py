"""The same distribution written otherwise: other numbers of variables, other orders of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from tests.support.evidence import Case

AnyNode = pc.Input | pc.Product | pc.KroneckerProduct | pc.Sum
Map = Callable[[AnyNode, tuple[AnyNode, ...]], AnyNode]


def rebuilt(circuit: pc.Circuit, change: Map) -> pc.Circuit:
    """A circuit whose every node is made anew, children first.

    Args:
        circuit: The circuit.
        change: The old node and its new children -> the new node.
    """
    made: dict[AnyNode, AnyNode] = {}
    for node in circuit.nodes:
        made[node] = change(node, tuple(made[child] for child in node.children))
    return pc.Circuit(made[circuit.root])


def copied(node: AnyNode, children: tuple[AnyNode, ...], **changes: object) -> AnyNode:
    """A node with other children, or other fields."""
    if isinstance(node, pc.Input):
        given = {
            "variable": node.variable,
            "num_units": node.num_units,
            "num_categories": node.num_categories,
            "parameter": node.parameter,
            "supports": node.supports,
            "name": node.name,
        }
        given |= changes
        return pc.Input(given.pop("variable"), **given)
    if isinstance(node, pc.Sum):
        given = {
            "num_units": node.num_units,
            "mixing": node.mixing,
            "weighted": node.weighted,
            "parameter": node.parameter,
            "name": node.name,
        }
        return pc.Sum(*children, **(given | changes))
    return type(node)(*children, **({"name": node.name} | changes))


def named(circuit: pc.Circuit) -> pc.Circuit:
    """The circuit with the names that nodes and parameters have anyhow written into it."""

    def change(node: AnyNode, children: tuple[AnyNode, ...]) -> AnyNode:
        names: dict[str, object] = {"name": circuit.node_names[node]}
        if node in circuit.parameter_names and not isinstance(node.parameter, pc.Part):
            names["parameter"] = circuit.parameter_names[node]
        return copied(node, children, **names)

    return rebuilt(circuit, change)


def with_other_variables(case: Case, places: Sequence[int]) -> Case:
    """Variable i becomes variable places[i], in the circuit and in the evidence."""
    circuit = named(case.circuit)

    def change(node: AnyNode, children: tuple[AnyNode, ...]) -> AnyNode:
        if isinstance(node, pc.Input):
            return copied(node, children, variable=places[node.variable])
        return copied(node, children)

    back = np.argsort(places)
    evidence, moved = case.evidence, {}
    for field in ("values", "observed", "log_potentials", "categories"):
        tensor = getattr(evidence, field)
        moved[field] = None if tensor is None else tensor[:, back]
    found = rebuilt(circuit, change)
    return Case(found, case.parameters, replace(evidence, **moved))


def untied(circuit: pc.Circuit, parameters: Mapping[str, Tensor]) -> tuple[pc.Circuit, dict]:
    """The circuit with a parameter of its own for every node, and their log-weights."""
    found: dict[str, Tensor] = {}

    def change(node: AnyNode, children: tuple[AnyNode, ...]) -> AnyNode:
        name = circuit.node_names[node]
        if not isinstance(node, (pc.Input, pc.Sum)) or node not in circuit.parameter_names:
            return copied(node, children, name=name)
        own = parameters[circuit.parameter_names[node]]
        if isinstance(node.parameter, pc.Part):
            own = _part(node, node.parameter, own)
        found[f"of {name}"] = own.clone()
        return copied(node, children, name=name, parameter=f"of {name}")

    return rebuilt(circuit, change), found


def _part(node: pc.Input | pc.Sum, part: pc.Part, whole: Tensor) -> Tensor:
    """(*parameter_shape) log-weights of a node in a parameter without batch axis."""
    rows = node.num_units if isinstance(node, pc.Input) else int(np.prod(node.parameter_shape))
    return whole[part.start : part.start + rows].reshape(node.parameter_shape)


def with_other_units(case: Case, dice: np.random.Generator) -> Case:
    """Units in another order, wherever nothing fixes it; parameters and potentials follow."""
    circuit = case.circuit
    orders = _orders(circuit, dice)
    parameters = dict(case.parameters)
    done = set()
    for node in circuit.nodes:
        name = circuit.parameter_names.get(node)
        if name is None or name in done or isinstance(node.parameter, pc.Part):
            continue
        done.add(name)
        parameters[name] = _reordered(node, case.parameters[name], orders)
    latent = case.evidence.latent_log_potentials
    if latent:
        nodes = {name: node for node, name in circuit.node_names.items()}
        latent = {name: tensor[:, orders[nodes[name]]] for name, tensor in latent.items()}
    return Case(circuit, parameters, replace(case.evidence, latent_log_potentials=latent))


def _reordered(
    node: pc.Input | pc.Sum, weights: Tensor, orders: Mapping[AnyNode, np.ndarray]
) -> Tensor:
    found = weights
    if len(node.parameter_shape) > 1:  # else it is a sum of one unit
        found = weights[..., torch.as_tensor(orders[node]), :]
    if isinstance(node, pc.Input) or node.mixing:
        return found
    starts = np.cumsum([0, *(child.num_units for child in node.children)])
    columns = [start + orders[child] for start, child in zip(starts, node.children, strict=False)]
    return found[..., torch.as_tensor(np.concatenate(columns))]


def _orders(circuit: pc.Circuit, dice: np.random.Generator) -> dict[AnyNode, np.ndarray]:
    """An order of the units of each node: one for all nodes that work unit by unit together."""
    groups = _Groups(circuit)
    made: dict[AnyNode, np.ndarray] = {}
    for node in circuit.nodes:
        own = groups.leader(node)
        if own not in made:
            count = node.num_units
            made[own] = np.arange(count) if own in groups.fixed else dice.permutation(count)
    return {node: made[groups.leader(node)] for node in circuit.nodes}


class _Groups:
    """Nodes whose units have to keep one order, and those whose order is fixed."""

    def __init__(self, circuit: pc.Circuit) -> None:
        self._above: dict[AnyNode, AnyNode] = {node: node for node in circuit.nodes}
        loose: list[AnyNode] = []
        owners: dict[str, AnyNode] = {}
        for node in circuit.nodes:
            if isinstance(node, pc.Product) or (isinstance(node, pc.Sum) and node.mixing):
                for child in node.children:
                    self._join(node, child)
            owner = owners.setdefault(circuit.parameter_names.get(node, ""), node)
            if node in circuit.parameter_names and owner is not node:
                self._join(node, owner)
                loose += self._join_children(node, owner)
            if _is_fixed(node):
                loose += [node, *node.children]
        self.fixed = {self.leader(node) for node in loose}

    def leader(self, node: AnyNode) -> AnyNode:
        """One node that stands for all of a group."""
        while self._above[node] is not node:
            node = self._above[node]
        return node

    def _join(self, one: AnyNode, other: AnyNode) -> None:
        if one.num_units == other.num_units:
            self._above[self.leader(other)] = self.leader(one)

    def _join_children(self, one: AnyNode, other: AnyNode) -> list[AnyNode]:
        """Joins the children of tied nodes, or gives them all where they do not correspond."""
        sizes = [[child.num_units for child in node.children] for node in (one, other)]
        if sizes[0] != sizes[1]:
            return [*one.children, *other.children]
        for first, second in zip(one.children, other.children, strict=True):
            self._join(first, second)
        return []


def _is_fixed(node: AnyNode) -> bool:
    """Whether other orders of a node's units would be another node."""
    if isinstance(node, pc.KroneckerProduct):
        return True
    if isinstance(node, pc.Input) and node.supports is not None:
        return True
    if isinstance(node, pc.Sum) and not node.weighted:
        return False
    return isinstance(node, (pc.Input, pc.Sum)) and isinstance(node.parameter, pc.Part)
