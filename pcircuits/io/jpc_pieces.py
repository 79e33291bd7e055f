"""How PyJuice's vectors of units are cut into pieces.

PyJuice connects blocks of units in any pattern; our nodes connect whole vectors. So each vector
becomes *pieces*, nodes of equal size that together hold its units in order: one piece where all
that use it take it as a whole, and as many as the finest pattern needs otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcircuits.errors import FormatError
from pcircuits.io.jpc_nodes import JpcNode

Edges = npt.NDArray[np.int64]
PieceId = tuple[int, int]
"""Index of a node vector in the file, and of its piece."""


@dataclass(frozen=True)
class Pieces:
    """One node vector cut into pieces.

    Attributes:
        size: Units of a piece.
        below: For every piece the pieces that it multiplies or sums, in order.
        crossed: Whether a product multiplies all combinations of units.
        dense: Whether all blocks of a sum see all blocks below.
        used: For every piece whether the root reaches it.
    """

    size: int
    below: Sequence[Sequence[PieceId]]
    crossed: bool
    dense: bool
    used: bytearray


def cut(nodes: Sequence[JpcNode], where: str) -> list[Pieces]:
    """Cuts all vectors of a file; its last one is the root.

    Raises:
        FormatError: If edges do not fit.
    """
    edges = [_checked_edges(node, nodes, where) for node in nodes]
    sizes = _sizes(nodes, edges)
    pieces = [
        _pieces(node, own, [nodes[child] for child in node.children], sizes)
        for node, own in zip(nodes, edges, strict=True)
    ]
    pieces[-1].used[0] = 1
    for found in reversed(pieces):
        for used, below in zip(found.used, found.below, strict=True):
            for place, piece in below if used else ():
                pieces[place].used[piece] = 1
    return pieces


def sorted_edges(edges: Edges) -> Edges:
    """Order of a sum's edges by its own block, then the block below."""
    return np.lexsort((edges[1], edges[0]))


def _checked_edges(node: JpcNode, nodes: Sequence[JpcNode], where: str) -> Edges:
    """The edges: (own blocks or units, children) of a product, (2, edges) of a sum."""
    if node.edges is None:
        return np.empty((0, 0), dtype=np.int64)
    title = f"{where}: node {node.place} ({node.kind})"
    children = [nodes[child] for child in node.children]
    if len({child.block_size for child in children}) > 1:
        raise FormatError(
            f"{title} has children with blocks of {[child.block_size for child in children]} units"
        )
    rows, columns = node.edges.shape if node.edges.ndim == 2 else (0, 0)
    if node.kind == "Product":
        same_blocks = all(child.block_size == node.block_size for child in children)
        by_block = rows == node.num_blocks and same_blocks
        limits = np.array([c.num_blocks if by_block else c.num_units for c in children])
        fits = (by_block or rows == node.num_units) and columns == len(children)
    else:
        limits = np.array([[node.num_blocks], [sum(child.num_blocks for child in children)]])
        fits = rows == 2
    if not fits:
        raise FormatError(f"{title} has edges of shape {node.edges.shape}")
    if bool((node.edges < 0).any() or (node.edges >= limits).any()):
        raise FormatError(f"{title} has an edge to a block or unit that does not exist")
    if node.kind == "Sum":
        _check_sum(node.edges, node.num_blocks, title)
    return node.edges


def _check_sum(edges: Edges, num_blocks: int, title: str) -> None:
    if bool((np.bincount(edges[0], minlength=num_blocks) == 0).any()):
        raise FormatError(f"{title} has a block without an edge")
    ordered = edges[:, sorted_edges(edges)]
    if bool((np.diff(ordered, axis=1) == 0).all(axis=0).any()):
        raise FormatError(f"{title} has an edge twice")


def _sizes(nodes: Sequence[JpcNode], edges: Sequence[Edges]) -> list[int]:
    """Units of a piece of every vector: the most that all connections allow."""
    sizes = [node.num_units for node in nodes]
    found: list[int] | None = None
    while found != sizes:
        found = list(sizes)
        for node, own in zip(nodes, edges, strict=True):
            _tighten(node, own, nodes, sizes)
    return sizes


