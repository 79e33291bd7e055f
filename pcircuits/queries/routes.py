"""Which nodes read which, and which variables each depends on: what a change reaches.

Nodes are numbered layer by layer: fold f of layer i is node `start[i] + f`.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Layer,
    Operand,
    Plan,
    ProductLayer,
    SegmentLayer,
    SegmentProductLayer,
)


@dataclass(frozen=True, eq=False)
class Links:
    """For each of N nodes a list of nodes, one list after the other.

    Attributes:
        ends: (N + 1,) where each list begins, and the end of the last.
        nodes: The lists.
    """

    ends: np.ndarray
    nodes: np.ndarray

    def of(self, nodes: np.ndarray) -> np.ndarray:
        """The lists of some nodes, one after the other."""
        if len(nodes) == 1:
            (node,) = nodes
            return self.nodes[self.ends[node] : self.ends[node + 1]]
        first, counts = self.ends[nodes], self.counts(nodes)
        before = counts.cumsum() - counts
        found: np.ndarray = self.nodes[np.repeat(first - before, counts) + np.arange(counts.sum())]
        return found

    def counts(self, nodes: np.ndarray) -> np.ndarray:
        """The lengths of the lists of some nodes."""
        lengths: np.ndarray = self.ends[nodes + 1] - self.ends[nodes]
        return lengths


@dataclass(frozen=True, eq=False)
class Routes:
    """The graph of a plan, node by node.

    Attributes:
        folds: Layer -> its number of folds F.
        start: (layers + 1,) number of each layer's first node, and the number N of all nodes.
        layer_of: (N,) layer of each node.
        operands: Layer -> for each operand the nodes that it reads.
        children: Nodes that a node reads.
        readers: Nodes that read a node.
        multiplies: Layer -> whether its nodes are products.
        is_input: (N,) whether it is an input.
        input_folds: Input layer -> (L, R) its folds that are functions of each variable; -1 fills
            rows that have fewer than R.
        scopes: (N, L / 8) variables that each node is a function of, as packed bits.
    """

    folds: tuple[int, ...]
    start: np.ndarray
    layer_of: np.ndarray
    operands: tuple[tuple[np.ndarray, ...], ...]
    children: Links
    readers: Links
    multiplies: tuple[bool, ...]
    is_input: np.ndarray
    input_folds: dict[int, np.ndarray]
    scopes: np.ndarray

    def contains(self, variable: int) -> np.ndarray:
        """(N,) whether each node is a function of a variable.

        In a smooth, decomposable circuit whatever multiplies a node on the way to the root is a
        function of all other variables, so what comes down to it depends on exactly those.
        """
        return (self.scopes[:, variable >> 3] >> (variable & 7) & 1).astype(bool)


_ROUTES: WeakKeyDictionary[Plan, Routes] = WeakKeyDictionary()


def routes_of(plan: Plan) -> Routes:
    """The graph of a plan, found once for each plan."""
    found = _ROUTES.get(plan)
    if found is None:
        found = _ROUTES[plan] = _routes(plan)
    return found


def _routes(plan: Plan) -> Routes:
    folds_of = plan.num_folds
    start = np.concatenate([[0], np.cumsum(folds_of)])
    operands = tuple(
        () if isinstance(layer, InputLayer) else tuple(_nodes(o, start) for o in layer.operands)
        for layer in plan.layers
    )
    parents, children = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i, (layer, own) in enumerate(zip(plan.layers, operands, strict=True)):
        for nodes in own:
            folds = layer.nodes if isinstance(layer, SegmentLayer) else np.arange(len(nodes))
            parents.append(start[i] + folds)
            children.append(nodes)
    above, below = np.concatenate(parents), np.concatenate(children)
    layer_of = np.repeat(np.arange(len(plan.layers)), folds_of)
    kinds = (ProductLayer, KroneckerLayer, SegmentProductLayer)
    return Routes(
        folds_of,
        start,
        layer_of,
        operands,
        _links(above, below, start[-1]),
        _links(below, above, start[-1]),
        tuple(isinstance(layer, kinds) for layer in plan.layers),
        np.array([isinstance(layer, InputLayer) for layer in plan.layers])[layer_of],
        {
            i: _folds_by_variable(layer.variables, plan.num_variables)
            for i, layer in enumerate(plan.layers)
            if isinstance(layer, InputLayer)
        },
        _scopes(plan, operands, start),
    )


def _nodes(operand: Operand, start: np.ndarray) -> np.ndarray:
    nodes = np.concatenate([start[source.layer] + source.folds() for source in operand.sources])
    return nodes if operand.order is None else nodes[operand.order]


def _links(sources: np.ndarray, targets: np.ndarray, num_nodes: int) -> Links:
    ends = np.concatenate([[0], np.bincount(sources, minlength=num_nodes).cumsum()])
    return Links(ends, targets[sources.argsort(kind="stable")])


def _folds_by_variable(variables: np.ndarray, num_variables: int) -> np.ndarray:
    order = variables.argsort(kind="stable")
    ordered = variables[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    folds = np.full((num_variables, rank.max(initial=0) + 1), -1)
    folds[ordered, rank] = order
    return folds


def _scopes(
    plan: Plan, operands: tuple[tuple[np.ndarray, ...], ...], start: np.ndarray
) -> np.ndarray:
    scopes = np.zeros((start[-1], (plan.num_variables + 7) // 8), dtype=np.uint8)
    for i, layer in enumerate(plan.layers):
        scopes[start[i] : start[i + 1]] = _layer_scopes(layer, operands[i], scopes)
    return scopes


def _layer_scopes(layer: Layer, operands: tuple[np.ndarray, ...], scopes: np.ndarray) -> np.ndarray:
    if isinstance(layer, InputLayer):
        own = np.zeros((len(layer.variables), scopes.shape[1]), dtype=np.uint8)
        bits = np.left_shift(1, layer.variables & 7)
        own[np.arange(len(own)), layer.variables >> 3] = bits
        return own
    if isinstance(layer, SegmentLayer):
        first = np.searchsorted(layer.nodes, np.arange(layer.num_nodes))
        return np.bitwise_or.reduceat(scopes[operands[0]], first, axis=0)
    return np.asarray(np.bitwise_or.reduce([scopes[nodes] for nodes in operands]))
