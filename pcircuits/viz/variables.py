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
from pcircuits.viz.style import (
    BLUE,
    FONT_SIZE,
    VERMILION,
    axes_or_new,
    entitle,
    ink_on,
    letters,
    plain,
    text_width,
    without_frame,
)
from pcircuits.viz.subject import checked_names, chosen_row, one_row

KINDS = ("auto", "bars", "heat")
_CELL_SIZE = FONT_SIZE - 2
_MARGIN = 0.12  # inches
_MOST_WRITTEN = 24  # categories


def marginals(
    model: CircuitModel,
    evidence: Evidence | None = None,
    *,
    row: int = 0,
    kind: str = "auto",
    variable_names: Sequence[str] | None = None,
    category_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
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
        category_names: V names, or for each variable those of its own categories, which then stand
            in the cells where there is room; default their numbers.
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
    sizes = model.circuit.categories
    own = _own_names(category_names, sizes)
    common = None if category_names is None or own else [str(name) for name in category_names]
    categories = checked_names(common, max(sizes), "category names", "")
    bars = _as_bars(kind, len(categories))
    given = one_row(evidence or Evidence(), row)
    with torch.no_grad():
        found = chosen_row(model.marginals(given), 0)
    mask = given.mask()
    observed = torch.zeros(len(found)).bool() if mask is None else mask[0].cpu()
    if bars:
        if own is not None:
            variables = _assigned(variables, own, torch.ones(len(own)).long())
        axes = _bars(found[:, 1], observed, variables, categories[1], ax)
    else:
        axes = _heat(_existing(found, sizes), observed, variables, categories, own, ax)
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
    own: list[list[str]] | None,
    ax: Axes | None,
) -> Axes:
    size = _heat_size(len(variables), len(categories), _widest(own))
    if own is not None:
        values = torch.where(observed, found.nan_to_num().argmax(1), -1)
        variables = _assigned(variables, own, values)
    shown = found.masked_fill(observed[:, None], torch.nan)
    axes = heat_map(shown.T.numpy(), "probability", size, limits=(0.0, None), ax=ax)
    label_axis(axes.xaxis, variables, "variable", size[0] - 1.8)
    label_axis(axes.yaxis, [letters(name) for name in categories], "category", size[1] - 1.0)
    known = observed.nonzero()[:, 0]
    _mark(axes, known, found[known].nan_to_num().argmax(1))
    if own is not None:
        _write_in_cells(axes, own, shown, observed, (size[0] - 1.8) / len(variables))
    return axes


def _own_names(
    given: Sequence[str] | Sequence[Sequence[str]] | None, sizes: Sequence[int]
) -> list[list[str]] | None:
    """Each variable's own category names, if such are given."""
    if given is None or all(isinstance(entry, str) for entry in given):
        return None
    if len(given) != len(sizes):
        raise StructureError(
            f"expected category names for {len(sizes)} variables; found them for {len(given)}"
        )
    return [
        checked_names(names, size, f"category names of variable {variable}", "")
        for variable, (names, size) in enumerate(zip(given, sizes, strict=True))
    ]


def _assigned(variables: list[str], own: list[list[str]], values: Tensor) -> list[str]:
    """Names of variables with the category of each; a negative one is left out."""
    triples = zip(variables, own, values.tolist(), strict=True)
    return [name if value < 0 else f"{name}={words[value]}" for name, words, value in triples]


def _existing(found: Tensor, sizes: Sequence[int]) -> Tensor:
    """Probabilities (L, V), NaN where a variable has no such category."""
    beyond = torch.arange(found.shape[1]) >= torch.tensor(sizes)[:, None]
    return found.masked_fill(beyond, torch.nan)


def _widest(own: list[list[str]] | None) -> float:
    """Width in inches of the widest category name."""
    return max((text_width(name, _CELL_SIZE) for names in own or () for name in names), default=0.0)


def _write_in_cells(
    axes: Axes, own: list[list[str]], shown: Tensor, observed: Tensor, room: float
) -> None:
    """Writes each category's name in its cell, if all of them fit."""
    if _widest(own) + _MARGIN > room or max(map(len, own)) > _MOST_WRITTEN:
        return
    (image,) = axes.images
    colours = np.asarray(image.cmap(image.norm(shown.numpy())))  # (L, V, 4)
    for variable, names in enumerate(own):
        for category, name in enumerate(names if not observed[variable] else ()):
            ink = ink_on(colours[variable, category])
            text = axes.text(variable, category, plain(name), size=_CELL_SIZE, color=ink)
            text.set_horizontalalignment("center")
            text.set_verticalalignment("center")


def _mark(axes: Axes, variables: Tensor, heights: Tensor) -> None:
    """Observed variables as points: their values are given, not inferred."""
    if len(variables):
        axes.plot(variables, heights, "o", color=VERMILION, markersize=5, clip_on=False)
        axes.set_xlabel("variable (● = observed)")


def _heat_size(num_variables: int, num_categories: int, widest: float) -> tuple[float, float]:
    cell = max(0.35, widest + _MARGIN if widest else 0.0)
    wide = float(np.clip(cell * num_variables + 1.8, 3.5, 12.0))
    return wide, float(np.clip(0.25 * num_categories + 1.0, 2.2, 8.0))
