"""A circuit with some units of its nodes left out or copied, and its weights with it.

Nodes that work unit by unit, such as a product and its children, keep the same units: they form a
group. What a group keeps is free only if dense weighted sums, or all-pairs products below such
sums, are all that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum


@dataclass(frozen=True, eq=False)
class Groups:
    """Which nodes must keep the same units.

    Attributes:
        of: Node -> number of its group.
        sizes: Group -> units of each of its nodes.
        free: Groups whose units may be left out or copied.
    """

    of: Mapping[AnyNode, int]
    sizes: Mapping[int, int]
    free: frozenset[int]


def unit_groups(circuit: Circuit) -> Groups:
    """Finds the groups of a circuit.

    Args:
        circuit: The circuit.

    Returns:
        Its groups; all-pairs products, whose units follow from their children's, have their own.
    """
    union = _Union(circuit)
    frozen: set[AnyNode] = {circuit.root}
    for node in circuit.nodes:
        if isinstance(node, Product):
            union.join(node, *node.children)
        elif isinstance(node, Sum) and node.mixing:
            union.join(node, *(c for c in node.children if c.num_units == node.num_units))
            frozen.update(c for c in node.children if c.num_units != node.num_units)
        elif isinstance(node, Sum) and not node.weighted:
            frozen.update(node.children)
    for owners in _ties(circuit).values():
        union.join(*owners)
        for owner in owners[1:]:
            pairs = list(zip(owners[0].children, owner.children, strict=False))
            same = [a.num_units == b.num_units for a, b in pairs]
            if all(same) and len(owner.children) == len(owners[0].children):
                for a, b in pairs:
                    union.join(a, b)
            else:
                frozen.update(owners[0].children)
                frozen.update(owner.children)
    return _finished(circuit, union, frozen)


def reindex(
    weighted: WeightedCircuit, groups: Groups, kept: Mapping[int, np.ndarray]
) -> WeightedCircuit:
    """Makes a circuit whose nodes have chosen units of the old ones, in the order given.

    Args:
        weighted: The circuit and its log-weights.
        groups: Its groups.
        kept: Free group -> which old units the new ones are; other groups keep all.

    Returns:
        The new circuit with the weights picked from the old ones; what was given to a unit is
        split evenly where it is there several times. Where units are left out, rows are no longer
        normalised.
    """
    chosen = _chosen_units(weighted.circuit, groups, kept)
    tables: dict[str, list[Tensor]] = {}
    parts: dict[object, str | Part] = {}
    made: dict[AnyNode, AnyNode] = {}
    for node in weighted.circuit.nodes:
        parameter = None
        if isinstance(node, (Input, Sum)) and node.has_parameter:
            key = tie_key(weighted.circuit, node)
            if key not in parts:
                parts[key] = _store(weighted, node, chosen, tables)
            parameter = parts[key]
        made[node] = _remade(node, [made[c] for c in node.children], chosen[node], parameter)
    log_weights = {n: t[0] if len(t) == 1 else torch.cat(t) for n, t in tables.items()}
    return WeightedCircuit(Circuit(made[weighted.circuit.root]), log_weights)


def own_weights(circuit: Circuit, node: Input | Sum, weights: Mapping[str, Tensor]) -> Tensor:
    """(K, C) numbers that belong to one node, of tensors shaped as the parameters are."""
    tensor = weights[circuit.parameter_names[node]]
    if isinstance(node.parameter, Part):
        start = node.parameter.start
        size = node.num_units if isinstance(node, Input) else math.prod(node.parameter_shape)
        tensor = tensor[start : start + size]
    return tensor.reshape(node.num_units, -1)


def tie_key(circuit: Circuit, node: Input | Sum) -> object:
    """What tied nodes have in common: their part, or the name of their parameter."""
    given = node.parameter
    return given if isinstance(given, Part) else circuit.parameter_names[node]


def _ties(circuit: Circuit) -> dict[object, list[Input | Sum]]:
    found: dict[object, list[Input | Sum]] = {}
    for node in circuit.nodes:
        if isinstance(node, (Input, Sum)) and node.has_parameter:
            found.setdefault(tie_key(circuit, node), []).append(node)
    return found


class _Union:
    """Sets of nodes that grow together."""

    def __init__(self, circuit: Circuit) -> None:
        self.parent = {node: node for node in circuit.nodes}

    def find(self, node: AnyNode) -> AnyNode:
        while self.parent[node] is not node:
            self.parent[node] = self.parent[self.parent[node]]
            node = self.parent[node]
        return node

    def join(self, first: AnyNode, *others: AnyNode) -> None:
        for other in others:
            self.parent[self.find(other)] = self.find(first)


def _finished(circuit: Circuit, union: _Union, frozen: set[AnyNode]) -> Groups:
    numbers: dict[AnyNode, int] = {}
    of = {node: numbers.setdefault(union.find(node), len(numbers)) for node in circuit.nodes}
    sizes = {of[node]: node.num_units for node in circuit.nodes}
    fixed = {of[node] for node in frozen}
    members = np.bincount(list(of.values()))
    # Parents first: what an all-pairs product cannot give up, its children cannot either.
    for node in reversed(circuit.nodes):
        if isinstance(node, KroneckerProduct) and (members[of[node]] > 1 or of[node] in fixed):
            fixed.update({of[node], *(of[child] for child in node.children)})
    derived = {of[node] for node in circuit.nodes if isinstance(node, KroneckerProduct)}
    return Groups(of, sizes, frozenset(set(sizes) - fixed - derived))


def _chosen_units(
    circuit: Circuit, groups: Groups, kept: Mapping[int, np.ndarray]
) -> dict[AnyNode, np.ndarray]:
    chosen: dict[AnyNode, np.ndarray] = {}
    for node in circuit.nodes:
        if isinstance(node, KroneckerProduct):
            places = np.zeros(1, dtype=np.int64)
            for child in node.children:
                places = (places[:, None] * child.num_units + chosen[child]).ravel()
            chosen[node] = places
        else:
            group = groups.of[node]
            chosen[node] = kept.get(group, np.arange(node.num_units))
    return chosen


def _store(
    weighted: WeightedCircuit,
    node: Input | Sum,
    chosen: Mapping[AnyNode, np.ndarray],
    tables: dict[str, list[Tensor]],
) -> str | Part:
    """Adds a node's picked weights to the tables; says where they are."""
    own = own_weights(weighted.circuit, node, weighted.log_weights)
    picked = own[torch.as_tensor(chosen[node])]
    if isinstance(node, Sum) and not node.mixing:
        columns, times = _columns(node, chosen)
        picked = picked[:, torch.as_tensor(columns)] - torch.as_tensor(times).log().to(picked)
    name = weighted.circuit.parameter_names[node]
    rows = tables.setdefault(name, [])
    if isinstance(node.parameter, Part):
        start = sum(len(piece) for piece in rows)
        rows.append(picked if isinstance(node, Input) else picked.flatten())
        return Part(name, start)
    is_vector = isinstance(node, Sum) and len(picked) == 1
    rows.append(picked[0] if is_vector else picked)
    return name


def _columns(node: Sum, chosen: Mapping[AnyNode, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Old columns of a dense sum's new ones, and how often each is there."""
    starts = np.cumsum([0, *(child.num_units for child in node.children)])
    parts = [start + chosen[child] for start, child in zip(starts, node.children, strict=False)]
    columns = np.concatenate(parts)
    return columns, np.bincount(columns)[columns]


def _remade(
    node: AnyNode, children: list[AnyNode], units: np.ndarray, parameter: str | Part | None
) -> AnyNode:
    match node:
        case Input():
            supports = node.supports and tuple(node.supports[unit] for unit in units)
            return Input(
                node.variable,
                num_units=len(units),
                num_categories=node.num_categories,
                supports=supports,
                parameter=parameter,
                name=node.name,
            )
        case Product():
            return Product(*children, name=node.name)
        case KroneckerProduct():
            return KroneckerProduct(*children, name=node.name)
    return Sum(
        *children,
        num_units=len(units),
        mixing=node.mixing,
        weighted=node.weighted,
        parameter=parameter,
        name=node.name,
    )
