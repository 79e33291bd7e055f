"""The picture of the cost benchmark: share solved over training operations."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from benchmarks.cost.table import Report, points_of, shares_of

_GREY = "#7F7F7F"
# Method -> words, marker, line, and a colour of Okabe and Ito (2008).
_METHODS = {
    "coupled": ("coupled by a circuit", "o", "-", "#0072B2"),
    "grpo": ("tuned by GRPO", "s", "--", "#D55E00"),
    "fine-tuned": ("trained on (control)", "^", ":", "#009E73"),
}


def cost_figure(report: Report) -> Figure:
    """A panel for each number of steps.

    Args:
        report: What was measured, or a part of it.
    """
    shares = shares_of(report)
    figure = Figure(figsize=(3.1 * len(shares), 4.2), layout="constrained")
    panels = figure.subplots(1, len(shares), sharey=True, sharex=True, squeeze=False)[0]
    for panel, share in zip(panels, shares, strict=True):
        _draw(panel, report, share)
    figure.suptitle("How much training does it take to solve problems in fewer steps?", fontsize=11)
    panels[0].set_ylabel("test problems solved")
    panels[0].set_ylim(0.0, 1.03)
    named: dict[str, Artist] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        named.update(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def _draw(panel: Axes, report: Report, share: int) -> None:
    one = report["denoiser"]["one_token_a_step"]["accuracy"]["value"]
    panel.axhline(one, color="black", linewidth=1, label="denoiser, one token a step")
    for point in points_of(report, "factorised", share):
        level = point["accuracy"]["value"]
        panel.axhline(level, color=_GREY, linewidth=2, label="denoiser, factorised")
    for method, (words, marker, line, colour) in _METHODS.items():
        points = points_of(report, method, share)
        if points:
            panel.errorbar(
                [point["operations"] for point in points],
                [point["accuracy"]["value"] for point in points],
                yerr=[point["accuracy"]["standard_error"] for point in points],
                marker=marker,
                linestyle=line,
                color=colour,
                markersize=5,
                capsize=2,
                label=words,
            )
    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel("training operations\nafter the denoiser's")
    panel.set_title(f"1/{share} of the steps", fontsize=10)
    panel.grid(alpha=0.3)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
