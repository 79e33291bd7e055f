"""Figures of curves over denoiser calls and over temperatures."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codd.evaluation.figures import GREY, curve, legend_outside, line_colour, line_marker, tidy
from codd.evaluation.frontier import FrontierResult
from codd.evaluation.quota_curves import QuotaResult
from codd.evaluation.statistics import mean


def draw_quotas(axes: Axes, result: QuotaResult) -> Axes:
    """Draws the judge's score over mean denoiser calls: a colour a rule, dashed without circuit.

    Args:
        axes: Where to draw.
        result: What was measured.

    Returns:
        The same axes.
    """
    axes.axhline(result.real.score.value, color=GREY, linewidth=1.5, label="real text")
    rules = list(dict.fromkeys(family.partition(",")[0] for family in result.families))
    for family in result.families:
        cells, place = result.curve(family), rules.index(family.partition(",")[0])
        style = (line_colour(place), line_marker(place), "--" if "factorised" in family else "-")
        calls = [mean(cell.calls).value for cell in cells]
        curve(axes, calls, [cell.quality.score for cell in cells], *style, family)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("denoiser calls a block")
    axes.set_ylabel("judge's score (nats per token)")
    axes.set_title("Quality of generated blocks by denoiser calls")
    legend_outside(axes)
    return axes


def draw_frontier(figure: Figure, result: FrontierResult) -> Figure:
    """Draws score over entropy: a panel for each order and number of tokens a call.

    Args:
        figure: Where to draw.
        result: What was measured.

    Returns:
        The same figure.
    """
    protocol = result.protocol
    panels = figure.subplots(
        len(protocol.orders), len(protocol.tokens_per_step), squeeze=False, sharex=True, sharey=True
    )
    for row, order in zip(panels, protocol.orders, strict=True):
        for axes, pace in zip(row, protocol.tokens_per_step, strict=True):
            _draw_panel(axes, result, order, pace)
    figure.supxlabel("entropy of 3-grams (nats)", fontsize=10)
    figure.supylabel("judge's score (nats per token)", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9
    )
    temperatures = ", ".join(f"{t:g}" for t in protocol.temperatures)
    figure.suptitle(f"Score and entropy at temperatures {temperatures} (± one standard error)")
    return figure


def _draw_panel(axes: Axes, result: FrontierResult, order: str, pace: int) -> None:
    real = result.real
    axes.plot(
        [real.entropy.value], [real.score.value], "*", color=GREY, markersize=10, label="real text"
    )
    for i, label in enumerate(result.labels):
        points = result.curve(label, order, pace)
        entropies = [point.entropy.value for point in points]
        scores = [point.score for point in points]
        curve(axes, entropies, scores, line_colour(i), line_marker(i), "-", label)
    axes.set_title(f"{order.replace('_', ' ')}, {pace} tokens a call", fontsize=10)
    tidy(axes)
