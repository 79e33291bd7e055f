"""Values and messages of a circuit's nodes that are computed when they are asked for.

A change of one input spoils the values of the nodes above it and the messages to the nodes beside
and below these. Nothing is computed anew until it is wanted, and then only what it depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    MixingLayer,
    Plan,
    SegmentLayer,
    SumLayer,
)
from pcircuits.execute.eager import all_values
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.layers import _inner_value, gather, schedule_of
from pcircuits.execute.outward import _received, _send
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import AnyWeights, EdgeWeights, Weights
from pcircuits.queries.routes import Routes, routes_of


class LazyValues:
    """Upward log-values and downward log-messages of every node, some of them out of date.

    Args:
        plan: The compiled circuit.
        prepared: Its parameters, without a graph.
        evidence: Checked evidence.

    Attributes:
        values: Layer -> (F, B, K) log-values; those of the input layers are always right.
        messages: Layer -> (F, B, K) log-messages, latent potentials included.
        offsets: Layer -> (F, B, K) latent log-potentials.
        routes: The graph.
    """

    def __init__(self, plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> None:
        self.plan, self.routes = plan, routes_of(plan)
        self.values, self.offsets = all_values(plan, prepared, evidence)
        self.messages = [torch.zeros_like(value) for value in self.values]
        for i in self.routes.input_folds:
            # Leaves are changed in place: they must be no view of the parameters.
            self.values[i] = self.values[i].clone(memory_format=torch.contiguous_format)
        self._weights = prepared.weights
        self._has_value = np.ones(len(self.routes.layer_of), dtype=bool)
        self._has_message = np.zeros_like(self._has_value)
        self._has_message[-1] = True
        if len(plan.layers) - 1 in self.offsets:
            self.messages[-1] = self.offsets[len(plan.layers) - 1]

    @property
    def device(self) -> torch.device:
        """Device of all values."""
        return self.values[-1].device

    def change_leaves(
        self, layer: int, folds: np.ndarray, examples: np.ndarray, leaves: Tensor
    ) -> None:
        """Gives inputs new values (n, K), latent potentials not included, at folds and examples.

        What depends on them must be spoilt by `spoil`.
        """
        if layer in self.offsets:
            leaves = leaves + self.offsets[layer][folds, examples]
        if len(folds) == 1:
            self.values[layer][folds[0], examples[0]] = leaves[0]
        else:
            at = (torch.as_tensor(index, device=leaves.device) for index in (folds, examples))
            self.values[layer][tuple(at)] = leaves

    def spoil(self, variables: Iterable[int]) -> None:
        """Takes note that the inputs of some variables have changed."""
        for variable in variables:
            inside = self.routes.contains(variable)
            self._has_value &= ~inside | self.routes.is_input
            self._has_message &= inside

    def root(self) -> Tensor:
        """(1, B, 1) value of the root."""
        self.require_values(self.routes.start[-1:] - 1)
        return self.values[-1]

    def require_values(self, nodes: np.ndarray) -> None:
        """Brings the values of some nodes up to date."""
        stale = nodes[~self._has_value[nodes]]
        if not len(stale):
            return
        routes = self.routes
        wanted, busy = np.zeros_like(self._has_value), np.zeros(len(routes.folds), dtype=bool)
        _mark(routes, stale, wanted, busy)
        order = []
        for i in range(int(busy.nonzero()[0][-1]), -1, -1):
            if busy[i]:
                mine = _marked(routes, i, wanted)
                order.append((i, mine))
                below = routes.children.of(mine)
                _mark(routes, below[~self._has_value[below]], wanted, busy)
        for i, mine in reversed(order):
            self._compute_values(i, mine - routes.start[i])
        self._has_value |= wanted

    def require_messages(self, nodes: np.ndarray) -> None:
        """Brings the messages to some nodes up to date."""
        stale = nodes[~self._has_message[nodes]]
        if not len(stale):
            return
        routes = self.routes
        wanted, busy = np.zeros_like(self._has_value), np.zeros(len(routes.folds), dtype=bool)
        sending = np.zeros_like(wanted)
        _mark(routes, stale, wanted, busy)
        beside, order = [], []
        for i in range(int(busy.argmax()), len(busy)):
            if not busy[i]:
                continue
            mine, senders = _marked(routes, i, wanted), _marked(routes, i, sending)
            order.append((i, mine - routes.start[i], senders - routes.start[i]))
            if routes.multiplies[i] and len(senders):
                beside.append(_siblings(routes, senders, wanted))
            if len(mine):
                above = routes.readers.of(mine)
                _mark(routes, above, sending, busy)
                wanted[above[~self._has_message[above]]] = True
        if beside:
            self.require_values(np.concatenate(beside))
        self._pass_down(order, wanted)
        self._has_message |= wanted

    def _compute_values(self, i: int, folds: np.ndarray) -> None:
        layer = self.plan.layers[i]
        assert not isinstance(layer, InputLayer)
        weights = self._weights.get(i)
        if len(folds) == self.routes.folds[i]:
            reads = schedule_of(self.plan).reads[i]
            children = [gather(self.values, read.operand) for read in reads]
        else:
            layer, rows = _part(layer, folds)
            children = [self._take(self.values, nodes[rows]) for nodes in self.routes.operands[i]]
            weights = part_of_weights(weights, folds, rows)
        value, _ = _inner_value(layer, children, weights, False)
        self._store(self.values, i, folds, self._with_offset(i, folds, value))

    def _pass_down(
        self, order: Sequence[tuple[int, np.ndarray, np.ndarray]], wanted: np.ndarray
    ) -> None:
        """Receives and sends, layer by layer: (layer, folds that receive, folds that send)."""
        received: dict[int, list[tuple[np.ndarray, Tensor]]] = {}
        for i, folds, senders in reversed(order):
            if len(folds):
                parts = [(np.searchsorted(folds, at), sent) for at, sent in received.pop(i)]
                shape = self.messages[i][: len(folds)]
                message = self._with_offset(i, folds, _received(shape, parts))
                self._store(self.messages, i, folds, message)
            if len(senders):
                for nodes, sent in self._sent(i, senders):
                    self._deliver(nodes, sent, wanted, received)

    def _sent(self, i: int, folds: np.ndarray) -> Iterable[tuple[np.ndarray, Tensor]]:
        """What the nodes of a layer send down: for each operand the nodes it goes to, and it."""
        layer = self.plan.layers[i]
        assert not isinstance(layer, InputLayer)
        weights, operands = self._weights.get(i), self.routes.operands[i]
        if len(folds) == self.routes.folds[i]:
            # What a sum sends does not depend on its children.
            read = () if isinstance(layer, SumLayer) else layer.operands
            children = [gather(self.values, operand) for operand in read]
            message = self.messages[i]
        else:
            layer, rows = _part(layer, folds)
            operands = tuple(nodes[rows] for nodes in operands)
            children = [self._take(self.values, nodes) for nodes in operands]
            weights = part_of_weights(weights, folds, rows)
            message = self._take(self.messages, self.routes.start[i] + folds)
        return zip(operands, _send(layer, children, message, weights), strict=True)

    def _deliver(
        self,
        nodes: np.ndarray,
        sent: Tensor,
        wanted: np.ndarray,
        received: dict[int, list[tuple[np.ndarray, Tensor]]],
    ) -> None:
        """Sorts what goes to nodes that are wanted by their layers."""
        kept = wanted[nodes].nonzero()[0]
        layers = self.routes.layer_of[nodes[kept]]
        for i in dict.fromkeys(layers.tolist()):
            at = kept if len(kept) == 1 else kept[layers == i]
            folds = nodes[at] - self.routes.start[i]
            received.setdefault(i, []).append((folds, take_folds(sent, at)))

    def _with_offset(self, i: int, folds: np.ndarray, log: Tensor) -> Tensor:
        return log + take_folds(self.offsets[i], folds) if i in self.offsets else log

    def _take(self, store: list[Tensor], nodes: np.ndarray) -> Tensor:
        """(n, B, K) values or messages of some nodes of equal size."""
        layers, start = self.routes.layer_of[nodes], self.routes.start
        if (layers == layers[0]).all():
            return take_folds(store[layers[0]], nodes - start[layers[0]])
        groups = [(layers == i).nonzero()[0] for i in dict.fromkeys(layers.tolist())]
        parts = [take_folds(store[layers[at[0]]], nodes[at] - start[layers[at]]) for at in groups]
        joined = torch.cat(parts)
        return joined[torch.as_tensor(np.concatenate(groups).argsort(), device=joined.device)]

    def _store(self, store: list[Tensor], i: int, folds: np.ndarray, log: Tensor) -> None:
        if len(folds) == self.routes.folds[i]:
            store[i] = log
        elif isinstance(at := even(folds), slice):
            # In place: a view of this layer in another is a reader of it, and spoilt as well.
            store[i][at] = log
        else:
            store[i][torch.as_tensor(at, device=log.device)] = log


def even(folds: np.ndarray) -> slice | np.ndarray:
    """Indices as a slice if they ascend evenly."""
    if len(folds) < 2:
        first = int(folds.sum())
        return slice(first, first + len(folds))
    step = int(folds[1] - folds[0])
    if step > 0 and bool((np.diff(folds) == step).all()):
        return slice(int(folds[0]), int(folds[-1]) + 1, step)
    return folds


def take_folds(values: Tensor, folds: np.ndarray) -> Tensor:
    """Some folds of (F, ...): all, a view of evenly spaced ones, or a copy."""
    at = even(folds)
    if isinstance(at, slice) and len(folds) == values.shape[0]:
        return values
    return (
        values[at] if isinstance(at, slice) else values[torch.as_tensor(at, device=values.device)]
    )


def part_of_weights(
    weights: AnyWeights | None, folds: np.ndarray, rows: np.ndarray
) -> AnyWeights | None:
    """Weights of some folds of a layer, or of the edges `rows` of a segment sum."""
    if isinstance(weights, EdgeWeights):
        return EdgeWeights(take_folds(weights.log, rows))
    if weights is None or weights.log.shape[0] == 1:
        return weights
    part = Weights(take_folds(weights.log, folds))
    # What was computed of all is not computed again.
    shift = weights.shift
    part.__dict__["shift"] = None if shift is None else take_folds(shift, folds)
    part.__dict__["linear"] = take_folds(weights.linear, folds)
    return part


def _part(layer: InnerLayer, folds: np.ndarray) -> tuple[InnerLayer, np.ndarray]:
    """A layer of some folds, and which entries of the operands they read."""
    if isinstance(layer, MixingLayer):
        # Groups are not kept: some of a group's folds may be missing.
        return replace(layer, group_size=1), folds
    if not isinstance(layer, SegmentLayer):
        return layer, folds
    place = np.full(layer.num_nodes, -1)
    place[folds] = np.arange(len(folds))
    rows = (place[layer.nodes] >= 0).nonzero()[0]
    own = place[layer.nodes[rows]]
    return replace(layer, nodes=own, ranks=layer.ranks[rows], num_nodes=len(folds)), rows


def _mark(routes: Routes, nodes: np.ndarray, marks: np.ndarray, busy: np.ndarray) -> None:
    marks[nodes] = True
    busy[routes.layer_of[nodes]] = True


def _marked(routes: Routes, i: int, marks: np.ndarray) -> np.ndarray:
    """The marked nodes of a layer."""
    first = routes.start[i]
    nodes: np.ndarray = marks[first : routes.start[i + 1]].nonzero()[0] + first
    return nodes


def _siblings(routes: Routes, products: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Children of products that multiply the message to some wanted child."""
    children, counts = routes.children.of(products), routes.children.counts(products)
    own = wanted[children].astype(np.int64)
    others = np.repeat(np.add.reduceat(own, counts.cumsum() - counts), counts) - own
    beside: np.ndarray = children[others > 0]
    return beside
