"""Rectangles of a grid of variables, shared by the families of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pcircuits.structure.families.check import check_at_least
from pcircuits.structure.partitions import Partition
from pcircuits.structure.region_graph import RegionGraph
from pcircuits.structure.scope import Scope


@dataclass(frozen=True)
class Rectangle:
    """The cells of the rows top .. bottom - 1 and columns left .. right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    def cut_rows(self, row: int) -> tuple[Rectangle, Rectangle]:
        """The parts above a row, and from it on."""
        return (
            Rectangle(self.top, row, self.left, self.right),
            Rectangle(row, self.bottom, self.left, self.right),
        )

    def cut_columns(self, column: int) -> tuple[Rectangle, Rectangle]:
        """The parts left of a column, and from it on."""
        return (
            Rectangle(self.top, self.bottom, self.left, column),
            Rectangle(self.top, self.bottom, column, self.right),
        )

    def scope(self, grid_width: int) -> Scope:
        """The variables of the cells in a grid whose variables are numbered row by row."""
        row = ((1 << self.width) - 1) << self.left
        bits = 0
        for place in range(self.top, self.bottom):
            bits |= row << (place * grid_width)
        return Scope(bits)


def rectangle_graph(
    height: int,
    width: int,
    partitions: Callable[[Rectangle], Sequence[tuple[Rectangle, ...]]],
) -> RegionGraph:
    """The region graph that partitions a grid and, again and again, the parts.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        partitions: Rectangle -> its partitions; none for a leaf.

    Returns:
        The region graph over height * width variables, row by row.

    Raises:
        StructureError: If the height or width is not positive.
    """
    check_at_least("height", height, 1)
    check_at_least("width", width, 1)
    grid = Rectangle(0, height, 0, width)
    scopes = {grid: grid.scope(width)}
    found: dict[Scope, tuple[Partition, ...]] = {}
    stack = [grid]
    while stack:
        rectangle = stack.pop()
        splits = partitions(rectangle)
        for part in (part for split in splits for part in split):
            if part not in scopes:
                scopes[part] = part.scope(width)
                stack.append(part)
        if splits:
            found[scopes[rectangle]] = tuple(
                tuple(scopes[part] for part in split) for split in splits
            )
    return RegionGraph(scopes[grid], found)
