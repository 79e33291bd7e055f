"""Results as tables to read."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from codd.coupling.settings import FACTORISED
from codd.evaluation.caches import NONE, CacheResult
from codd.evaluation.few_step import FewStepCell, FewStepResult
from codd.evaluation.gap import SEQUENTIAL, GapResult
from codd.evaluation.quality import TextQuality
from codd.evaluation.statistics import Estimate, Interval, mean
from codd.evaluation.task_scores import TaskResult

PRODUCT = "product"
FIGURES = (
    *("score", "entropy", "unknown words", "distance", "recovered"),
    *("denoiser s", "coupling s"),
)
"""Figures of generated text, by the names of their columns."""
FEW_MASKED = 0.25
"""Up to this mask ratio a coupling is compared with one token a call."""


def gap_table(result: GapResult) -> Table:
    """Log-likelihoods by mask ratio, and the share of the gap that each variant closes."""
    windows = len(result.log_likelihoods[FACTORISED])
    table = Table(
        title="Conditional log-likelihood, nats per masked token",
        caption=f"{windows} windows, block of {result.protocol.block}; ± one standard error",
    )
    table.add_column("mask ratio")
    for ratio in result.protocol.ratios:
        table.add_column(f"{ratio:.3g}", justify="right")
    table.add_column("mean from 1/4", justify="right")
    for label in (SEQUENTIAL, FACTORISED, *result.variants):
        table.add_row(label, *(figure(e, 3) for e in result.level(label)), "")
    table.add_section()
    table.add_row("gap", *(figure(e, 3) for e in result.gap()), "")
    for label in result.variants:
        shares = (_percent(e) for e in result.closed(label))
        table.add_row(f"closed by {label}", *shares, _percent(result.mean_closed(label)))
    return table


def gap_summary(result: GapResult) -> list[str]:
    """A line on each variant: the share it closes, and its least lead over others."""
    return [_gap_line(result, label) for label in result.variants if label != PRODUCT]


def _gap_line(result: GapResult, label: str) -> str:
    closed = _percent(result.mean_closed(label))
    told = [f"closes {closed} of the gap between independent tokens and one token a call"]
    if PRODUCT in result.variants:
        least = min(result.lead(label, PRODUCT), key=lambda lead: lead.value)
        told.append(f"least lead over {PRODUCT}, of all mask ratios, {figure(least, 3)} nats")
    leads = zip(result.protocol.ratios, result.lead(label, SEQUENTIAL), strict=True)
    few = [lead for ratio, lead in leads if ratio <= FEW_MASKED]
    if few:
        least = min(few, key=lambda lead: lead.value + lead.standard_error)
        told.append(
            f"over one token a call, up to {FEW_MASKED:g} masked, {figure(least, 4)} at worst"
        )
    return f"{label}: {'; '.join(told)}"


def caches_table(result: CacheResult) -> Table:
    """What each cache changes of tokens and of log-likelihoods, and its time."""
    protocol = result.protocol
    table = Table(
        title="Key-value caches: log-likelihood in nats per masked token, and what is added to it",
        caption=f"{len(result.changed[NONE])} windows, {protocol.num_blocks} blocks of "
        f"{protocol.block}, {protocol.tokens_per_step} tokens a step; ± one standard error",
    )
    for name in ("cache", "tokens changed", *(f"masked {r:.3g}" for r in protocol.ratios)):
        table.add_column(name, justify="left" if name == "cache" else "right")
    table.add_column("denoiser, s", justify="right")
    for cache in result.changed:
        found = result.level(cache) if cache == NONE else result.difference(cache)
        cells = [figure(each, 4) for each in found]
        share = _percent(mean(result.changed[cache]))
        table.add_row(cache, share, *cells, f"{result.seconds[cache]:.1f}")
    return table


def few_step_table(result: FewStepResult, figures: Sequence[str] = FIGURES) -> Table:
    """What generated text is like, and its time, in every cell.

    Args:
        result: What was measured.
        figures: Those to show, of `FIGURES`.
    """
    told = {
        "score": "score: judge's nats per token",
        "entropy": "entropy: 3-grams, nats",
        "distance": "distance: Jensen-Shannon, 3-grams, from the training text",
        "recovered": "recovered: of what the factorised output loses to one token a step",
        "denoiser s": "seconds: a step of a batch",
    }
    notes = [note for name, note in told.items() if name in figures]
    table = Table(
        title=f"Blocks of {result.protocol.block} tokens, by tokens a step",
        caption="; ".join([f"{len(result.real.scores)} prompts", *notes, "± one standard error"]),
    )
    table.add_column("order")
    table.add_column("variant", no_wrap=True)
    table.add_column("tokens a step")
    for name in figures:
        table.add_column(name, justify="right")
    real = _quality_figures(result.real)
    table.add_row("", "real text", "", *(real.get(name, "") for name in figures))
    previous = None
    for cell in result.cells.values():
        if (cell.order, cell.label) != previous:
            table.add_section()
        previous = cell.order, cell.label
        found = _cell_figures(result, cell)
        order = cell.order.replace("_", " ")
        pace = str(cell.tokens_per_step)
        table.add_row(order, cell.label, pace, *(found[name] for name in figures))
    return table


def task_table(result: TaskResult) -> Table:
    """Accuracy by tokens per forward, and the area under each curve."""
    cells = result.curve(result.labels[0])
    table = Table(
        title=f"{result.task.name}: right answers by tokens a denoiser call",
        caption=f"{len(cells[0].right)} examples; ± one standard error; AUP with 95 % interval",
    )
    table.add_column("variant")
    for cell in cells:
        table.add_column(f"{cell.tokens_per_forward:.3g}", justify="right")
    table.add_column("AUP", justify="right")
    for label in result.labels:
        shares = (_percent(cell.accuracy) for cell in result.curve(label))
        table.add_row(label, *shares, _interval(result.aup(label), 1))
    return table


def as_text(content: RenderableType, width: int = 140) -> str:
    """Renders a table as plain text.

    Args:
        content: What a table function returned.
        width: Characters a line.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(content)
    return capture.get()


def _cell_figures(result: FewStepResult, cell: FewStepCell) -> dict[str, str]:
    recovered = result.recovered(cell.label, cell.order, cell.tokens_per_step)
    return _quality_figures(cell.quality) | {
        "recovered": _percent(recovered),
        "denoiser s": f"{cell.denoiser_seconds:.4f}",
        "coupling s": f"{cell.coupling_seconds:.4f}",
    }


def _quality_figures(quality: TextQuality) -> dict[str, str]:
    return {
        "score": figure(quality.score, 3),
        "entropy": figure(quality.entropy, 3),
        "unknown words": _percent(quality.unknown_words),
        "distance": figure(quality.distance, 3),
    }


def figure(estimate: Estimate, digits: int) -> str:
    """An estimate with its standard error."""
    return f"{estimate.value:.{digits}f} ±{estimate.standard_error:.{digits}f}"


def _interval(interval: Interval, digits: int) -> str:
    ends = f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
    return f"{interval.value:.{digits}f} ({ends})"


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    return f"{100 * estimate.value:.1f} ±{100 * estimate.standard_error:.1f} %"
