"""Circuits of single sum, product and input nodes, as files and graphs give them.

All weights of all sums lie in one parameter and all input rows of one number of categories in
another, so that a circuit of 100,000 nodes has a handful of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pcircuits.errors import StructureError
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Part, Product, Sum

_MOST_SCOPE_BYTES = 2 * 2**30
SUM_PARAMETER = "sums"
"""Name of the parameter that holds the log-weights of all sums, one row after the other."""


def input_parameter(num_categories: int) -> str:
    """Name of the parameter that holds the rows of all inputs of V categories."""
    return f"inputs_{num_categories}"


@dataclass(frozen=True)
class _Input:
    variable: int
    num_categories: int
    log_weights: Sequence[float] | None
    support: tuple[int, ...] | None
    name: str | None


@dataclass(frozen=True)
class _Inner:
    children: Sequence[int]
    weighted: bool
    log_weights: Sequence[float] | None
    is_sum: bool
    name: str | None


class ScalarBuilder:
    """Collects nodes of one unit, children before parents, and makes them one circuit.

    Every `add_*` returns the number of the new node, by which later nodes name it as a child.
    Nothing but numbers is stored until `build`, which leaves out what the root does not reach.

    Examples:
        A biased coin, thrown once for a fair mixture of two biases:

        >>> import math
        >>> builder = pc.ScalarBuilder()
        >>> often = builder.add_input(0, [math.log(0.1), math.log(0.9)])
        >>> rarely = builder.add_input(0, [math.log(0.7), math.log(0.3)])
        >>> root = builder.add_sum([often, rarely], [math.log(0.5), math.log(0.5)])
        >>> model = pc.CircuitModel.of(builder.build(root))
        >>> model.log_likelihood(torch.tensor([[1]])).exp().detach()  # (0.9 + 0.3) / 2
        tensor([0.6000], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._entries: list[_Input | _Inner] = []
        self._scopes: list[int] = []
        self._scope_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def scope(self, node: int) -> int:
        """The variables of a node as a bit mask, as in `pcircuits.Scope.bits`."""
        return self._scopes[node]

    def add_input(
        self, variable: int, log_weights: Sequence[float], *, name: str | None = None
    ) -> int:
        """Adds a categorical distribution.

        Args:
            variable: Index of the variable, from 0.
            log_weights: Natural logarithm of the weight of every category.
            name: Name of the node.
        """
        entry = _Input(variable, len(log_weights), log_weights, None, name)
        return self._add(entry, 1 << variable)

    def add_indicator(
        self,
        variable: int,
        support: Sequence[int],
        num_categories: int,
        *,
        name: str | None = None,
    ) -> int:
        """Adds an input that is 1 on the categories of its support, else 0.

        Args:
            variable: Index of the variable, from 0.
            support: The categories.
            num_categories: Number of categories V of the variable.
            name: Name of the node.
        """
        entry = _Input(variable, num_categories, None, tuple(support), name)
        return self._add(entry, 1 << variable)

    def add_product(self, children: Sequence[int], *, name: str | None = None) -> int:
        """Adds a product of nodes with disjoint scopes."""
        return self._add_inner(_Inner(children, False, None, False, name))

    def add_sum(
        self,
        children: Sequence[int],
        log_weights: Sequence[float] | None = None,
        *,
        name: str | None = None,
    ) -> int:
        """Adds a sum of nodes with equal scopes.

        Args:
            children: Numbers of the children.
            log_weights: Natural logarithm of the weight of every child; None for a plain sum,
                all of whose weights are 1 and no parameters.
            name: Name of the node.

        Raises:
            StructureError: If there is not one weight a child, or a child is not there yet.
        """
        if log_weights is not None and len(log_weights) != len(children):
            raise StructureError(
                f"sum {len(self)} has {len(children)} children and {len(log_weights)} weights; "
                f"expected one weight a child"
            )
        return self._add_inner(_Inner(children, log_weights is not None, log_weights, True, name))

    def build(self, root: int) -> WeightedCircuit:
        """Makes the circuit under a root.

        Args:
            root: Number of the root.

        Returns:
            The circuit and its log-weights in float64: `sums` (all sums' weights, in the order in
            which the sums were added) and `inputs_V` (rows, V) for every number of categories V.

        Raises:
            StructureError: If the circuit is not smooth or not decomposable, or lacks variables.
        """
        return _Assembly(self._entries).build(root)

    def _add_inner(self, entry: _Inner) -> int:
        scope = 0
        for child in entry.children:
            if not 0 <= child < len(self._entries):
                raise StructureError(
                    f"node {len(self)} has child {child!r}; expected one of the nodes before it"
                )
            scope |= self._scopes[child]
        return self._add(entry, scope)

    def _add(self, entry: _Input | _Inner, scope: int) -> int:
        self._scope_bytes += scope.bit_length() // 8
        if self._scope_bytes > _MOST_SCOPE_BYTES:
            raise StructureError(
                f"the scopes of {len(self)} nodes over up to {scope.bit_length()} variables take "
                f"more than {_MOST_SCOPE_BYTES // 2**20} MiB"
            )
        self._entries.append(entry)
        self._scopes.append(scope)
        return len(self._entries) - 1


class _Assembly:
    """One `build`: nodes made in order, and their numbers laid into the shared parameters."""

    def __init__(self, entries: Sequence[_Input | _Inner]) -> None:
        self._entries = entries
        self._nodes: dict[int, AnyNode] = {}
        self._sum_weights: list[float] = []
        self._tables: dict[int, list[Sequence[float]]] = {}

    def build(self, root: int) -> WeightedCircuit:
        for place in _reached(self._entries, root):
            entry = self._entries[place]
            self._nodes[place] = (
                self._input(entry) if isinstance(entry, _Input) else self._inner(entry)
            )
        circuit = Circuit(self._nodes[root])
        return WeightedCircuit(circuit, self._log_weights())

    def _input(self, entry: _Input) -> Input:
        size = entry.num_categories
        if entry.support is not None:
            return Input(
                entry.variable,
                num_units=1,
                num_categories=size,
                supports=(entry.support,),
                name=entry.name,
            )
        assert entry.log_weights is not None, "an input without a support has weights"
        table = self._tables.setdefault(size, [])
        table.append(entry.log_weights)
        return Input(
            entry.variable,
            num_units=1,
            num_categories=size,
            parameter=Part(input_parameter(size), len(table) - 1),
            name=entry.name,
        )

    def _inner(self, entry: _Inner) -> Product | Sum:
        children = [self._nodes[child] for child in entry.children]
        if not entry.is_sum:
            return Product(*children, name=entry.name)
        if entry.log_weights is None:
            return Sum(*children, num_units=1, weighted=False, name=entry.name)
        start = len(self._sum_weights)
        self._sum_weights.extend(entry.log_weights)
        return Sum(*children, num_units=1, parameter=Part(SUM_PARAMETER, start), name=entry.name)

    def _log_weights(self) -> dict[str, torch.Tensor]:
        tensors = {
            input_parameter(size): torch.from_numpy(np.array(rows, dtype=np.float64))
            for size, rows in self._tables.items()
        }
        if self._sum_weights:
            tensors[SUM_PARAMETER] = torch.from_numpy(np.array(self._sum_weights, dtype=np.float64))
        return tensors


def _reached(entries: Sequence[_Input | _Inner], root: int) -> list[int]:
    """What lies under the root, children first: the order of adding."""
    reached = bytearray(root + 1)
    reached[root] = 1
    for place in range(root, -1, -1):
        entry = entries[place]
        if reached[place] and isinstance(entry, _Inner):
            for child in entry.children:
                reached[child] = 1
    return [place for place in range(root + 1) if reached[place]]
