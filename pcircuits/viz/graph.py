"""Pictures of circuits: all units, all nodes, or the folded plan; and the flows through them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.errors import StructureError
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.structure.circuit import Circuit
from pcircuits.viz.artist import EdgeStyle, paint
from pcircuits.viz.counts import Counts, edge_counts
from pcircuits.viz.diagram import (
    Diagram,
    Edge,
    Names,
    count_units,
    node_diagram,
    unit_diagram,
)
from pcircuits.viz.plan import draw_plan
from pcircuits.viz.scene import Scene, Symbol, arrange
from pcircuits.viz.style import GREEN, GREY, number
from pcircuits.viz.subject import Drawable, Subject, checked_names

DETAILS = ("auto", "units", "nodes", "plan")
_READABLE_VERTICES, _READABLE_EDGES, _MOST_VERTICES = 40, 90, 600
_THINNEST, _THICKEST = 0.4, 7.0


def draw(
    circuit: Drawable,
    *,
    detail: str = "auto",
    variable_names: Sequence[str] | None = None,
    weights: bool = True,
    names: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws a circuit from its root down, or from left to right where it is deep.

    Sums are circles with +, products circles with ×, inputs boxes with their variable. Where
    weights are known they stand on the edges of sums and, as probabilities of the categories, in
    the inputs; edges of weight zero are left out.

    Args:
        circuit: A circuit, plan, model or weighted circuit.
        detail: "units" draws every unit, "nodes" every node as one symbol for all its units,
            "plan" the layers that are computed; "auto" takes the first of these that is readable.
        variable_names: L names; default X0, X1, ...
        weights: Whether weights and probabilities are shown, where they are known.
        names: Whether the names of sums and products are shown.
        ax: Where to draw; default a new figure of a fitting size.

    Returns:
        The axes.

    Raises:
        StructureError: If it cannot be drawn, `detail` is unknown, there are too many symbols for
            the detail asked for, or the number of names is wrong.

    Examples:
        >>> ax = pc.viz.draw(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> sorted({text.get_text() for text in ax.texts})
        ['+', 'X0', 'X1', 'root', '×']
        >>> _ = pc.viz.save(ax, "mixture.svg")
    """
    subject = Subject.of(circuit)
    chosen = _detail(subject.circuit, detail)
    called = _names(subject.circuit, variable_names, names)
    if chosen == "plan":
        plan = circuit if isinstance(circuit, Plan) else compile_circuit(subject.circuit)
        return draw_plan(plan, ax=ax)
    shown = subject if weights else Subject(subject.circuit, None)
    diagram = _diagram(shown, chosen, called)
    labels = ["" if edge.weight is None else number(edge.weight) for edge in diagram.edges]
    styles = [EdgeStyle(label=label if weights else "") for label in labels]
    return paint(_scene(diagram), styles, title="", ax=ax)


def flows(
    model: Drawable,
    evidence: Evidence | Tensor,
    *,
    detail: str = "auto",
    variable_names: Sequence[str] | None = None,
    names: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws how often each edge takes part in explaining data: expected counts as line widths.

    Every edge has a count of its own, also where weights are tied. Edges that are never used are
    thin and grey.

    Args:
        model: A model or weighted circuit.
        evidence: Evidence about B examples, or values (B, L).
        detail: "units" or "nodes", see `draw`; "auto" takes the first that is readable.
        variable_names: L names; default X0, X1, ...
        names: Whether the names of sums and products are shown.
        ax: Where to draw; default a new figure of a fitting size.

    Returns:
        The axes; widths are proportional to the counts.

    Raises:
        StructureError: As `draw`, or if there are no weights.
        EvidenceError: If the evidence does not fit or an example is impossible.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> ax = pc.viz.flows(model, torch.tensor([[0, 0], [0, 1]]))
        >>> ax.get_title()
        'expected counts of 2 examples'
    """
    subject = Subject.of(model)
    given = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
    check_evidence(compile_circuit(subject.circuit), given)
    chosen = _detail(subject.circuit, detail)
    if chosen == "plan":
        raise StructureError(
            f"flows are drawn for every node or unit; {len(subject.circuit.nodes)} nodes are too "
            f"many to be read"
        )
    called = _names(subject.circuit, variable_names, names)
    counts = edge_counts(subject, given)
    diagram = _diagram(subject, chosen, called)
    found = [_count(counts, diagram, edge) for edge in diagram.edges]
    title = f"expected counts of {given.batch_size} example{'s' * (given.batch_size > 1)}"
    return paint(_scene(diagram), _flow_styles(found), title=title, ax=ax)


def is_readable(circuit: Circuit) -> bool:
    """Whether `draw` shows the circuit's nodes or units, and not its plan."""
    return _detail(circuit, "auto") != "plan"


def _flow_styles(counts: Sequence[float]) -> list[EdgeStyle]:
    most = max(counts, default=0.0) or 1.0
    labelled = len(counts) <= _READABLE_EDGES // 2
    return [
        EdgeStyle(
            width=max(_THINNEST, _THICKEST * count / most),
            colour=GREEN if count * _THICKEST / most > _THINNEST else GREY,
            label=f"{count:.3g}" if labelled else "",
        )
        for count in counts
    ]


def _count(counts: Counts, diagram: Diagram, edge: Edge) -> float:
    parent, child = diagram.vertices[edge.parent], diagram.vertices[edge.child]
    if parent.unit is None or child.unit is None:
        return counts.of_edge(parent.node, edge.slot)
    return counts.of_unit_edge(parent.node, parent.unit, edge.slot, child.unit)


def _diagram(subject: Subject, detail: str, names: Names) -> Diagram:
    return unit_diagram(subject, names) if detail == "units" else node_diagram(subject, names)


def _scene(diagram: Diagram) -> Scene:
    symbols = [Symbol(v.kind, v.caption, boxed=v.kind == "input") for v in diagram.vertices]
    return arrange(symbols, [(edge.parent, edge.child) for edge in diagram.edges])


def _names(circuit: Circuit, variable_names: Sequence[str] | None, nodes: bool) -> Names:
    variables = checked_names(variable_names, circuit.num_variables, "variable names", "X")
    return Names(variables, nodes)


def _detail(circuit: Circuit, detail: str) -> str:
    """The detail asked for, if it can be drawn, or the finest that can be read."""
    if detail not in DETAILS:
        raise StructureError(f"expected detail to be one of {DETAILS}; found {detail!r}")
    units, unit_edges = count_units(circuit)
    nodes, node_edges = len(circuit.nodes), sum(len(node.children) for node in circuit.nodes)
    if detail == "auto":
        if units <= _READABLE_VERTICES and unit_edges <= _READABLE_EDGES:
            return "units"
        readable = nodes <= _READABLE_VERTICES and node_edges <= _READABLE_EDGES
        return "nodes" if readable else "plan"
    count = {"units": units, "nodes": nodes, "plan": 0}[detail]
    if count > _MOST_VERTICES:
        raise StructureError(
            f"detail {detail!r} would draw {count:,} symbols; expected at most {_MOST_VERTICES} "
            f"(detail 'plan' draws circuits of any size)"
        )
    return detail
