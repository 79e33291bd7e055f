"""What a circuit's structure promises: smoothness, decomposability, structured decomposability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pcircuits.structure.nodes import AnyNode, Circuit, Input, KroneckerProduct, Product, Sum
from pcircuits.structure.scope import Scope

Split = frozenset[Scope]
"""The scopes of a product's children."""


@dataclass(frozen=True)
class Properties:
    """Structural properties of a circuit (Choi, Vergari and Van den Broeck, 2020, section 3).

    Attributes:
        smooth: Every sum's children have equal scopes, so summing variables out is exact.
        decomposable: Every product's children have disjoint scopes, likewise.
        structured_decomposable: All products with the same scope split it in the same way, so the
            circuit follows one tree of variables (a vtree) and can be multiplied by others of it.
        violations: One sentence for each property that does not hold, naming nodes and scopes.
        num_nodes: Number of nodes.
        num_edges: Number of (parent, child) pairs.
        num_units: Units of all nodes.
        depth: Edges on the longest path from the root to an input.
    """

    smooth: bool
    decomposable: bool
    structured_decomposable: bool
    violations: tuple[str, ...]
    num_nodes: int
    num_edges: int
    num_units: int
    depth: int


def validate(circuit: Circuit) -> Properties:
    """Computes the structural properties of a circuit anew, trusting no check made before.

    Args:
        circuit: The circuit; it is read and not changed.

    Returns:
        The properties; `violations` is empty if all hold.
    """
    scopes: dict[AnyNode, Scope] = {}
    depths: dict[AnyNode, int] = {}
    for node in circuit.nodes:
        scopes[node] = _scope(node, scopes)
        depths[node] = max((depths[child] + 1 for child in node.children), default=0)
    unsmooth = next(_unsmooth(circuit, scopes), None)
    overlap = next(_overlaps(circuit, scopes), None)
    unstructured = overlap or next(_differing_splits(circuit, scopes), None)
    return Properties(
        smooth=unsmooth is None,
        decomposable=overlap is None,
        structured_decomposable=unstructured is None,
        violations=tuple(dict.fromkeys(filter(None, (unsmooth, overlap, unstructured)))),
        num_nodes=len(circuit.nodes),
        num_edges=sum(len(node.children) for node in circuit.nodes),
        num_units=sum(node.num_units for node in circuit.nodes),
        depth=depths[circuit.root],
    )


def _scope(node: AnyNode, scopes: dict[AnyNode, Scope]) -> Scope:
    if isinstance(node, Input):
        return Scope.of((node.variable,))
    scope = Scope()
    for child in node.children:
        scope = scope | scopes[child]
    return scope


def _unsmooth(circuit: Circuit, scopes: dict[AnyNode, Scope]) -> Iterator[str]:
    for node in circuit.nodes:
        if isinstance(node, Sum):
            found = sorted({scopes[child].bits for child in node.children})
            if len(found) > 1:
                texts = " and ".join(repr(Scope(bits)) for bits in found)
                yield f"sum {circuit.node_names[node]!r} is not smooth: it sums over {texts}"


def _overlaps(circuit: Circuit, scopes: dict[AnyNode, Scope]) -> Iterator[str]:
    for node in circuit.nodes:
        if isinstance(node, (Product, KroneckerProduct)):
            sizes = sum(len(scopes[child]) for child in node.children)
            if sizes != len(scopes[node]):
                texts = " and ".join(repr(scopes[child]) for child in node.children)
                name = circuit.node_names[node]
                yield f"product {name!r} is not decomposable: it multiplies {texts}"


def _differing_splits(circuit: Circuit, scopes: dict[AnyNode, Scope]) -> Iterator[str]:
    seen: dict[Scope, tuple[AnyNode, Split]] = {}
    for node in circuit.nodes:
        # A product of one child splits nothing.
        if isinstance(node, (Product, KroneckerProduct)) and len(node.children) > 1:
            split = frozenset(scopes[child] for child in node.children)
            other, other_split = seen.setdefault(scopes[node], (node, split))
            if split != other_split:
                yield (
                    f"products {circuit.node_names[other]!r} and {circuit.node_names[node]!r} are "
                    f"not structured: they split {scopes[node]} into {_text(other_split)} and "
                    f"into {_text(split)}"
                )


def _text(split: Split) -> str:
    return " | ".join(repr(part) for part in sorted(split, key=lambda part: part.bits))
