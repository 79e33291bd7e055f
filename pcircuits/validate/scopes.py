"""Scopes computed anew, and the two properties that every node promises by itself."""

from __future__ import annotations

from collections.abc import Iterator

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum
from pcircuits.structure.scope import Scope


def scopes_of(circuit: Circuit) -> dict[AnyNode, Scope]:
    """Scope of every node from its children's, trusting nothing that the nodes remember."""
    scopes: dict[AnyNode, Scope] = {}
    for node in circuit.nodes:
        if isinstance(node, Input):
            scopes[node] = Scope.of((node.variable,))
            continue
        bits = 0
        for child in node.children:
            bits |= scopes[child].bits
        scopes[node] = Scope(bits)
    return scopes


def depth_of(circuit: Circuit) -> int:
    """Edges on the longest path from the root to an input."""
    depths: dict[AnyNode, int] = {}
    for node in circuit.nodes:
        depths[node] = max((depths[child] + 1 for child in node.children), default=0)
    return depths[circuit.root]


def unsmooth(circuit: Circuit, scopes: dict[AnyNode, Scope]) -> Iterator[str]:
    """A sentence about each sum whose children differ in scope."""
    for node in circuit.nodes:
        if isinstance(node, Sum):
            found = sorted({scopes[child].bits for child in node.children})
            if len(found) > 1:
                texts = " and ".join(repr(Scope(bits)) for bits in found)
                yield f"sum {circuit.node_names[node]!r} is not smooth: it sums over {texts}"


def overlapping(circuit: Circuit, scopes: dict[AnyNode, Scope]) -> Iterator[str]:
    """A sentence about each product whose children share a variable."""
    for node in circuit.nodes:
        if isinstance(node, (Product, KroneckerProduct)):
            sizes = sum(len(scopes[child]) for child in node.children)
            if sizes != len(scopes[node]):
                texts = " and ".join(repr(scopes[child]) for child in node.children)
                name = circuit.node_names[node]
                yield f"product {name!r} is not decomposable: it multiplies {texts}"
