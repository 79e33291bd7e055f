"""Trade-offs: quality against denoiser calls, and against the entropy of what is generated."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from codd.coupling.settings import FACTORISED
from codd.evaluation.frontier import FrontierResult
from codd.evaluation.quota_curves import QuotaResult
from codd.evaluation.statistics import mean
from codd.viz.measured import curve
from pcircuits import viz


def quotas(result: QuotaResult, *, figure: Figure | None = None) -> Figure:
    """Draws the judge's score over mean denoiser calls: a panel for each rule.

    Args:
        result: What was measured.
        figure: Where to draw; default a new one.

    Returns:
        The figure; the reference, without its errors, is in every panel.

    Examples:
        Of what `codd.evaluation.quota_curves.measure_quotas` returns; these figures are made up:

        >>> from codd.evaluation.quality import TextQuality
        >>> from codd.evaluation.quota_curves import QuotaCell, QuotaProtocol, QuotaResult
        >>> from codd.evaluation.statistics import Estimate
        >>> scores, surprises = torch.linspace(-2, -1, 4), torch.full((4,), 7.0)
        >>> judged = TextQuality(scores, surprises, unknown_words=Estimate(0.1, 0.01))
        >>> calls = torch.full((4,), 3.0)
        >>> cell = QuotaCell("threshold", "threshold=0.9", calls, judged, seconds=1.0)
        >>> protocol = QuotaProtocol(8, "threshold")
        >>> figure = codd.viz.quotas(QuotaResult(protocol, (cell,), real=judged))
        >>> figure.axes[0].get_title()
        'threshold'
    """
    rules = list(dict.fromkeys(_rule_and_coupling(family)[0] for family in result.families))
    couplings = list(dict.fromkeys(_rule_and_coupling(family)[1] for family in result.families))
    wide, high = min(len(rules), 3), -(-len(rules) // 3)
    size = (2.0 + 2.8 * wide, 1.0 + 2.5 * high)
    figure = figure or Figure(figsize=size, layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True).flat
    for axes, rule in zip(panels, rules, strict=False):
        _quota_panel(axes, result, rule, couplings)
    for axes in list(panels)[len(rules) :]:
        axes.set_visible(False)
    figure.supxlabel("denoiser calls a block", fontsize=10)
    figure.supylabel("judge's score (nats per token)", fontsize=10)
    keys: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        keys |= dict(zip(labels, handles, strict=True))
    figure.legend(list(keys.values()), list(keys), loc="outside right center", frameon=False)
    figure.suptitle("Quality of generated blocks by denoiser calls (± one standard error)")
    return figure


def _rule_and_coupling(family: str) -> tuple[str, str]:
    rule, _, coupling = family.partition(", ")
    return rule, coupling


def _quota_panel(axes: Axes, result: QuotaResult, rule: str, couplings: list[str]) -> None:
    reference = result.protocol.reference
    axes.axhline(result.real.score.value, color=viz.style.GREY, linewidth=1.5, label="real text")
    points = result.curve(reference)
    axes.plot(
        [mean(cell.calls).value for cell in points],
        [cell.quality.score.value for cell in points],
        ":",
        color=viz.style.BLACK,
        label=reference.replace("_", " ").replace(", ", ",\n"),
    )
    for family in result.families:
        name, coupling = _rule_and_coupling(family)
        if name != rule:
            continue
        cells = result.curve(family)
        calls = [mean(cell.calls).value for cell in cells]
        scores = [cell.quality.score for cell in cells]
        dashes = "--" if coupling == FACTORISED else "-"
        label, look = coupling or family.replace("_", " "), {"linestyle": dashes}
        curve(axes, couplings.index(coupling), calls, scores, label, look)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_title(rule.replace("_", " "), fontsize=10)
    axes.grid(alpha=0.3)
    viz.style.without_frame(axes)


def frontier(result: FrontierResult, *, figure: Figure | None = None) -> Figure:
    """Draws score over entropy: a panel for each order and number of tokens a call.

    Args:
        result: What was measured.
        figure: Where to draw; default a new one.

    Returns:
        The figure.

    Examples:
        Of what `codd.evaluation.frontier.measure_frontier` returns; here the figures are made up:

        >>> from codd.evaluation.quality import TextQuality
        >>> from codd.evaluation.frontier import FrontierKey, FrontierProtocol, FrontierResult
        >>> from codd.evaluation.statistics import Estimate
        >>> scores, surprises = torch.linspace(-2, -1, 4), torch.full((4,), 7.0)
        >>> judged = TextQuality(scores, surprises, unknown_words=Estimate(0.1, 0.01))
        >>> protocol = FrontierProtocol(8, (0.5, 1.0), tokens_per_step=(4,), orders=("random",))
        >>> cells = {FrontierKey("copula", "random", 4, heat): judged for heat in (0.5, 1.0)}
        >>> figure = codd.viz.frontier(FrontierResult(protocol, cells, real=judged))
        >>> figure.axes[0].get_title()
        'random, 4 tokens a call'
    """
    protocol = result.protocol
    orders, paces = protocol.orders, protocol.tokens_per_step
    size = (1.5 + 3.2 * len(paces), 1.0 + 2.8 * len(orders))
    figure = figure or Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(orders), len(paces), squeeze=False, sharex=True, sharey=True)
    for row, order in zip(panels, orders, strict=True):
        for axes, pace in zip(row, paces, strict=True):
            _panel(axes, result, order, pace)
    figure.supxlabel("entropy of 3-grams (nats)", fontsize=10)
    figure.supylabel("judge's score (nats per token)", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    temperatures = ", ".join(f"{t:g}" for t in protocol.temperatures)
    figure.suptitle(f"Score and entropy at temperatures {temperatures} (± one standard error)")
    return figure


def _panel(axes: Axes, result: FrontierResult, order: str, pace: int) -> None:
    real = result.real
    where = [real.entropy.value], [real.score.value]
    axes.plot(*where, "*", color=viz.style.GREY, markersize=10, label="real text")
    for place, label in enumerate(result.labels):
        points = result.curve(label, order, pace)
        entropies = [point.entropy.value for point in points]
        curve(axes, place, entropies, [point.score for point in points], label)
    axes.set_title(f"{order.replace('_', ' ')}, {pace} tokens a call", fontsize=10)
    axes.grid(alpha=0.3)
    viz.style.without_frame(axes)
