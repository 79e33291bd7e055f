"""What was measured: the gap by mask ratio, quality by tokens a step, losses of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes

from codd.errors import EvaluationError
from codd.evaluation.few_step import FewStepResult
from codd.evaluation.gap import GapResult
from codd.evaluation.statistics import Estimate
from codd.evaluation.task_scores import TaskResult
from codd.training.run_state import HistoryEntry
from pcircuits import viz

_SIZE = (9.0, 4.8)
_ERRORS = "± one standard error"


def gap(result: GapResult, *, ax: Axes | None = None) -> Axes:
    """Draws by mask ratio how much likelier than the factorised output each variant is.

    The line "sequential" is the misspecification gap itself.

    Args:
        result: What was measured.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Examples:
        Of what `codd.evaluation.gap.measure_gap` returns; here the figures are made up:

        >>> from codd.evaluation.gap import GapProtocol, GapResult
        >>> nats = {"factorised": -2.0, "copula": -1.2, "sequential": -1.0}  # a token
        >>> rows = {label: mean + 0.1 * torch.rand(8, 2) for label, mean in nats.items()}
        >>> ax = codd.viz.gap(GapResult(GapProtocol(8, ratios=(0.5, 1.0)), rows))
        >>> ax.get_xlabel()
        'mask ratio of the block (share of tokens)'
    """
    axes = viz.style.axes_or_new(ax, _SIZE)
    ratios = result.protocol.ratios
    axes.axhline(0.0, color=viz.style.GREY, linewidth=1.5, label="factorised")
    look = {"color": viz.style.BLACK, "marker": "*", "linestyle": "--"}
    curve(axes, 0, ratios, result.gap(), "sequential: the whole gap", look)
    for place, label in enumerate(result.variants):
        curve(axes, place, ratios, result.gain(label), label)
    axes.set_xlabel("mask ratio of the block (share of tokens)")
    axes.set_ylabel("gain over factorised\n(nats per masked token)")
    return finished(axes, "Misspecification gap and what coupling closes")


def few_step(result: FewStepResult, *, ax: Axes | None = None) -> Axes:
    """Draws the judge's score by tokens a step: a colour a variant, a line style an order.

    Args:
        result: What was measured.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Examples:
        Of what `codd.evaluation.few_step.measure_few_step` returns; here the figures are made up:

        >>> from codd.evaluation.few_step import FewStepCell, FewStepProtocol, FewStepResult
        >>> from codd.evaluation.quality import TextQuality
        >>> from codd.evaluation.statistics import Estimate
        >>> scores, surprises = torch.linspace(-2, -1, 4), torch.full((4,), 7.0)
        >>> judged = TextQuality(scores, surprises, unknown_words=Estimate(0.1, 0.01))
        >>> key = ("copula", "random", 1)
        >>> cells = {key: FewStepCell(*key, judged, 0.1, 0.2, steps=8)}
        >>> protocol = FewStepProtocol(8, tokens_per_step=(1,), orders=("random",))
        >>> ax = codd.viz.few_step(FewStepResult(protocol, cells, real=judged))
        >>> ax.get_xlabel()
        'tokens fixed at a denoiser call'
    """
    axes = viz.style.axes_or_new(ax, _SIZE)
    paces = result.protocol.tokens_per_step
    axes.axhline(result.real.score.value, color=viz.style.GREY, linewidth=1.5, label="real text")
    for place, label in enumerate(result.labels):
        for order, dashes in zip(result.protocol.orders, viz.style.DASHES, strict=False):
            measured = [pace for pace in paces if (label, order, pace) in result.cells]
            scores = [result.cells[label, order, pace].quality.score for pace in measured]
            name = f"{label}, {order.replace('_', ' ')}"
            curve(axes, place, measured, scores, name, {"linestyle": dashes})
    axes.set_xscale("log", base=2)
    axes.set_xticks(paces, [str(pace) for pace in paces])
    axes.minorticks_off()
    axes.set_xlabel("tokens fixed at a denoiser call")
    axes.set_ylabel("judge's score (nats per token)")
    return finished(axes, "Quality of generated blocks by tokens a step")


def task(result: TaskResult, *, ax: Axes | None = None) -> Axes:
    """Draws the share of right answers by tokens per forward.

    Args:
        result: What was measured.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Examples:
        Of what `codd.evaluation.task_scores.measure_task` returns; here the figures are made up:

        >>> from codd.evaluation.task_scores import TaskCell, TaskProtocol, TaskResult
        >>> from codd.evaluation.tasks.registry import make_task
        >>> right = torch.tensor([True, True, False, True])
        >>> cells = {("copula", n): TaskCell("copula", n, right, float(n)) for n in (1, 2)}
        >>> result = TaskResult(make_task("reverse"), TaskProtocol(tokens_per_step=(1, 2)), cells)
        >>> ax = codd.viz.task(result)
        >>> ax.get_title()
        'Accuracy under parallelism: reverse'
    """
    axes = viz.style.axes_or_new(ax, _SIZE)
    places = [cell.tokens_per_forward for cell in result.curve(result.labels[0])]
    for place, label in enumerate(result.labels):
        curve(axes, place, places, [cell.accuracy for cell in result.curve(label)], label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{each:.3g}" for each in places])
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("tokens per forward")
    axes.set_ylabel("share of right answers")
    return finished(axes, f"Accuracy under parallelism: {result.task.name}")


def training(
    histories: Sequence[HistoryEntry] | Mapping[str, Sequence[HistoryEntry]],
    *,
    by: str = "step",
    ax: Axes | None = None,
) -> Axes:
    """Draws the losses of training runs: training data dashed, validation data solid.

    Args:
        histories: The history of a run, or several by name.
        by: "step" or "seconds".
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        EvaluationError: If a history is empty or `by` is unknown.

    Examples:
        Of the history of a run; here the figures are made up:

        >>> from codd.training.run_state import HistoryEntry
        >>> history = [HistoryEntry(n, 3.0 / n, 3.1 / n, seconds=2.0 * n) for n in (1, 2, 3)]
        >>> ax = codd.viz.training({"mine": history}, by="seconds")
        >>> ax.get_xlabel()
        'training time (s)'
    """
    named = dict(histories) if isinstance(histories, Mapping) else {"": histories}
    if not named or not all(named.values()):
        raise EvaluationError("histories: expected at least one entry each; found an empty one")
    if by not in ("step", "seconds"):
        raise EvaluationError(f"by: expected 'step' or 'seconds'; found {by!r}")
    axes = viz.style.axes_or_new(ax, (7.0, 3.6))
    for place, (name, history) in enumerate(named.items()):
        for what, dashes in (("valid", "-"), ("train", "--")):
            x = [getattr(entry, by) for entry in history]
            y = [getattr(entry, f"{what}_loss") for entry in history]
            label = f"{name}, {what}" if name else what
            marker = viz.style.MARKERS[place % len(viz.style.MARKERS)] if len(x) <= 15 else ""
            viz.style.curve(axes, place, x, y, label=label, linestyle=dashes, marker=marker)
    axes.set_xlabel("optimiser steps" if by == "step" else "training time (s)")
    axes.set_ylabel("loss (nats per token)")
    return finished(axes, "Loss during training", legend="")


def curve(
    axes: Axes,
    place: int,
    x: Sequence[float],
    estimates: Sequence[Estimate],
    label: str,
    look: Mapping[str, str] | None = None,
) -> None:
    """Draws estimates with their standard errors, in the look of a place."""
    # The standard error of a single window is not known: no bar is drawn then.
    errors = torch.tensor([estimate.standard_error for estimate in estimates]).nan_to_num()
    values = [estimate.value for estimate in estimates]
    viz.style.curve(axes, place, x, values, label=label, errors=errors.tolist(), **(look or {}))


def finished(axes: Axes, title: str, *, legend: str = _ERRORS) -> Axes:
    """Adds title, grid and the legend beside the axes."""
    axes.grid(alpha=0.3)
    viz.style.without_frame(axes)
    viz.style.legend_beside(axes, legend)
    viz.style.entitle(axes, title)
    return axes
