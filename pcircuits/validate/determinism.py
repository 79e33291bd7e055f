"""Determinism: in every world at most one of the units that a sum unit adds is positive.

Whether two units are ever positive together is a search over the circuit: a product needs all of
its factors, a sum any of its terms, and parts without a common variable are independent. For
circuits that are structured-decomposable only pairs occur, so it takes polynomial time; otherwise
sets of units occur, and a limit ends the search undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import Input, Sum
from pcircuits.validate.splits import merged
from pcircuits.validate.units import Feeds, UnitGraph, Zeros

DEFAULT_LIMIT = 200_000
"""States of the search; a few seconds."""

Together = tuple[int, ...]
"""Inputs and units of sums, connected by their scopes, that are to be positive in one world."""


@dataclass(frozen=True)
class Overlap:
    """A counterexample to determinism: a world in which a sum unit adds two positive units.

    Attributes:
        node: Name of the sum.
        unit: Its unit.
        terms: Name and unit of two of its terms; twice the same if it is added twice.
        world: Variable of the sum's scope -> category.

    Examples:
        >>> mixture = pc.families.mixture(2, num_components=2, num_categories=2)
        >>> overlap = pc.validate(mixture).overlap
        >>> overlap.world  # both components of the mixture can make it
        {0: 0, 1: 0}
        >>> overlap.terms
        (('components', 0), ('components', 1))
    """

    node: str
    unit: int
    terms: tuple[tuple[str, int], tuple[str, int]]
    world: dict[int, int]

    def __str__(self) -> str:
        (first, k), (second, j) = self.terms
        shown = list(self.world.items())
        world = ", ".join(f"{variable}: {category}" for variable, category in shown[:12])
        more = ", ..." if len(shown) > 12 else ""
        return (
            f"unit {self.unit} of sum {self.node!r} adds unit {k} of {first!r} and unit {j} of "
            f"{second!r}, which are both positive in the world {{{world}{more}}}"
        )


@dataclass(frozen=True)
class Determinism:
    """Whether a circuit is deterministic.

    Attributes:
        holds: True or False if proven, None if the search reached its limit.
        overlap: The counterexample if False.

    Examples:
        >>> answer = pc.determinism(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> answer.holds, answer.overlap.world
        (False, {0: 0, 1: 0})
    """

    holds: bool | None
    overlap: Overlap | None = None


class _LimitReached(Exception):
    """The search has visited as many states as it may."""


def determinism(
    circuit: Circuit, zeros: Zeros | None = None, *, limit: int = DEFAULT_LIMIT
) -> Determinism:
    """Decides whether at most one term of each sum unit is positive in any world.

    A weight counts as positive unless `zeros` says otherwise, an input unit as positive on its
    support. Units that do not reach the root through positive weights do not count.

    Args:
        circuit: A smooth and decomposable circuit.
        zeros: Parameter name -> nested lists of its shape, true where the weight is zero.
        limit: Largest number of states to search.

    Returns:
        The answer, with a world as a counterexample.

    Examples:
        >>> tree = pc.families.chow_liu([-1, 0, 1], num_categories=2)
        >>> pc.determinism(tree).holds
        True
    """
    graph = UnitGraph(circuit, zeros)
    used = graph.used()
    search = _Search(graph, limit)
    try:
        for node in circuit.nodes:
            if not isinstance(node, Sum):
                continue
            for feeds, unit in graph.distinct_feeds(node, used).items():
                pair = _overlapping_pair(graph, search, feeds)
                if pair is not None:
                    return Determinism(False, _overlap(graph, search, unit, pair))
    except _LimitReached:
        return Determinism(None)
    return Determinism(True)


def _overlapping_pair(graph: UnitGraph, search: _Search, feeds: Feeds) -> tuple[int, int] | None:
    """Two units that are positive together, or None if there are none."""
    exclusions = [excluded for unit in feeds if (excluded := graph.excluded[unit]) is not None]
    if len(feeds) < 2 or graph.bits.separated(exclusions):
        return None
    for first, second in combinations(feeds, 2):
        if search.together((first, second)) is not None:
            return first, second
    return None


def _overlap(graph: UnitGraph, search: _Search, unit: int, pair: tuple[int, int]) -> Overlap:
    name, place = graph.place(unit)
    first, second = pair
    return Overlap(name, place, (graph.place(first), graph.place(second)), search.world(pair))


class _Search:
    """Searches worlds in which several units are positive; what it has decided it remembers."""

    def __init__(self, graph: UnitGraph, limit: int) -> None:
        self._graph = graph
        self._left = limit
        # What to make positive instead, or None if no world does.
        self._known: dict[Together, list[Together] | None] = {}

    def together(self, units: Iterable[int]) -> list[Together] | None:
        """Independent sets of units, each positive in some world and with it all of `units`.

        Raises:
            _LimitReached: If the search has become too large.
        """
        parts = self._independent(units)
        for part in parts or ():
            self._decide(part)
            if not self._possible(part):
                return None
        return parts

    def world(self, units: Iterable[int]) -> dict[int, int]:
        """A world in which all are positive, of units for which `together` found one."""
        world: dict[int, int] = {}
        stack = list(self.together(units) or ())
        while stack:
            part = stack.pop()
            node = self._graph.node(part[0])
            if not self._simple(part):
                stack += self._known[part] or ()
            elif isinstance(node, Input):
                world[node.variable] = self._graph.bits.first_left(
                    node.variable, self._excluded(part)
                )
            else:
                stack += self._independent(self._graph.feeds[part[0]][:1]) or ()
        return dict(sorted(world.items()))

    def _decide(self, part: Together) -> None:
        """Depth first, with a stack of its own: circuits are deeper than Python's."""
        if self._settled(part):
            return
        stack = [self._steps(part)]
        while stack:
            below = next(stack[-1], None)
            if below is None:
                stack.pop()
            else:
                stack.append(self._steps(below))

    def _steps(self, part: Together) -> Iterator[Together]:
        """Tries the terms of one sum; yields what has to be decided first."""
        self._left -= 1
        if self._left < 0:
            raise _LimitReached
        sums = (unit for unit in part if isinstance(self._graph.node(unit), Sum))
        opened = max(sums, key=lambda unit: len(self._graph.node(unit).scope))
        others = tuple(unit for unit in part if unit != opened)
        self._known[part] = None
        for feed in self._graph.feeds[opened]:
            inner = self._independent((*others, feed))
            if inner is None:
                continue
            for piece in inner:
                if not self._settled(piece):
                    yield piece
                if not self._possible(piece):
                    break
            else:
                self._known[part] = inner
                return

    def _settled(self, part: Together) -> bool:
        return self._simple(part) or part in self._known

    def _possible(self, part: Together) -> bool:
        return self._simple(part) or self._known[part] is not None

    def _simple(self, part: Together) -> bool:
        """One unit is positive somewhere; inputs of one variable are, since no bit says no."""
        return len(part) == 1 or all(isinstance(self._graph.node(u), Input) for u in part)

    def _independent(self, units: Iterable[int]) -> list[Together] | None:
        """Products replaced by their factors, the rest by connected scope; None if impossible."""
        opened = self._factors(units)
        if self._graph.bits.contradictory(self._excluded(opened)):
            return None
        by_scope: dict[int, list[int]] = {}
        for unit in opened:
            by_scope.setdefault(self._graph.node(unit).scope.bits, []).append(unit)
        blocks = merged(by_scope)
        if len(blocks) == len(by_scope):
            return [tuple(sorted(part)) for part in by_scope.values()]
        return [
            tuple(
                sorted(unit for scope, part in by_scope.items() if scope & block for unit in part)
            )
            for block in blocks
        ]

    def _factors(self, units: Iterable[int]) -> set[int]:
        found: set[int] = set()
        stack = list(units)
        while stack:
            unit = stack.pop()
            if isinstance(self._graph.node(unit), (Input, Sum)):
                found.add(unit)
            else:
                stack += self._graph.feeds[unit]
        return found

    def _excluded(self, units: Iterable[int]) -> int:
        excluded = 0
        for unit in units:
            excluded |= self._graph.excluded[unit] or 0
        return excluded
