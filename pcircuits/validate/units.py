"""A circuit seen unit by unit: what feeds each scalar, and the categories it needs to be positive.

Units are numbered node by node in topological order. What a unit excludes, the categories on which
it is zero whatever the other variables, is one integer, and the exclusions of sums and products are
the bitwise and / or of those that feed them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum
from pcircuits.validate.categories import CategoryBits, category_set

Zeros = Mapping[str, Sequence[Any]]
"""Parameter name -> nested lists of its shape, true where a weight is known to be zero."""

Feeds = tuple[int, ...]
"""The units that feed a unit."""


class UnitGraph:
    """The units of a circuit that can be positive, and what feeds each of them.

    Args:
        circuit: The circuit.
        zeros: Weights known to be zero.

    Attributes:
        bits: Layout of the exclusions.
        feeds: Unit -> the units that it adds or multiplies, without those that are always zero.
        excluded: Unit -> its exclusions; None if it is zero in every world.
    """

    def __init__(self, circuit: Circuit, zeros: Zeros | None = None) -> None:
        self.circuit = circuit
        self.feeds: list[Feeds] = []
        self.excluded: list[int | None] = []
        self._zeros = zeros or {}
        self._starts: list[int] = []
        self._first: dict[AnyNode, int] = {}
        self._supports: dict[int, int] = {}
        self._absent = {node: self._absent_sets(node) for node in circuit.inputs}
        self.bits = self._category_bits()
        for node in circuit.nodes:
            self._first[node] = len(self.feeds)
            self._starts.append(len(self.feeds))
            self._add(node)

    def units(self, node: AnyNode) -> range:
        """The units of a node."""
        return range(self._first[node], self._first[node] + node.num_units)

    def node(self, unit: int) -> AnyNode:
        """The node of a unit."""
        return self.circuit.nodes[bisect_right(self._starts, unit) - 1]

    def place(self, unit: int) -> tuple[str, int]:
        """Name of the node of a unit, and its number there."""
        node = self.node(unit)
        return self.circuit.node_names[node], unit - self._first[node]

    def used(self) -> bytearray:
        """Which units reach the root through weights and units that are not zero."""
        used = bytearray(len(self.feeds))
        root = self._first[self.circuit.root]
        used[root] = self.excluded[root] is not None
        for node in reversed(self.circuit.nodes):
            for feeds in self.distinct_feeds(node, used):
                for feed in feeds:
                    used[feed] = True
        return used

    def distinct_feeds(self, node: AnyNode, used: bytearray) -> dict[Feeds, int]:
        """What feeds the used units of a node -> the first unit that is fed by it."""
        found: dict[Feeds, int] = {}
        for unit in self.units(node):
            if used[unit]:
                found.setdefault(self.feeds[unit], unit)
        return found

    def _add(self, node: AnyNode) -> None:
        match node:
            case Input():
                self._add_input(node)
            case Sum():
                self._add_sum(node)
            case Product():
                columns = [self.units(child) for child in node.children]
                self._add_products(zip(*columns, strict=True))
            case KroneckerProduct():
                self._add_products(itertools.product(*map(self.units, node.children)))

    def _absent_sets(self, node: Input) -> list[int]:
        """For each unit the categories on which it is zero, as a bit mask."""
        size = node.num_categories
        if node.supports is not None:
            return [self._complement(support, size) for support in node.supports]
        return [
            category_set((v for v in range(size) if zeros[v]), size) if zeros else 0
            for zeros in self._rows(node, node.num_units)
        ]

    def _complement(self, support: tuple[int, ...], size: int) -> int:
        # By identity: supports of many categories are shared by many inputs, and long to compare.
        if id(support) not in self._supports:
            self._supports[id(support)] = category_set(support, size)
        return (1 << size) - 1 - self._supports[id(support)]

    def _category_bits(self) -> CategoryBits:
        sets: list[set[int]] = [set() for _ in self.circuit.categories]
        for node, absent in self._absent.items():
            sets[node.variable].update(absent)
        return CategoryBits(self.circuit.categories, sets)

    def _add_input(self, node: Input) -> None:
        everything = (1 << node.num_categories) - 1
        for absent in self._absent[node]:
            dead = absent == everything
            self.feeds.append(())
            self.excluded.append(None if dead else self.bits.excluding(node.variable, absent))

    def _add_sum(self, node: Sum) -> None:
        """Adds the units; those that are fed alike share the tuple and what it excludes."""
        known: dict[Feeds, tuple[Feeds, int | None]] = {}
        dense = None if node.mixing else tuple(u for c in node.children for u in self.units(c))
        for unit, zeros in enumerate(self._rows(node, node.num_units)):
            feeds = dense if dense is not None else self._mixed(node, unit)
            if zeros:
                feeds = tuple(feed for feed, zero in zip(feeds, zeros, strict=True) if not zero)
            if feeds not in known:
                alive = tuple(feed for feed in feeds if self.excluded[feed] is not None)
                known[feeds] = alive, self._excluded_by_all(alive)
            alive, excluded = known[feeds]
            self.feeds.append(alive)
            self.excluded.append(excluded)

    def _mixed(self, node: Sum, unit: int) -> Feeds:
        return tuple(
            self._first[child] + (unit if child.num_units > 1 else 0) for child in node.children
        )

    def _excluded_by_all(self, feeds: Feeds) -> int | None:
        result: int | None = None
        for feed in feeds:
            excluded = self.excluded[feed]
            assert excluded is not None, "units that are always zero were dropped"
            result = excluded if result is None else result & excluded
        return result

    def _add_products(self, combinations: Iterator[Feeds]) -> None:
        for feeds in combinations:
            excluded: int | None = 0
            for feed in feeds:
                own = self.excluded[feed]
                excluded = None if own is None or excluded is None else excluded | own
            self.feeds.append(() if excluded is None else feeds)
            self.excluded.append(excluded)

    def _rows(self, node: Input | Sum, count: int) -> Iterator[Sequence[Any] | None]:
        """For each unit of a node, where its weights are zero; None if nowhere."""
        zeros = self._zeros.get(self.circuit.parameter_names[node]) if node.has_parameter else None
        if zeros is None:
            yield from itertools.repeat(None, count)
            return
        start = node.parameter.start if isinstance(node.parameter, Part) else 0
        width = node.parameter_shape[-1]
        for unit in range(count):
            if isinstance(node, Input):
                row = zeros[start + unit]
            elif isinstance(node.parameter, Part):
                row = zeros[start + unit * width : start + (unit + 1) * width]
            else:
                row = zeros if node.num_units == 1 else zeros[unit]
            yield row if any(row) else None
