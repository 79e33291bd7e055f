"""NumberedVtree files: the tree of variables that an SDD or PSDD follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pcircuits.errors import FormatError
from pcircuits.io.lines import Line, read_lines


@dataclass(frozen=True)
class NumberedVtree:
    """A binary tree whose leaves are variables (Darwiche, "SDD", IJCAI 2011).

    Attributes:
        root: Number of the root.
        leaves: Number of a leaf -> its variable.
        children: Number of an inner node -> its left and its right child.
        scopes: Number of any node -> the variables below it as a bit mask.
    """

    root: int
    leaves: dict[int, int]
    children: dict[int, tuple[int, int]]
    scopes: dict[int, int]

    @property
    def num_variables(self) -> int:
        """Number of variables."""
        return self.scopes[self.root].bit_length()


def read_vtree(path: str | Path) -> NumberedVtree:
    """Reads a `.vtree` file of the UCLA packages.

    Lines are `vtree COUNT`, `L id variable` and `I id left right`, children before parents; the
    root is the last one. Variables count from 1 there and from 0 here.

    Args:
        path: The file.

    Returns:
        The tree.

    Raises:
        FormatError: If a line is not of that form, or it is not a tree.
    """
    leaves: dict[int, int] = {}
    children: dict[int, tuple[int, int]] = {}
    scopes: dict[int, int] = {}
    root = None
    for line in read_lines(path):
        if line.words[0] == "vtree":
            continue
        root = line.integer(1, "the number of a node")
        if root in scopes:
            raise line.error(f"node {root} is there already")
        if line.words[0] == "L":
            line.expect(3, "L id variable")
            leaves[root] = line.variable(2)
            scopes[root] = 1 << leaves[root]
        elif line.words[0] == "I":
            line.expect(4, "I id left right")
            children[root] = _pair(line, scopes)
            scopes[root] = scopes[children[root][0]] | scopes[children[root][1]]
        else:
            raise line.error(f"expected 'vtree', 'L' or 'I'; found {line.words[0]!r}")
    if root is None:
        raise FormatError(f"{path} has no nodes")
    return NumberedVtree(root, leaves, children, scopes)


def _pair(line: Line, scopes: dict[int, int]) -> tuple[int, int]:
    left, right = (line.integer(place, "the number of a node") for place in (2, 3))
    for child in (left, right):
        if child not in scopes:
            raise line.error(f"node {child} is not defined on a line before")
    if scopes[left] & scopes[right]:
        raise line.error("its two children share variables")
    return left, right
