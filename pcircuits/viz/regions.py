"""The region graph of a circuit: which sets of variables it splits, and how."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import KroneckerProduct, Product
from pcircuits.structure.scope import Scope
from pcircuits.viz.artist import EdgeStyle, paint
from pcircuits.viz.scene import Symbol, arrange
from pcircuits.viz.subject import Drawable, Subject, checked_names

_MOST_PARTITIONS, _LONGEST = 200, 28


def regions(
    circuit: Drawable, *, variable_names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draws regions (boxes: the scopes of nodes) and partitions (×: how products split them).

    Args:
        circuit: A circuit, plan, model or weighted circuit.
        variable_names: L names; default X0, X1, ...
        ax: Where to draw; default a new figure of a fitting size.

    Returns:
        The axes.

    Raises:
        StructureError: If it cannot be drawn or has too many regions, or names are too few or
            many.

    Examples:
        >>> ax = pc.viz.regions(pc.families.binary_tree(4, num_units=2, num_categories=2))
        >>> sorted({text.get_text() for text in ax.texts} - {"×"})
        ['X0', 'X0, X1', 'X0, X1, X2, X3', 'X1', 'X2', 'X2, X3', 'X3']
    """
    drawn = Subject.of(circuit).circuit
    names = checked_names(variable_names, drawn.num_variables, "variable names", "X")
    splits = _partitions(drawn)
    count = sum(len(ways) for ways in splits.values())
    if count > _MOST_PARTITIONS:
        raise StructureError(
            f"the circuit has {count:,} partitions; expected at most {_MOST_PARTITIONS}"
        )
    symbols: list[Symbol] = []
    place: dict[Scope, int] = {}
    halves: list[tuple[int, Scope]] = []
    edges: list[tuple[int, int]] = []
    for scope in sorted({node.scope for node in drawn.nodes}, key=lambda s: (-len(s), s.bits)):
        place[scope] = len(symbols)
        symbols.append(Symbol("input", _title(scope, names), boxed=True))
        for split in splits.get(scope, ()):
            edges.append((place[scope], len(symbols)))
            halves.extend((len(symbols), part) for part in split)
            symbols.append(Symbol("product", "", boxed=False))
    edges.extend((partition, place[part]) for partition, part in halves)
    return paint(arrange(symbols, edges), [EdgeStyle()] * len(edges), title="", ax=ax)


def _partitions(circuit: Circuit) -> dict[Scope, list[tuple[Scope, ...]]]:
    """Region -> the different ways in which products split it, in order of their nodes."""
    found: dict[Scope, list[tuple[Scope, ...]]] = {}
    for node in circuit.nodes:
        if isinstance(node, (Product, KroneckerProduct)) and len(node.children) > 1:
            split = tuple(sorted((child.scope for child in node.children), key=lambda s: s.bits))
            ways = found.setdefault(node.scope, [])
            if split not in ways:
                ways.append(split)
    return found


def _title(scope: Scope, names: Sequence[str]) -> str:
    text = ", ".join(names[variable] for variable in scope)
    return text if len(text) <= _LONGEST else f"{len(scope)} variables"
