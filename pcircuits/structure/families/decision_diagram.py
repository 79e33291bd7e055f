"""Ordered decision diagrams, binary or of more categories, as circuits without parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pcircuits.structure.nodes import AnyNode, Input, Product, Sum

State = TypeVar("State", bound=Hashable)


def decision_diagram(
    layers: Sequence[Mapping[State, Mapping[State, int]]],
    variables: Sequence[int],
    num_categories: int,
    *,
    start: State,
    accepting: Collection[State],
    support: Callable[[int], tuple[int, ...]],
) -> AnyNode | None:
    """The node that is 1 on the assignments that lead from the start to an accepting state.

    It decides the variables in the given order, splits each from those after it, and is smooth and
    deterministic. States from which the same rest is accepted are one node.

    Args:
        layers: For each variable in order: state that can be reached -> next state -> bit mask of
            what leads to it.
        variables: The variables in the order in which they are decided.
        num_categories: Number of categories V of every variable.
        start: The state before the first variable.
        accepting: The states after the last variable that accept.
        support: Bit mask of a move -> the categories for which it is taken, ascending.

    Returns:
        The root, or None if nothing is accepted.
    """
    supports = _Supports(support, num_categories)
    # What follows a state: a node, or None after the last variable.
    rest: dict[State, AnyNode | None] = dict.fromkeys(accepting)
    for variable, layer in zip(reversed(variables), reversed(layers), strict=True):
        nodes = _LayerNodes(variable, supports)
        rest = {
            state: nodes.make(branches)
            for state, moves in layer.items()
            if (branches := _branches(moves, rest))
        }
    return rest.get(start)


def _branches(
    moves: Mapping[State, int], rest: Mapping[State, AnyNode | None]
) -> dict[AnyNode | None, int]:
    """What may follow -> the bit mask of what leads to it."""
    branches: dict[AnyNode | None, int] = {}
    for target, mask in moves.items():
        if target in rest:
            follower = rest[target]
            branches[follower] = branches.get(follower, 0) | mask
    return branches


@dataclass
class _Supports:
    """The categories of every mask, shared by all variables: they are long for large vocabularies.

    Attributes:
        find: Bit mask -> categories.
        num_categories: Number of categories V.
    """

    find: Callable[[int], tuple[int, ...]]
    num_categories: int
    known: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def indicator(self, variable: int, mask: int) -> Input:
        """The input that is 1 where the mask's moves are taken."""
        if mask not in self.known:
            self.known[mask] = self.find(mask)
        return Input(
            variable,
            num_units=1,
            num_categories=self.num_categories,
            supports=(self.known[mask],),
        )


@dataclass
class _LayerNodes:
    """The nodes that decide one variable, each made once."""

    variable: int
    supports: _Supports
    indicators: dict[int, Input] = field(default_factory=dict)
    products: dict[tuple[AnyNode, int], Product] = field(default_factory=dict)
    sums: dict[frozenset[tuple[AnyNode | None, int]], AnyNode] = field(default_factory=dict)

    def make(self, branches: Mapping[AnyNode | None, int]) -> AnyNode:
        """The node of all states with these branches."""
        key = frozenset(branches.items())
        if key not in self.sums:
            children = [self._branch(follower, mask) for follower, mask in branches.items()]
            single = len(children) == 1
            self.sums[key] = children[0] if single else Sum(*children, num_units=1, weighted=False)
        return self.sums[key]

    def _branch(self, follower: AnyNode | None, mask: int) -> AnyNode:
        if mask not in self.indicators:
            self.indicators[mask] = self.supports.indicator(self.variable, mask)
        if follower is None:
            return self.indicators[mask]
        key = (follower, mask)
        if key not in self.products:
            self.products[key] = Product(self.indicators[mask], follower)
        return self.products[key]