def _tighten(node: JpcNode, edges: Edges, nodes: Sequence[JpcNode], sizes: list[int]) -> None:
    children = [nodes[child] for child in node.children]
    together = [node.place, *node.children]
    if node.owner != node.place:
        _equalise(sizes, [node.place, node.owner])
    if node.kind == "Product":
        whole = all(sizes[place] == nodes[place].num_units for place in together)
        if not (whole and _is_crossed(node, children, edges)):
            step = _step(node, edges)
            _equalise(sizes, together, 0 if _is_identity(children, edges, step) else step)
    elif node.kind == "Sum" and not _is_dense(node, children, edges):
        _equalise(sizes, [node.place], node.block_size)
        for child in children:
            _equalise(sizes, [child.place], child.block_size)


def _equalise(sizes: list[int], places: Sequence[int], step: int = 0) -> None:
    common = math.gcd(step, *(sizes[place] for place in places))
    for place in places:
        sizes[place] = common


def _step(node: JpcNode, edges: Edges) -> int:
    """Units that one row of a product's edges stands for."""
    return node.block_size if len(edges) == node.num_blocks else 1


def _is_identity(children: Sequence[JpcNode], edges: Edges, step: int) -> bool:
    rows = np.arange(len(edges))[:, None]
    full = all(child.num_units == len(edges) * step for child in children)
    return full and bool((edges == rows).all())


def _is_crossed(node: JpcNode, children: Sequence[JpcNode], edges: Edges) -> bool:
    """Whether unit by unit all combinations are multiplied, the last child's index fastest."""
    shape = [child.num_units for child in children]
    if len(children) < 2 or len(edges) != node.num_units or math.prod(shape) != len(edges):
        return False
    indices = np.unravel_index(np.arange(len(edges)), shape)
    return bool((edges == np.stack(indices, axis=1)).all())


def _is_dense(node: JpcNode, children: Sequence[JpcNode], edges: Edges) -> bool:
    return bool(edges.shape[1] == node.num_blocks * sum(child.num_blocks for child in children))


def _pieces(
    node: JpcNode, edges: Edges, children: Sequence[JpcNode], sizes: Sequence[int]
) -> Pieces:
    size = sizes[node.place]
    number = node.num_units // size
    below: Sequence[Sequence[PieceId]] = [()] * number
    crossed = dense = False
    if node.kind == "Product":
        whole = all(sizes[n.place] == n.num_units for n in (node, *children))
        identity = _is_identity(children, edges, _step(node, edges))
        crossed = whole and not identity and _is_crossed(node, children, edges)
        below = _below_product(node, edges, children, size, whole=whole and crossed)
    elif node.kind == "Sum":
        dense = _is_dense(node, children, edges)
        below = _below_sum(node, edges, children, sizes, dense=dense)
    return Pieces(size, below, crossed, dense, bytearray(number))


def _below_product(
    node: JpcNode, edges: Edges, children: Sequence[JpcNode], size: int, *, whole: bool
) -> list[list[PieceId]]:
    if whole:
        return [[(child.place, 0) for child in children]]
    step = _step(node, edges)
    starts = np.arange(0, node.num_units, size)
    first = edges[starts // step] * step + (starts % step)[:, None]  # the children's first units
    return [
        [(child.place, piece) for child, piece in zip(children, row, strict=True)]
        for row in (first // size).tolist()
    ]


def _below_sum(
    node: JpcNode,
    edges: Edges,
    children: Sequence[JpcNode],
    sizes: Sequence[int],
    *,
    dense: bool,
) -> list[list[PieceId]]:
    number = node.num_units // sizes[node.place]
    if dense:
        every = [
            (child.place, piece)
            for child in children
            for piece in range(child.num_units // sizes[child.place])
        ]
        return [every] * number
    blocks = [
        [(child.place, piece) for piece in range(block * step, (block + 1) * step)]
        for child in children
        for step in [child.block_size // sizes[child.place]]
        for block in range(child.num_blocks)
    ]
    of_block: list[list[PieceId]] = [[] for _ in range(node.num_blocks)]
    for parent, block in edges[:, sorted_edges(edges)].T.tolist():
        of_block[parent].extend(blocks[block])
    pieces_of_block = node.block_size // sizes[node.place]
    return [of_block[piece // pieces_of_block] for piece in range(number)]
