"""Models side by side: means with confidence intervals, or differences row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from scipy import stats
from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.viz.style import (
    BLUE,
    FONT_SIZE,
    GREY,
    axes_or_new,
    entitle,
    plain,
    text_width,
    without_frame,
)


def comparison(
    scores: Mapping[str, Tensor],
    *,
    baseline: str | None = None,
    confidence: float = 0.95,
    quantity: str = "log-likelihood (nats a row)",
    ax: Axes | None = None,
) -> Axes:
    """Draws the mean score of several models with confidence intervals, the best on top.

    With a baseline the differences to it are drawn, row by row, so that what makes a row easy or
    hard for both cancels. Intervals are Student's t.

    Args:
        scores: Name -> (N,) scores of the same N rows in the same order.
        baseline: Name of the model that the others are compared with; default none.
        confidence: Of the intervals, between 0 and 1.
        quantity: What a score is, with its unit.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If there is nothing to compare, the rows differ or are fewer than two, the
            baseline is unknown or the confidence impossible.

    Examples:
        >>> rows = torch.linspace(-2, -1, 50)  # log-likelihoods of 50 rows under two models
        >>> ax = pc.viz.comparison({"first": rows, "second": rows + 0.2 * torch.rand(50)})
        >>> [label.get_text() for label in ax.get_yticklabels()]  # the better one on top
        ['second', 'first']
        >>> ax.get_xlabel()
        'log-likelihood (nats a row)'
    """
    table = {name: score.detach().double().cpu() for name, score in scores.items()}
    count = _checked(table, baseline, confidence)
    shown = dict(table)
    if baseline is not None:
        base = shown.pop(baseline)
        shown = {name: score - base for name, score in shown.items()}
    names = sorted(shown, key=lambda name: -float(shown[name].mean()))
    means = [float(shown[name].mean()) for name in names]
    factor = float(stats.t.ppf((1 + confidence) / 2, count - 1)) / math.sqrt(count)
    halves = [factor * float(shown[name].std()) for name in names]
    longest = max(text_width(plain(name)) for name in names)
    axes = axes_or_new(ax, (4.6 + longest, 0.34 * len(names) + 1.1))
    _points(axes, names, means, halves)
    if baseline is not None:
        axes.axvline(0.0, color=GREY, linewidth=1.0, zorder=0)
    axes.set_xlabel(quantity if baseline is None else f"difference in {quantity}")
    percent = f"{100 * confidence:.3g} %"
    what = "" if baseline is None else f" less {baseline}"
    entitle(axes, f"mean of {count:,} rows{what}, {percent} confidence intervals")
    return axes


def _points(
    axes: Axes, names: Sequence[str], means: Sequence[float], halves: Sequence[float]
) -> None:
    places = list(range(len(names)))
    axes.errorbar(means, places, xerr=halves, fmt="o", color=BLUE, capsize=3, markersize=5)
    axes.set_yticks(places, [plain(name) for name in names], fontsize=FONT_SIZE)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_ylabel("model")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    for place, mean, half in zip(places, means, halves, strict=True):
        axes.annotate(
            f"{mean:.3f} ± {half:.3f}",
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=FONT_SIZE - 1,
        )
    without_frame(axes)


def _checked(table: Mapping[str, Tensor], baseline: str | None, confidence: float) -> int:
    """The number of rows."""
    if len(table) < 1 + (baseline is not None):
        raise StructureError(f"expected models to compare; found {list(table)}")
    if baseline is not None and baseline not in table:
        raise StructureError(f"expected baseline among {list(table)}; found {baseline!r}")
    shapes = {name: tuple(score.shape) for name, score in table.items()}
    (count, *rest) = next(iter(shapes.values())) or (0,)
    if rest or len(set(shapes.values())) > 1 or count < 2:
        raise StructureError(f"expected (N,) scores of the same N >= 2 rows; found shapes {shapes}")
    if not 0 < confidence < 1:
        raise StructureError(f"expected confidence between 0 and 1; found {confidence}")
    if not all(bool(torch.isfinite(score).all()) for score in table.values()):
        raise StructureError("expected finite scores; found infinite or NaN ones")
    return count
