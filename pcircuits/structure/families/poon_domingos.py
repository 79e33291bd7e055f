"""Poon–Domingos structures: all ways to cut a grid into rectangles."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_at_least
from pcircuits.structure.families.grid import Rectangle, rectangle_graph
from pcircuits.structure.region_graph import RegionGraph


def poon_domingos(
    height: int,
    width: int,
    num_units: int,
    num_categories: int | Sequence[int],
    *,
    step: int | tuple[int, ...],
    product: str = "elementwise",
    num_input_units: int | None = None,
) -> Circuit:
    """All rectangles of a grid, each mixed over all cuts in two at multiples of `step`.

    Variables are the grid's cells row by row: variable `row * width + column`. Parameters and
    sizes: see `RegionGraph.to_circuit`. Cost: with m = height / step and n = width / step there
    are m n (m + 1) (n + 1) / 4 rectangles and m n (m + 1) (n + 1) (m + n - 2) / 12 partitions, each
    of O(K^2) operations a row, O(K^3) for all pairs: 28 x 28 cells have 784 rectangles and 3,136
    partitions at step 4, 164,836 and 2,967,048 at step 1. A height of 1 gives all ways to bracket
    a sequence.

    Reference: Poon and Domingos, "Sum-product networks: a new deep architecture", UAI 2011,
    section 5.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        num_units: Number of units K of every rectangle.
        num_categories: Number of categories of all variables, or of each.
        step: Distance of the cuts. Rectangles that no cut meets are leaves, whose cells are
            independent given the unit; of several steps, coarse to fine, the first with a cut
            in a rectangle is used: (4, 1) is the paper's scheme of resolution 4.
        product: "elementwise", or "kronecker" for all pairs.
        num_input_units: Number of units of the leaves. Default: K.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range or `product` is neither.

    Examples:
        >>> circuit = pc.families.poon_domingos(2, 3, num_units=2, num_categories=2, step=1)
        >>> properties = pc.validate(circuit)
        >>> properties.decomposable, properties.structured_decomposable
        (True, False)
    """
    graph = poon_domingos_regions(height, width, step=step)
    return graph.to_circuit(
        num_units, num_categories, product=product, num_input_units=num_input_units
    )


def poon_domingos_regions(height: int, width: int, *, step: int | tuple[int, ...]) -> RegionGraph:
    """The region graph of `poon_domingos`.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        step: Distance of the cuts, or several from coarse to fine.

    Returns:
        The region graph over height * width variables, row by row.

    Raises:
        StructureError: If a size is out of range.

    Examples:
        >>> graph = pc.families.poon_domingos_regions(height=28, width=28, step=4)
        >>> len(graph.regions), graph.num_partitions
        (784, 3136)
    """
    steps = step if isinstance(step, tuple) else (step,)
    check_at_least("number of steps", len(steps), 1)
    for one in steps:
        check_at_least("step", one, 1)
    return rectangle_graph(height, width, lambda rectangle: _cuts(rectangle, steps))


def _cuts(rectangle: Rectangle, steps: tuple[int, ...]) -> list[tuple[Rectangle, ...]]:
    for step in steps:
        rows = _multiples(rectangle.top, rectangle.bottom, step)
        columns = _multiples(rectangle.left, rectangle.right, step)
        cuts: list[tuple[Rectangle, ...]] = [rectangle.cut_rows(row) for row in rows]
        cuts += [rectangle.cut_columns(column) for column in columns]
        if cuts:
            return cuts
    return []


def _multiples(start: int, stop: int, step: int) -> range:
    """The multiples of a step strictly between two numbers."""
    return range((start // step + 1) * step, stop, step)
