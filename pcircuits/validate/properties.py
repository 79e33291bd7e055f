"""All structural properties of a circuit, in a form that explains itself."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from pcircuits.structure.circuit import Circuit
from pcircuits.validate.determinism import DEFAULT_LIMIT, Determinism, Overlap, determinism
from pcircuits.validate.scopes import depth_of, overlapping, scopes_of, unsmooth
from pcircuits.validate.splits import Clash, vtree_of
from pcircuits.validate.units import Zeros
from pcircuits.validate.vtree import Vtree

_PRINTED_VTREE = 200


@dataclass(frozen=True)
class Properties:
    """Structural properties of a circuit (Choi, Vergari and Van den Broeck, 2020, section 3).

    `print` explains them, and so does a notebook.

    Attributes:
        smooth: Every sum's children have equal scopes, so summing variables out is exact.
        decomposable: Every product's children have disjoint scopes, likewise.
        structured_decomposable: All products follow one tree of variables (a vtree), so the
            circuit can be multiplied by others that follow it.
        deterministic: At most one term of each sum unit is positive in any world, so that maxima
            and entropies are exact; None if that was not decided within the limit.
        vtree: The tree of variables, if structured-decomposable.
        overlap: If not deterministic: a world in which a sum unit adds two positive terms.
        violations: One sentence for each of the first three properties that does not hold, naming
            nodes and scopes.
        num_nodes: Number of nodes.
        num_edges: Number of (parent, child) pairs.
        num_units: Units of all nodes.
        depth: Edges on the longest path from the root to an input.

    Examples:
        >>> properties = pc.validate(pc.families.chow_liu([-1, 0, 1], num_categories=2))
        >>> print(properties)
        smooth                  yes
        decomposable            yes
        structured-decomposable yes      (0 (1 2))
        deterministic           yes
        8 nodes, 7 edges, 15 units, depth 5
    """

    smooth: bool
    decomposable: bool
    structured_decomposable: bool
    deterministic: bool | None
    vtree: Vtree | None
    overlap: Overlap | None
    violations: tuple[str, ...]
    num_nodes: int
    num_edges: int
    num_units: int
    depth: int

    def __str__(self) -> str:
        lines = [f"{name:24s}{answer:9s}{why}".rstrip() for name, answer, why in self._rows()]
        return "\n".join([*lines, self._sizes()])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(answer)}</td>"
            f"<td style='text-align:left'>{escape(why)}</td></tr>"
            for name, answer, why in self._rows()
        )
        return f"<table>{cells}</table><p>{escape(self._sizes())}</p>"

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            ("smooth", _word(self.smooth), self._violation(" is not smooth")),
            ("decomposable", _word(self.decomposable), self._violation(" is not decomposable")),
            (
                "structured-decomposable",
                _word(self.structured_decomposable),
                _shortened(self.vtree) if self.vtree else self._violation(" are not structured"),
            ),
            ("deterministic", _word(self.deterministic), self._about_determinism()),
        ]

    def _violation(self, what: str) -> str:
        return next((text for text in self.violations if what in text), "")

    def _about_determinism(self) -> str:
        if self.overlap is not None:
            return str(self.overlap)
        if self.deterministic is None:
            return "neither proven nor refuted within the limit of the search"
        return "" if self.deterministic else "it means nothing unless smooth and decomposable"

    def _sizes(self) -> str:
        return (
            f"{self.num_nodes:,} nodes, {self.num_edges:,} edges, {self.num_units:,} units, "
            f"depth {self.depth:,}"
        )


def validate(
    circuit: Circuit, *, zeros: Zeros | None = None, limit: int = DEFAULT_LIMIT
) -> Properties:
    """Computes the structural properties of a circuit anew, trusting no check made before.

    Args:
        circuit: The circuit; it is read and not changed.
        zeros: Parameter name -> nested lists (of the parameter's shape, true where a weight is
            zero): what learning made impossible counts for determinism. Default: all positive.
        limit: How many states the search for a world that refutes determinism may visit.

    Returns:
        The properties; `violations` is empty if the first three hold.

    Examples:
        >>> tree = pc.families.binary_tree(4, num_units=2, num_categories=2)
        >>> properties = pc.validate(tree)
        >>> properties.smooth, properties.decomposable, properties.deterministic
        (True, True, False)
        >>> str(properties.vtree)
        '((0 1) (2 3))'
    """
    scopes = scopes_of(circuit)
    sum_text = next(unsmooth(circuit, scopes), None)
    product_text = next(overlapping(circuit, scopes), None)
    sound = sum_text is None and product_text is None
    tree = vtree_of(circuit, scopes) if sound else None
    tree_text = _clash_text(tree) if isinstance(tree, Clash) else None
    answer = determinism(circuit, zeros, limit=limit) if sound else Determinism(False)
    return Properties(
        smooth=sum_text is None,
        decomposable=product_text is None,
        structured_decomposable=isinstance(tree, Vtree),
        deterministic=answer.holds,
        vtree=tree if isinstance(tree, Vtree) else None,
        overlap=answer.overlap,
        violations=tuple(filter(None, (sum_text, product_text, tree_text))),
        num_nodes=len(circuit.nodes),
        num_edges=sum(len(node.children) for node in circuit.nodes),
        num_units=sum(node.num_units for node in circuit.nodes),
        depth=depth_of(circuit),
    )


def _clash_text(clash: Clash) -> str:
    first, second = clash.products
    ours, theirs = clash.texts()
    return (
        f"products {first!r} and {second!r} are not structured: they split {clash.scope} into "
        f"{ours} and into {theirs}"
    )


def _word(answer: bool | None) -> str:
    return "unknown" if answer is None else "yes" if answer else "no"


def _shortened(vtree: Vtree) -> str:
    text = vtree.to_text()
    return text if len(text) <= _PRINTED_VTREE else f"{vtree!r}"
