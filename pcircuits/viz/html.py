"""Circuits in a notebook: one self-contained piece of HTML, with nothing to load."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

from matplotlib import pyplot, rc_context

from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.errors import StructureError
from pcircuits.module import CircuitModel
from pcircuits.structure.circuit import Circuit
from pcircuits.viz.graph import draw, is_readable
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
    drawing = _svg(drawn) if is_readable(circuit) else ""
    return f"<div style='display:flex;flex-wrap:wrap;gap:1.5em'>{tables}{drawing}</div>"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td>"
        f"<td style='text-align:right'>{escape(value)}</td></tr>"
        for name, value in rows
    )
    head = f"<tr><th colspan='2' style='text-align:left'>{escape(title)}</th></tr>"
    return f"<table style='align-self:flex-start'>{head}{body}</table>"


def _svg(drawn: Drawable) -> str:
    """The picture of `draw` as one SVG element that is the same every time."""
    figure = draw(drawn).get_figure(root=True)
    assert figure is not None, "it was made for the picture"
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pcircuits"}):
        figure.savefig(stream, format="svg", metadata=_NO_METADATA)
    pyplot.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]
