"""Products split into factors, and their factors grouped anew, to fit the splits of others."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.structure.nodes import AnyNode, KroneckerProduct, Product
from pcircuits.validate.splits import merged


class Regrouping:
    """Nodes as products of the parts that a common split of two nodes asks for.

    What has been found is kept: one product of many factors meets many others.
    """

    def __init__(self) -> None:
        self._regrouped: dict[tuple[type, tuple[AnyNode, ...]], AnyNode] = {}
        self._parts: dict[tuple[AnyNode, int], tuple[AnyNode, Tensor]] = {}
        self._splits: dict[AnyNode, int] = {}
        self._numbers: dict[frozenset[int], int] = {}
        self._common: dict[tuple[int, int], tuple[int, ...]] = {}

    def common_scopes(self, first: AnyNode, second: AnyNode) -> tuple[int, ...]:
        """Scopes of the parts into which both nodes can be split, found once for each two splits.

        A product of many factors meets many products: to look at all factors each time would take
        time quadratic in the number of variables.
        """
        splits = (self._split(first), self._split(second))
        if splits not in self._common:
            scopes = [factor.scope.bits for node in (first, second) for factor in _factors(node)]
            self._common[splits] = tuple(sorted(merged(scopes), key=int.bit_count))
        return self._common[splits]

    def _split(self, node: AnyNode) -> int:
        """A number for the scopes of the node's factors."""
        if node not in self._splits:
            scopes = frozenset(factor.scope.bits for factor in _factors(node))
            self._splits[node] = self._numbers.setdefault(scopes, len(self._numbers))
        return self._splits[node]

    def part(self, node: AnyNode, scope: int) -> tuple[AnyNode, Tensor]:
        """The factors of a node inside a scope as one node, and its unit for each of the node's."""
        if (node, scope) not in self._parts:
            inside = tuple(f for f in _factors(node) if f.scope.bits & scope)
            units = torch.arange(node.num_units)
            if isinstance(node, KroneckerProduct):
                units = _inner_units(node, scope)
            self._parts[node, scope] = self._group(node, inside), units
        return self._parts[node, scope]

    def _group(self, node: AnyNode, inside: tuple[AnyNode, ...]) -> AnyNode:
        if len(inside) == 1:
            return inside[0]
        if len(inside) == len(_factors(node)):
            return node
        kind = KroneckerProduct if isinstance(node, KroneckerProduct) else Product
        if (kind, inside) not in self._regrouped:
            self._regrouped[kind, inside] = kind(*inside)
        return self._regrouped[kind, inside]


def _inner_units(node: KroneckerProduct, scope: int) -> Tensor:
    """For each unit of an all-pairs product, the unit of the product of its factors in a scope."""
    remaining = torch.arange(node.num_units)
    unit, radix = torch.zeros_like(remaining), 1
    for factor in reversed(node.children):
        if factor.scope.bits & scope:
            unit = unit + radix * (remaining % factor.num_units)
            radix *= factor.num_units
        remaining = remaining // factor.num_units
    return unit


def _factors(node: AnyNode) -> tuple[AnyNode, ...]:
    return node.children if isinstance(node, (Product, KroneckerProduct)) else (node,)
