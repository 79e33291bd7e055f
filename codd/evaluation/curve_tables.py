"""Curves over denoiser calls and over temperatures, as tables to read, and a line on each."""

from __future__ import annotations

import math

from rich.table import Table

from codd.evaluation.frontier import FrontierKey, FrontierResult
from codd.evaluation.quota_curves import QuotaCell, QuotaResult
from codd.evaluation.report import figure
from codd.evaluation.statistics import mean


def quota_table(result: QuotaResult) -> Table:
    """Calls, score and entropy of every setting, and the reference's calls at the same score."""
    protocol = result.protocol
    table = Table(
        title=f"Blocks of {protocol.block} tokens, by what decides how many a call fixes",
        caption=(
            f"{len(result.real.scores)} prompts, order {protocol.order}; score: judge's nats per "
            "token; entropy: 3-grams, nats; calls ratio: those of "
            f"{protocol.reference!r} at the same score over these, with its entropy there; "
            "± one standard error"
        ),
    )
    for name in ("rule", "setting"):
        table.add_column(name)
    for name in ("calls", "score", "entropy", "calls ratio", "its entropy", "seconds"):
        table.add_column(name, justify="right")
    real = result.real
    table.add_row("", "real text", "", figure(real.score, 3), figure(real.entropy, 3), "", "", "")
    for family in result.families:
        table.add_section()
        for cell in result.curve(family):
            table.add_row(*_quota_row(result, cell))
    return table


def quota_summary(result: QuotaResult, family: str) -> str:
    """How many more calls the reference takes at equal score than a family, at least."""
    found = [(cell, result.compare(cell)) for cell in result.curve(family)]
    known = [(cell, c) for cell, c in found if not math.isnan(c.ratio.value)]
    if not known:
        return f"{family}: no setting scores as high as {result.protocol.reference!r} does"
    cell, least = min(known, key=lambda pair: pair[1].ratio.value)
    return (
        f"{family}: at equal score {result.protocol.reference!r} takes at least "
        f"{figure(least.ratio, 2)} times the calls ({cell.rule}, the least of {len(known)} "
        f"settings that compare, of {len(found)})"
    )


def frontier_table(result: FrontierResult) -> Table:
    """Score and entropy of every cell, whether it is on the frontier, and who leads it."""
    protocol = result.protocol
    table = Table(
        title=f"Blocks of {protocol.block} tokens, by temperature",
        caption=(
            f"{len(result.real.scores)} prompts; score: judge's nats per token; entropy: 3-grams, "
            "nats; lead: how much higher a coupling scores at equal or higher entropy; ± one "
            "standard error"
        ),
    )
    for name in ("order", "tokens a call", "variant", "temperature"):
        table.add_column(name)
    for name in ("score", "entropy", "frontier", *(f"lead of {x}" for x in result.couplings)):
        table.add_column(name, justify="right")
    real = result.real
    blanks = [""] * (1 + len(result.couplings))
    table.add_row("", "", "real text", "", figure(real.score, 3), figure(real.entropy, 3), *blanks)
    previous = None
    for key in result.cells:
        if key[:3] != previous:
            table.add_section()
        previous = key[:3]
        table.add_row(*_frontier_row(result, key))
    return table


def frontier_summary(result: FrontierResult) -> list[str]:
    """For each order and pace the couplings that win, or how near each comes."""
    lines = []
    for order in result.protocol.orders:
        for pace in result.protocol.tokens_per_step:
            winners = [name for name in result.couplings if result.wins(name, order, pace)]
            told = "; ".join(winners) or "none"
            leads = (_least_leads(result, name, order, pace) for name in result.couplings)
            lines.append(
                f"{order}, {pace} tokens a call, above {' and '.join(result.protocol.rivals)} at "
                f"equal or higher entropy and on the frontier: {told}. Least lead of "
                f"{'; '.join(leads)}"
            )
    return lines


def _least_leads(result: FrontierResult, label: str, order: str, pace: int) -> str:
    """A coupling and its least lead over each rival."""
    told = []
    for rival in result.protocol.rivals:
        keys = (FrontierKey(rival, order, pace, t) for t in result.protocol.temperatures)
        leads = [lead for key in keys if not math.isnan((lead := result.lead(label, key)).value)]
        least = min(leads, key=lambda lead: lead.value, default=None)
        told.append(f"{'–' if least is None else figure(least, 3)} over {rival}")
    return f"{label}: {', '.join(told)}"


def _quota_row(result: QuotaResult, cell: QuotaCell) -> list[str]:
    found = result.compare(cell)
    ratio = "–" if math.isnan(found.ratio.value) else figure(found.ratio, 2)
    return [
        cell.family,
        cell.rule.partition("=")[2],
        figure(mean(cell.calls), 2),
        figure(cell.quality.score, 3),
        figure(cell.quality.entropy, 3),
        f"≥ {ratio}" if found.at_least else ratio,
        "–" if math.isnan(found.ratio.value) else f"{found.entropy:.3f}",
        f"{cell.seconds:.1f}",
    ]


def _frontier_row(result: FrontierResult, key: FrontierKey) -> list[str]:
    quality = result.cells[key]
    leads = [""] * len(result.couplings)
    if key.label in result.protocol.rivals:
        found = (result.lead(label, key) for label in result.couplings)
        leads = ["–" if math.isnan(lead.value) else figure(lead, 3) for lead in found]
    return [
        key.order,
        str(key.tokens_per_step),
        key.label,
        f"{key.temperature:g}",
        figure(quality.score, 3),
        figure(quality.entropy, 3),
        "yes" if result.on_frontier(key) else "",
        *leads,
    ]
