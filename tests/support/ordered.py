"""Circuits that follow one order of the variables: any two of them are compatible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

import pcircuits as pc

AnyNode = pc.Input | pc.Product | pc.KroneckerProduct | pc.Sum
Draw = Callable[[st.SearchStrategy], object]


@st.composite
def ordered_circuits(
    draw: Draw, categories: Sequence[int], *, deterministic: bool, whole: bool = True
) -> pc.Circuit:
    """Circuits whose products split the first variables of 0 .. L-1 from the rest.

    Args:
        draw: Given by hypothesis.
        categories: Categories of every variable.
        deterministic: Whether sums decide their first variable, so that terms never overlap.
        whole: Whether every world has positive weight.
    """
    builder = _Ordered(draw, tuple(categories), deterministic, whole)
    return pc.Circuit(builder.node(0, units=1))


@dataclass
class _Ordered:
    draw: Draw
    categories: tuple[int, ...]
    deterministic: bool
    whole: bool
    made: dict[tuple[int, int], list[AnyNode]] = field(default_factory=dict)

    def node(self, first: int, *, units: int) -> AnyNode:
        """A node over the variables from `first` on."""
        known = self.made.setdefault((first, units), [])
        if known and (len(known) > 1 or self.draw(st.booleans())):
            return self.draw(st.sampled_from(known))
        if not self.deterministic:
            node = self._mixture(first, units)
        elif units > 1 or self.draw(st.integers(0, 3)) == 0:
            node = self._chain(first, units)
        else:
            node = self._decision(first)
        known.append(node)
        return node

    def _chain(self, first: int, units: int) -> AnyNode:
        """Units that decide the first variable, its value being all that the rest knows."""
        size = self.categories[first]
        single = tuple((category,) for category in range(size))
        leaf = pc.Input(first, num_units=size, num_categories=size, supports=single)
        if first == len(self.categories) - 1:
            return pc.Sum(leaf, num_units=units)
        return pc.Sum(pc.Product(leaf, self.node(first + 1, units=size)), num_units=units)

    def _decision(self, first: int) -> AnyNode:
        """One unit that decides the first variable."""
        size = self.categories[first]
        labels = [self.draw(st.integers(0, 1 if self.whole else 2)) for _ in range(size)]
        groups = [tuple(c for c in range(size) if labels[c] == label) for label in range(2)]
        supports = tuple(group for group in groups if group) or ((0,),)
        if first == len(self.categories) - 1:
            return self._last(first, supports)
        terms = []
        for group in supports:
            own = self._over(first, group)
            terms.append(self._times(own, self.node(first + 1, units=1)))
        weighted = self.draw(st.booleans())
        return terms[0] if len(terms) == 1 else pc.Sum(*terms, num_units=1, weighted=weighted)

    def _over(self, variable: int, group: tuple[int, ...]) -> AnyNode:
        """A distribution over, or the indicator of, a group of categories."""
        size = self.categories[variable]
        if len(group) == 1 or self.draw(st.booleans()):
            return pc.Input(variable, num_units=1, num_categories=size, supports=(group,))
        single = tuple((category,) for category in group)
        leaf = pc.Input(variable, num_units=len(group), num_categories=size, supports=single)
        return pc.Sum(leaf, num_units=1)

    def _last(self, variable: int, supports: tuple[tuple[int, ...], ...]) -> AnyNode:
        if self.whole and self.draw(st.booleans()):
            return pc.Input(variable, num_units=1, num_categories=self.categories[variable])
        parts = [self._over(variable, group) for group in supports]
        return parts[0] if len(parts) == 1 else pc.Sum(*parts, num_units=1)

    def _mixture(self, first: int, units: int) -> AnyNode:
        """Units that mix products of distributions."""
        size = self.categories[first]
        inner = self.draw(st.integers(1, 3))
        if first == len(self.categories) - 1:
            leaf = pc.Input(first, num_units=inner, num_categories=size)
            return pc.Sum(leaf, num_units=units)
        if self.draw(st.booleans()):
            leaf = pc.Input(first, num_units=inner, num_categories=size)
            product = pc.KroneckerProduct(leaf, self.node(first + 1, units=2))
        else:
            leaf = pc.Input(first, num_units=inner, num_categories=size)
            product = pc.Product(leaf, self.node(first + 1, units=inner))
        return pc.Sum(product, num_units=units)

    def _times(self, own: AnyNode, rest: AnyNode) -> AnyNode:
        """A product, sometimes in another order or with its last factor's factors spread out."""
        if isinstance(rest, pc.Product) and self.draw(st.booleans()):
            return pc.Product(own, *rest.children)
        kind = self.draw(st.sampled_from([pc.Product, pc.KroneckerProduct]))
        return kind(*self.draw(st.permutations([own, rest])))
