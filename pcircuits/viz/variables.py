"""Marginals of the variables: a heat map, or bars where there are two categories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.execute.evidence import Evidence
from pcircuits.module import CircuitModel
from pcircuits.viz.heat import heat_map, label_axis
from pcircuits.viz.style import BLUE, VERMILION, axes_or_new, entitle, letters, without_frame
from pcircuits.viz.subject import checked_names, chosen_row, one_row

KINDS = ("auto", "bars", "heat")


def marginals(
    model: CircuitModel,
    evidence: Evidence | None = None,
    *,
    row: int = 0,
    kind: str = "auto",
    variable_names: Sequence[str] | None = None,
    category_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the posterior of every variable given evidence about one example.

    Observed variables are marked by a point.

    Args:
        model: The model.
        evidence: Evidence of any kind; default none.
        row: Which example of the evidence.
        kind: "bars" shows the probability of category 1 and needs two categories, "heat" all
            probabilities; "auto" takes bars where it can.
        variable_names: L names; default X0, X1, ...
        category_names: V names; default their numbers.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If `kind` is unknown, bars cannot be drawn, or names are too few or many.
        EvidenceError: If the evidence does not fit or is impossible, or has no such row.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=2, num_categories=2))
        >>> first_is_1 = pc.Evidence(torch.tensor([[1, 0, 0, 0]]), torch.arange(4)[None] == 0)
        >>> ax = pc.viz.marginals(model, first_is_1)
        >>> ax.get_title()
        'posterior of every variable, 1 observed'
    """
    variables = checked_names(variable_names, model.circuit.num_variables, "variable names", "X")
    categories = checked_names(category_names, model.circuit.num_categories, "category names", "")
    bars = _as_bars(kind, len(categories))
    given = one_row(evidence or Evidence(), row)
    with torch.no_grad():
        found = chosen_row(model.marginals(given), 0)
    mask = given.mask()
    observed = torch.zeros(len(found)).bool() if mask is None else mask[0].cpu()
    if bars:
        axes = _bars(found[:, 1], observed, variables, categories[1], ax)
    else:
        axes = _heat(found, observed, variables, categories, ax)
    entitle(axes, f"posterior of every variable, {int(observed.sum())} observed")
    return axes


def _as_bars(kind: str, num_categories: int) -> bool:
    if kind not in KINDS:
        raise StructureError(f"expected kind to be one of {KINDS}; found {kind!r}")
    if kind == "bars" and num_categories != 2:
        raise StructureError(f"bars need two categories; the circuit has {num_categories}")
    return kind == "bars" or (kind == "auto" and num_categories == 2)


def _bars(
    probabilities: Tensor, observed: Tensor, variables: list[str], category: str, ax: Axes | None
) -> Axes:
    wide = float(np.clip(0.35 * len(variables) + 1.2, 3.0, 12.0))
    axes = axes_or_new(ax, (wide, 2.8))
    free = (~observed).nonzero()[:, 0]
    axes.bar(free.tolist(), probabilities[free].tolist(), width=0.75, color=BLUE)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlim(-0.6, len(variables) - 0.4)
    axes.set_ylabel(f"probability of category {category}")
    label_axis(axes.xaxis, variables, "variable", wide - 1.0)
    known = observed.nonzero()[:, 0]
    _mark(axes, known, probabilities[known])
    without_frame(axes)
    return axes


def _heat(
    found: Tensor,
    observed: Tensor,
    variables: list[str],
    categories: list[str],
    ax: Axes | None,
) -> Axes:
    size = _heat_size(len(variables), len(categories))
    shown = found.masked_fill(observed[:, None], torch.nan)
    axes = heat_map(shown.T.numpy(), "probability", size, limits=(0.0, None), ax=ax)
    label_axis(axes.xaxis, variables, "variable", size[0] - 1.8)
    label_axis(axes.yaxis, [letters(name) for name in categories], "category", size[1] - 1.0)
    known = observed.nonzero()[:, 0]
    _mark(axes, known, found[known].argmax(1))
    return axes


def _mark(axes: Axes, variables: Tensor, heights: Tensor) -> None:
    """Observed variables as points: their values are given, not inferred."""
    if len(variables):
        axes.plot(variables, heights, "o", color=VERMILION, markersize=5, clip_on=False)
        axes.set_xlabel("variable (● = observed)")


def _heat_size(num_variables: int, num_categories: int) -> tuple[float, float]:
    wide = float(np.clip(0.35 * num_variables + 1.8, 3.5, 12.0))
    return wide, float(np.clip(0.25 * num_categories + 1.0, 2.2, 8.0))
