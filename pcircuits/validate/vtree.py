"""The tree of variables that a structured-decomposable circuit follows."""

from __future__ import annotations

from dataclasses import dataclass

from pcircuits.structure.scope import Scope

NestedVariables = int | tuple["NestedVariables", ...]
"""A variable, or the parts that a scope is split into."""


@dataclass(frozen=True, repr=False)
class Vtree:
    """A variable tree: how every scope of a circuit is split (Pipatsrisawat and Darwiche, 2008).

    A node splits its variables into two or more parts; the leaves are single variables. The nodes
    are kept in lists, since the tree of a chain is as deep as the chain is long.

    Args:
        scopes: Variables below each node, the root's first, each node before its parts.
        parts: Indices of the nodes that each node is split into; () for a leaf.

    Examples:
        >>> vtree = pc.validate(pc.families.binary_tree(4, num_units=2, num_categories=2)).vtree
        >>> vtree.nested(), vtree.depth
        (((0, 1), (2, 3)), 2)
    """

    scopes: tuple[Scope, ...]
    parts: tuple[tuple[int, ...], ...]

    @property
    def num_variables(self) -> int:
        """Number of variables, which is the number of leaves."""
        return len(self.scopes[0])

    @property
    def binary(self) -> bool:
        """Whether every split is in two."""
        return all(len(parts) in (0, 2) for parts in self.parts)

    @property
    def depth(self) -> int:
        """Edges on the longest path from the root to a leaf."""
        depths = [0] * len(self.parts)
        for node in reversed(range(len(self.parts))):
            depths[node] = max((depths[part] + 1 for part in self.parts[node]), default=0)
        return depths[0]

    def nested(self) -> NestedVariables:
        """The tree as nested tuples of variables, `((0, 1), 2)`."""
        made: dict[int, NestedVariables] = {}
        for node in reversed(range(len(self.parts))):
            parts = self.parts[node]
            if parts:
                made[node] = tuple(made.pop(part) for part in parts)
            else:
                made[node] = next(iter(self.scopes[node]))
        return made[0]

    def to_text(self) -> str:
        """The tree in one line, `((0 1) 2)`; a tree of any depth."""
        words: list[str] = []
        stack: list[int | str] = [0]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                words.append(item)
            elif not self.parts[item]:
                words.append(str(next(iter(self.scopes[item]))))
            else:
                stack += [")", *reversed(self.parts[item]), "("]
        return " ".join(words).replace("( ", "(").replace(" )", ")")

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        kind = "binary" if self.binary else "n-ary"
        return f"Vtree({self.num_variables} variables, {kind}, depth {self.depth})"
