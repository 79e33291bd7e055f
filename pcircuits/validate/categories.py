"""Sets of categories of all variables in one integer.

Each variable has one bit for each class of its categories and one guard bit above them. Categories
that the inputs never tell apart are one class: a vocabulary of thousands has a few. Exclusions set
the bits of what is ruled out, so "is any variable left without a category" is one addition whose
carries end in the guard bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

_MOST_SETS = 256
"""More different sets than this are not looked through for classes."""

_FEWEST_CATEGORIES = 64
"""Fewer categories than this are as quick without classes."""


def category_set(categories: Iterable[int], size: int) -> int:
    """A set of categories as a bit mask."""
    # Bit by bit in an integer would be quadratic in the number of categories.
    digits = bytearray(b"0") * (size + 1)
    for category in categories:
        digits[-1 - category] = ord("1")
    return int(digits, 2)


class CategoryBits:
    """Where the categories of every variable are in the exclusions.

    Args:
        categories: Number of categories of every variable.
        sets: For every variable the sets that occur, as bit masks.
    """

    def __init__(self, categories: Sequence[int], sets: Sequence[Collection[int]]) -> None:
        known: dict[tuple[int, frozenset[int]], list[int]] = {}
        self._classes: list[list[int]] = []
        for size, own in zip(categories, map(frozenset, sets), strict=True):
            if (size, own) not in known:
                known[size, own] = _classes(size, own)
            self._classes.append(known[size, own])
        sizes = [len(found) or size for size, found in zip(categories, self._classes, strict=True)]
        self._starts = tuple(itertools.accumulate((size + 1 for size in sizes), initial=0))
        self._known: dict[tuple[int, int], int] = {}
        self._lowest = sum(1 << start for start in self._starts[:-1])
        self._guards = sum(1 << (end - 1) for end in self._starts[1:])
        self._all = (1 << self._starts[-1]) - 1 - self._guards

    def excluding(self, variable: int, absent: int) -> int:
        """The exclusions of a set of categories of one variable."""
        classes = self._classes[variable]
        if not classes:
            return absent << self._starts[variable]
        key = (id(classes), absent)
        if key not in self._known:
            inside = (place for place, members in enumerate(classes) if members & absent)
            self._known[key] = category_set(inside, len(classes))
        return self._known[key] << self._starts[variable]

    def contradictory(self, excluded: int) -> bool:
        """Whether some variable has no category left."""
        return excluded != 0 and bool((excluded + self._lowest) & self._guards)

    def separated(self, exclusions: Sequence[int]) -> bool:
        """Whether one variable tells all apart: each of its categories is left to one at most."""
        if not all(exclusions):
            return False
        seen = shared = 0
        for excluded in exclusions:
            left = self._all & ~excluded
            shared |= seen & left
            seen |= left
        return self.contradictory(self._all & ~shared)

    def first_left(self, variable: int, excluded: int) -> int:
        """A category of a variable that is not excluded, the smallest of its class."""
        left = ~(excluded >> self._starts[variable])
        place = (left & -left).bit_length() - 1
        classes = self._classes[variable]
        return (classes[place] & -classes[place]).bit_length() - 1 if classes else place


def _classes(size: int, sets: Collection[int]) -> list[int]:
    """The categories that lie in the same sets, as bit masks; [] for each by itself."""
    if size < _FEWEST_CATEGORIES or len(sets) > _MOST_SETS:
        return []
    classes = [(1 << size) - 1]
    for members in sets:
        halves = ((found & members, found & ~members) for found in classes)
        classes = [part for pair in halves for part in pair if part]
    return classes
