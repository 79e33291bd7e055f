"""What notebooks show: self-contained pieces of HTML, with nothing to load."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

from matplotlib import pyplot, rc_context
from matplotlib.axes import Axes

from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.errors import StructureError
from pcircuits.learning.history import History
from pcircuits.module import CircuitModel
from pcircuits.structure.circuit import Circuit
from pcircuits.viz.graph import draw, is_readable
from pcircuits.viz.learning_curve import learning_curve
from pcircuits.viz.plan import draw_plan
from pcircuits.viz.subject import Drawable

_ROWS = 12
# Dates would make two pictures of one circuit differ; the rest names addresses.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def circuit_html(circuit: Circuit) -> str:
    """A circuit as HTML: its sizes, and a drawing if it is small enough to be read.

    Args:
        circuit: The circuit.

    Returns:
        One `div` with a table and inline SVG; names are escaped.

    Raises:
        StructureError: If it is not a circuit.

    Examples:
        >>> page = pc.viz.circuit_html(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> page.startswith("<div"), "<svg" in page
        (True, True)
    """
    if not isinstance(circuit, Circuit):
        raise StructureError(f"expected a Circuit; found {type(circuit).__name__}")
    return _page(circuit, compile_circuit(circuit), [])


def model_html(model: CircuitModel) -> str:
    """A model as HTML: as `circuit_html`, with weights in the drawing and a table of parameters.

    Args:
        model: The model.

    Returns:
        One `div`; names are escaped.

    Raises:
        StructureError: If it is not a model.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> page = pc.viz.model_html(model)
        >>> "weights" in page, "<svg" in page
        (True, True)
    """
    if not isinstance(model, CircuitModel):
        raise StructureError(f"expected a CircuitModel; found {type(model).__name__}")
    shapes = [
        (name, " × ".join(f"{size:,}" for size in shape) or "1")
        for name, shape in model.plan.parameter_shapes.items()
    ]
    if len(shapes) > _ROWS:
        shapes = [*shapes[:_ROWS], (f"{len(shapes) - _ROWS:,} more", "")]
    return _page(model, model.plan, shapes)


def plan_html(plan: Plan) -> str:
    """A plan as HTML: its cost, its layers and a drawing of them.

    Args:
        plan: The compiled circuit.

    Returns:
        One `div`; names are escaped.

    Raises:
        StructureError: If it is not a plan.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> "<svg" in pc.viz.plan_html(plan)
        True
    """
    if not isinstance(plan, Plan):
        raise StructureError(f"expected a Plan; found {type(plan).__name__}")
    cost = plan.cost()
    sizes = [
        ("layers", f"{cost.num_layers:,}"),
        ("units", f"{cost.num_units:,}"),
        ("parameters", f"{cost.num_parameters:,}"),
        ("operations a row", f"{cost.operations:,}"),
        ("with soft evidence", f"{cost.soft_operations:,}"),
        ("bytes of values a row", f"{cost.value_bytes:,}"),
        ("bytes of parameters", f"{cost.parameter_bytes:,}"),
    ]
    return _side_by_side(_table("Plan", sizes), _svg(draw_plan(plan)))


def history_html(history: History) -> str:
    """A history as HTML: how learning ended, its last and best records, and its curve.

    Args:
        history: The history.

    Returns:
        One `div`.

    Raises:
        StructureError: If it is not a history.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> history = pc.fit_em(model, torch.tensor([[0, 0], [1, 1]]), epochs=3, progress=False)
        >>> "finished" in pc.viz.history_html(history)
        True
    """
    if not isinstance(history, History):
        raise StructureError(f"expected a History; found {type(history).__name__}")
    records = [("learning was", history.stopped), ("records", f"{len(history):,}")]
    if not len(history):
        return _side_by_side(_table("History", records))
    last, best = history.records[-1], history.best
    records += [
        ("parameter updates", f"{last.step:,}"),
        ("epochs", f"{last.epoch:.4g}"),
        ("seconds", f"{last.seconds:.3g}"),
        ("log-likelihood, training rows (nats)", f"{last.train:.5g}"),
    ]
    if best.valid is not None:
        records.append(("best, validation rows (nats)", f"{best.valid:.5g}"))
        records.append(("at epoch", f"{best.epoch:.4g}"))
    return _side_by_side(_table("History", records), _svg(learning_curve(history)))


def _page(drawn: Drawable, plan: Plan, parameters: Sequence[tuple[str, str]]) -> str:
    circuit, cost = plan.circuit, plan.cost()
    sizes = [
        ("variables", f"{circuit.num_variables:,}"),
        ("categories", f"{circuit.num_categories:,}"),
        ("nodes", f"{len(circuit.nodes):,}"),
        ("units", f"{cost.num_units:,}"),
        ("layers", f"{cost.num_layers:,}"),
        ("parameters", f"{cost.num_parameters:,}"),
        ("operations a row", f"{cost.operations:,}"),
    ]
    tables = _table(type(drawn).__name__, sizes)
    if parameters:
        tables += _table("parameter", parameters)
    return _side_by_side(tables, _svg(draw(drawn)) if is_readable(circuit) else "")


def _side_by_side(*pieces: str) -> str:
    return f"<div style='display:flex;flex-wrap:wrap;gap:1.5em'>{''.join(pieces)}</div>"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td>"
        f"<td style='text-align:right'>{escape(value)}</td></tr>"
        for name, value in rows
    )
    head = f"<tr><th colspan='2' style='text-align:left'>{escape(title)}</th></tr>"
    return f"<table style='align-self:flex-start'>{head}{body}</table>"


def _svg(axes: Axes) -> str:
    """A picture as one SVG element that is the same every time; its figure is closed."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "it was made for the picture"
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pcircuits"}):
        figure.savefig(stream, format="svg", metadata=_NO_METADATA)
    pyplot.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]
