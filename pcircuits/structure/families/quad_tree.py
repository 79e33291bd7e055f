"""Quad trees and quad graphs: a grid is cut into quadrants, again and again."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.grid import Rectangle, rectangle_graph
from pcircuits.structure.region_graph import RegionGraph

Cuts = list[tuple[Rectangle, ...]]


def quad_tree(
    height: int,
    width: int,
    num_units: int,
    num_categories: int | Sequence[int],
    *,
    splits: int = 4,
    product: str = "elementwise",
    num_input_units: int | None = None,
) -> Circuit:
    """Tree that cuts a grid into quadrants down to single cells.

    Cuts are at powers of two, so that equal tiles of any grid are one layer. Variables are the
    grid's cells row by row. Parameters and sizes: see `RegionGraph.to_circuit`. Structured
    decomposable. Cost for N cells: at most N - 1 products; O(N K^2) operations a row with
    elementwise products, with all combinations O(N K^3) for two parts and O(N K^5) for four.

    Reference: Mari, Vessio and Vergari, "Unifying and understanding overparameterized circuit
    representations via low-rank tensor decompositions", TPM workshop at UAI 2023.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        num_units: Number of units K of every rectangle.
        num_categories: Number of categories of all variables, or of each.
        splits: 4 for products of four quadrants, 2 for halves by rows and then by columns.
        product: "elementwise", or "kronecker" for all combinations.
        num_input_units: Number of units of the inputs. Default: K.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range, or `splits` or `product` is neither.

    Examples:
        >>> circuit = pc.families.quad_tree(4, 4, num_units=2, num_categories=2)
        >>> str(pc.validate(circuit).vtree)  # variable 4 * row + column
        '((0 1 4 5) (2 3 6 7) (8 9 12 13) (10 11 14 15))'
    """
    graph = quad_tree_regions(height, width, splits=splits)
    return graph.to_circuit(
        num_units, num_categories, product=product, num_input_units=num_input_units
    )


def quad_graph(
    height: int,
    width: int,
    num_units: int,
    num_categories: int | Sequence[int],
    *,
    product: str = "elementwise",
    num_input_units: int | None = None,
) -> Circuit:
    """Quad tree that mixes both orders: first by rows and then by columns, and the reverse.

    Like `quad_tree` with two splits, with twice the partitions of a square and not structured
    decomposable; cells and squares are shared. Cost for N cells: at most 2 N products, of
    O(K^2) operations a row each, or O(K^3) for all pairs.

    Reference: as `quad_tree`.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        num_units: Number of units K of every rectangle.
        num_categories: Number of categories of all variables, or of each.
        product: "elementwise", or "kronecker" for all pairs.
        num_input_units: Number of units of the inputs. Default: K.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range or `product` is neither.

    Examples:
        >>> circuit = pc.families.quad_graph(4, 4, num_units=2, num_categories=2)
        >>> pc.validate(circuit).structured_decomposable  # rows first, columns first
        False
    """
    graph = quad_graph_regions(height, width)
    return graph.to_circuit(
        num_units, num_categories, product=product, num_input_units=num_input_units
    )


def quad_tree_regions(height: int, width: int, *, splits: int = 4) -> RegionGraph:
    """The region graph of `quad_tree`.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        splits: 4 or 2.

    Returns:
        The region graph over height * width variables, row by row.

    Raises:
        StructureError: If a size is out of range or `splits` is neither.

    Examples:
        >>> graph = pc.families.quad_tree_regions(height=4, width=4)
        >>> graph.num_partitions, len(graph.leaves)
        (5, 16)
    """
    if splits not in (2, 4):
        raise StructureError(f"splits must be 2 or 4; found {splits!r}")
    return rectangle_graph(height, width, _quadrants if splits == 4 else _first_halves)


def quad_graph_regions(height: int, width: int) -> RegionGraph:
    """The region graph of `quad_graph`.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        The region graph over height * width variables, row by row.

    Raises:
        StructureError: If a size is out of range.

    Examples:
        >>> graph = pc.families.quad_graph_regions(height=2, width=2)
        >>> graph.num_partitions  # the square in two ways, and four pairs of cells
        6
    """
    return rectangle_graph(height, width, _halves)


def _halves(rectangle: Rectangle) -> Cuts:
    """The cuts by rows and by columns, as far as the sides are long enough."""
    longest = max(rectangle.height, rectangle.width)
    if longest == 1:
        return []
    # The largest power of two below the longest side: what merging tiles bottom up would give.
    tile = 1 << ((longest - 1).bit_length() - 1)
    cuts: Cuts = []
    if rectangle.height > tile:
        cuts.append(rectangle.cut_rows(rectangle.top + tile))
    if rectangle.width > tile:
        cuts.append(rectangle.cut_columns(rectangle.left + tile))
    return cuts


def _first_halves(rectangle: Rectangle) -> Cuts:
    return _halves(rectangle)[:1]


def _quadrants(rectangle: Rectangle) -> Cuts:
    cuts = _halves(rectangle)
    if len(cuts) < 2:
        return cuts
    above, below = cuts[0]
    column = cuts[1][1].left
    return [above.cut_columns(column) + below.cut_columns(column)]
