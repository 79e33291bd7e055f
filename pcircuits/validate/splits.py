"""How products split scopes: the vtree of one circuit, the compatibility of two.

A split is a partition of a scope. A product of many factors may be regrouped, so splits need not
be equal: two fit together if no part of one cuts a part of the other, and if so again within the
parts (Vergari et al., "A compositional atlas of tractable circuit operations for probabilistic
inference", NeurIPS 2021, definition 2.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, KroneckerProduct, Product
from pcircuits.structure.scope import Scope
from pcircuits.validate.scopes import scopes_of
from pcircuits.validate.vtree import Vtree

Split = frozenset[int]
"""The parts of a scope as bit masks."""

Splits = dict[int, dict[Split, str]]
"""Scope (as a bit mask) -> its different splits, each with the name of a product that makes it."""


@dataclass(frozen=True)
class Clash:
    """Two products that no common split of a scope is coarser than.

    Attributes:
        products: Names of the two products.
        splits: How each of them splits the variables in question.

    Examples:
        >>> left = pc.families.linear_tree(3, num_units=2, num_categories=2)
        >>> right = pc.families.linear_tree(3, num_units=2, num_categories=2, order=[1, 0, 2])
        >>> pc.compatible(left, right).clash.texts()
        ('{0} | {1-2}', '{1} | {0, 2}')
    """

    products: tuple[str, str]
    splits: tuple[Split, Split]

    @property
    def scope(self) -> Scope:
        """The variables in question."""
        return Scope(sum(self.splits[0]))

    def texts(self) -> tuple[str, str]:
        """Both splits, written `{0} | {1-2}`."""
        return split_text(self.splits[0]), split_text(self.splits[1])


def splits_of(circuit: Circuit, scopes: Mapping[AnyNode, Scope]) -> Splits:
    """The different splits of every scope; a product of one factor splits nothing."""
    splits: Splits = {}
    for node in circuit.nodes:
        if isinstance(node, (Product, KroneckerProduct)) and len(node.children) > 1:
            split = frozenset(scopes[child].bits for child in node.children)
            found = splits.setdefault(scopes[node].bits, {})
            found.setdefault(split, circuit.node_names[node])
    return splits


def merged(parts: Iterable[int]) -> list[int]:
    """Bit masks joined where they overlap: the finest partition coarser than all given ones."""
    found = set(parts)
    everything = reduce(or_, found, 0)
    if sum(map(int.bit_count, found)) == everything.bit_count():
        return sorted(found, key=lambda part: part & -part)
    blocks: list[int] = []
    for part in sorted(found, key=int.bit_count, reverse=True):
        apart = []
        for block in blocks:
            if block & part:
                part |= block
            else:
                apart.append(block)
        blocks = [*apart, part]
    return sorted(blocks, key=lambda block: block & -block)


def vtree_of(circuit: Circuit, scopes: Mapping[AnyNode, Scope]) -> Vtree | Clash:
    """The vtree that all products follow, split no finer than they need; or why there is none."""
    splits = splits_of(circuit, scopes)
    queue: list[tuple[int, dict[Split, str]]] = [(scopes[circuit.root].bits, {})]
    parts: list[tuple[int, ...]] = []
    for bits, inherited in queue:  # it grows while it is read
        own = inherited | splits.get(bits, {})
        blocks = merged(part for split in own for part in split)
        if not all(any(block in split for split in own) for block in blocks):
            clash = _first_of_pairs(own.items(), own.items())
            assert clash is not None, "a block that is no part joins two that cut each other"
            return clash
        parts.append(tuple(range(len(queue), len(queue) + len(blocks))))
        queue += [(block, _within(own, block)) for block in blocks]
    return Vtree(tuple(Scope(bits) for bits, _ in queue), tuple(parts))


def _within(splits: Mapping[Split, str], block: int) -> dict[Split, str]:
    """What is left to split inside one block, of products that were split coarser than they do."""
    inside: dict[Split, str] = {}
    for split, name in splits.items():
        if block not in split:
            inside.setdefault(frozenset(part for part in split if part & block), name)
    return inside


def _first_of_pairs(
    first: Iterable[tuple[Split, str]], second: Iterable[tuple[Split, str]]
) -> Clash | None:
    """The first two splits of which parts cut each other."""
    for (mine, name), (theirs, other) in product(first, second):
        for block in merged((*mine, *theirs)):
            if block not in mine and block not in theirs:
                return Clash((name, other), (_inside(mine, block), _inside(theirs, block)))
    return None


@dataclass(frozen=True)
class Compatibility:
    """Whether two circuits can be multiplied; true or false in conditions.

    Attributes:
        holds: Whether they are compatible.
        reason: One sentence.
        clash: If not: products of the first and of the second circuit whose splits do not fit;
            None if the circuits' variables differ already.

    Examples:
        >>> model = pc.families.hmm(4, num_states=3, num_categories=2)
        >>> found = pc.compatible(model, pc.families.hmm(5, num_states=3, num_categories=2))
        >>> bool(found)
        False
        >>> print(found.reason.split(",")[0])
        not compatible: the circuits are functions of different variables
    """

    holds: bool
    reason: str
    clash: Clash | None = None

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        return self.reason


def compatible(first: Circuit, second: Circuit) -> Compatibility:
    """Whether every two products of two circuits with the same scope can be split alike.

    Then the circuits can be multiplied by `pc.operators.multiply` (Vergari et al., NeurIPS 2021,
    definition 2.6). A fully factorised circuit is compatible with every circuit.

    Args:
        first: A circuit.
        second: Another circuit, or the same.

    Returns:
        The answer, and two products as a counterexample.

    Examples:
        >>> hmm = pc.families.hmm(4, num_states=3, num_categories=2)
        >>> pattern = pc.families.regular_expression("a+b+", 4, ["a", "b"])
        >>> bool(pc.compatible(hmm, pattern))  # so the model can be constrained by the pattern
        True
    """
    if first.categories != second.categories:
        return Compatibility(
            False,
            "not compatible: the circuits are functions of different variables, with "
            f"{_sizes(first)} and {_sizes(second)}",
        )
    clash = _first_clash(
        splits_of(first, scopes_of(first)), splits_of(second, scopes_of(second)), first.root.scope
    )
    if clash is None:
        return Compatibility(True, "compatible: all products of one scope can be split alike")
    ours, theirs = clash.texts()
    return Compatibility(
        False,
        f"not compatible: product {clash.products[0]!r} of the first circuit splits {clash.scope} "
        f"into {ours} and product {clash.products[1]!r} of the second into {theirs}",
        clash,
    )


def _sizes(circuit: Circuit) -> str:
    sizes = circuit.categories
    text = ", ".join(map(str, sizes[:8])) + (", ..." if len(sizes) > 8 else "")
    return f"{len(sizes)} of {text} categories"


def _first_clash(first: Splits, second: Splits, root: Scope) -> Clash | None:
    whole = frozenset((root.bits,))
    seen = {(whole, whole)}
    stack: list[tuple[Split, Split, str, str]] = [(whole, whole, "", "")]
    while stack:
        left, right, name, other = stack.pop()
        mine, theirs = _options(first, left, name), _options(second, right, other)
        clash = _first_of_pairs(mine, theirs)
        if clash is not None:
            return clash
        for (my_split, my_name), (their_split, their_name) in product(mine, theirs):
            for pair in _pairs(my_split, their_split):
                if pair not in seen:
                    seen.add(pair)
                    stack.append((*pair, my_name, their_name))
    return None


def _options(splits: Splits, parts: Split, name: str) -> Iterable[tuple[Split, str]]:
    """The splits of one scope; several parts are what is left of a product, split already."""
    if len(parts) > 1:
        return [(parts, name)]
    (bits,) = parts
    return splits.get(bits, {}).items()


def _pairs(first: Split, second: Split) -> Iterator[tuple[Split, Split]]:
    for block in merged((*first, *second)):
        if block.bit_count() > 1:
            yield _inside(first, block), _inside(second, block)


def _inside(split: Split, block: int) -> Split:
    if block in split:
        return frozenset((block,))
    return frozenset(part for part in split if part & block)


def split_text(split: Split) -> str:
    """A split written `{0} | {1-2}`."""
    return " | ".join(repr(Scope(part)) for part in sorted(split))
