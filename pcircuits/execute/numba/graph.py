"""A plan all of whose nodes have one unit, as one list of nodes with their children."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    Operand,
    Plan,
    SegmentLayer,
    SegmentSumLayer,
)
from pcircuits.execute.weights import AnyWeights

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Tables:
    """The categorical tables of all inputs, one after the other.

    Attributes:
        layer_starts: Input layer -> its first entry; layers that share a table share it.
        row_starts: (R + 1,) first entry of each row.
        rows: (I,) row of each input.
        variables: (I,) variable of each input.
    """

    layer_starts: Mapping[int, int]
    row_starts: Array
    rows: Array
    variables: Array

    @cached_property
    def starts(self) -> Array:
        """(I,) first entry of each input."""
        found: Array = self.row_starts[self.rows]
        return found

    @cached_property
    def sizes(self) -> Array:
        """(I,) number of categories of each input."""
        found: Array = np.diff(self.row_starts)[self.rows]
        return found


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in the order of the plan's layers and folds, each after its children.

    Attributes:
        input_layers: The input layers; their folds are the first I nodes, in this order.
        tables: Their tables.
        starts: (N - I + 1,) where the children of each inner node start.
        children: (E,) nodes, all inner nodes' children one after the other.
        places: (E,) place of each edge's weight among all weights; -1 for edges of products.
        weight_starts: Layer -> place of its first weight.
        num_weights: Number of weights of all layers.
    """

    input_layers: tuple[int, ...]
    tables: Tables
    starts: Array
    children: Array
    places: Array
    weight_starts: Mapping[int, int]
    num_weights: int

    @property
    def num_inputs(self) -> int:
        """Number of input nodes I."""
        return len(self.tables.rows)

    @property
    def num_nodes(self) -> int:
        """Number of nodes N; the last one is the root."""
        return self.num_inputs + len(self.starts) - 1


_GRAPHS: WeakKeyDictionary[Plan, Graph] = WeakKeyDictionary()


_SINGLE: WeakKeyDictionary[Plan, bool] = WeakKeyDictionary()


def has_single_units(plan: Plan) -> bool:
    """Whether all nodes of a plan have one unit; found once."""
    found = _SINGLE.get(plan)
    if found is None:
        found = _SINGLE[plan] = all(layer.num_units == 1 for layer in plan.layers)
    return found


def graph_of(plan: Plan, weights: Mapping[int, AnyWeights]) -> Graph:
    """The graph of a plan, made once.

    Args:
        plan: A plan for which `has_single_units` holds.
        weights: Layer -> weights, for their number: the graph of a plan is always the same.
    """
    found = _GRAPHS.get(plan)
    if found is None:
        found = _GRAPHS[plan] = _graph(plan, weights)
    return found


def _graph(plan: Plan, weights: Mapping[int, AnyWeights]) -> Graph:
    inputs = [i for i, layer in enumerate(plan.layers) if isinstance(layer, InputLayer)]
    inner = [i for i in range(len(plan.layers)) if i not in set(inputs)]
    first, node = dict[int, int](), 0
    for i in [*inputs, *inner]:
        first[i] = node
        node += plan.num_folds[i]
    weight_starts, num_weights = _weight_starts(inner, weights)
    counts, children, places = [], [], []
    for i in inner:
        layer = plan.layers[i]
        assert not isinstance(layer, InputLayer)
        nodes = [_nodes(operand, first) for operand in layer.operands]
        if isinstance(layer, SegmentLayer):
            counts.append(np.bincount(layer.nodes, minlength=layer.num_nodes))
            children.append(nodes[0])
        else:
            counts.append(np.full(plan.num_folds[i], len(nodes)))
            children.append(np.stack(nodes, axis=1).reshape(-1))
        own = weights.get(i)
        places.append(_places(layer, own, weight_starts.get(i, 0), plan.num_folds[i], len(nodes)))
    starts = np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]))])
    return Graph(
        input_layers=tuple(inputs),
        tables=_tables(plan, inputs, weights),
        starts=starts.astype(np.int64),
        children=np.concatenate([[], *children]).astype(np.int32),
        places=np.concatenate([[], *places]).astype(np.int32),
        weight_starts=weight_starts,
        num_weights=num_weights,
    )


def _weight_starts(
    layers: list[int], weights: Mapping[int, AnyWeights]
) -> tuple[dict[int, int], int]:
    """Layers that share their weights share their places."""
    seen: dict[int, int] = {}
    starts, end = {}, 0
    for i in layers:
        if i in weights:
            own = weights[i]
            if id(own) not in seen:
                seen[id(own)] = end
                end += math.prod(own.log.shape)
            starts[i] = seen[id(own)]
    return starts, end


def _tables(plan: Plan, inputs: list[int], weights: Mapping[int, AnyWeights]) -> Tables:
    layer_starts, _ = _weight_starts(inputs, weights)
    first_row: dict[int, int] = {}
    lengths: list[Array] = []
    rows, variables = [], []
    for i in inputs:
        layer, log = plan.layers[i], weights[i].log
        assert isinstance(layer, InputLayer)
        groups, size = log.shape[0], log.shape[-1]
        if layer_starts[i] not in first_row:
            first_row[layer_starts[i]] = sum(map(len, lengths))
            lengths.append(np.full(groups, size))
        rows.append(first_row[layer_starts[i]] + np.arange(plan.num_folds[i]) % groups)
        variables.append(layer.variables)
    return Tables(
        layer_starts=layer_starts,
        row_starts=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        rows=np.concatenate(rows).astype(np.int64),
        variables=np.concatenate(variables).astype(np.int64),
    )


def _places(
    layer: InnerLayer, weights: AnyWeights | None, start: int, folds: int, slots: int
) -> Array:
    if weights is None:
        edges = len(layer.nodes) if isinstance(layer, SegmentLayer) else folds * slots
        return np.full(edges, -1)
    if isinstance(layer, SegmentSumLayer):
        return start + np.arange(len(layer.nodes))
    groups = weights.log.shape[0]
    table = np.arange(groups * slots).reshape(groups, slots)
    return start + table[np.arange(folds) % groups].reshape(-1)


def _nodes(operand: Operand, first: Mapping[int, int]) -> Array:
    joined = np.concatenate([first[source.layer] + source.folds() for source in operand.sources])
    return joined if operand.order is None else joined[operand.order]
