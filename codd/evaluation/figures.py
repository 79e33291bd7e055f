"""Figures of the results, drawn on matplotlib axes in the colours of Okabe and Ito (2008)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from codd.checkpoint import write_atomically
from codd.evaluation.few_step import FewStepResult
from codd.evaluation.gap import GapResult
from codd.evaluation.statistics import Estimate

BLACK, GREY, _PALE = "#000000", "#7F7F7F", "#F0F0F0"
# Without their yellow, which is too light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", BLACK, "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_HIDDEN = "■"
# Beyond these the default font may lack a letter.
_LAST_LETTER = 0x24F


def draw_gap(axes: Axes, result: GapResult) -> Axes:
    """Draws by mask ratio how much likelier than the factorised output each variant is.

    The line "sequential" is the misspecification gap itself.

    Args:
        axes: Where to draw.
        result: What was measured.

    Returns:
        The same axes.
    """
    ratios = result.protocol.ratios
    axes.axhline(0.0, color=GREY, linewidth=1.5, label="factorised")
    curve(axes, ratios, result.gap(), BLACK, "*", "--", "sequential: the whole gap")
    for i, label in enumerate(result.variants):
        curve(axes, ratios, result.gain(label), line_colour(i), line_marker(i), "-", label)
    axes.set_xlabel("mask ratio of the block (share of tokens)")
    axes.set_ylabel("gain over factorised\n(nats per masked token)")
    axes.set_title("Misspecification gap and what coupling closes")
    legend_outside(axes)
    return axes


def draw_few_step(axes: Axes, result: FewStepResult) -> Axes:
    """Draws the judge's score by tokens a step: a colour a variant, a line style an order.

    Args:
        axes: Where to draw.
        result: What was measured.

    Returns:
        The same axes.
    """
    paces = result.protocol.tokens_per_step
    axes.axhline(result.real.score.value, color=GREY, linewidth=1.5, label="real text")
    for i, label in enumerate(result.labels):
        for order, line in zip(result.protocol.orders, _LINES, strict=False):
            measured = [pace for pace in paces if (label, order, pace) in result.cells]
            scores = [result.cells[label, order, pace].quality.score for pace in measured]
            name = f"{label}, {order.replace('_', ' ')}"
            curve(axes, measured, scores, line_colour(i), line_marker(i), line, name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(paces, [str(pace) for pace in paces])
    axes.minorticks_off()
    axes.set_xlabel("tokens fixed at a denoiser call")
    axes.set_ylabel("judge's score (nats per token)")
    axes.set_title("Quality of generated blocks by tokens a step")
    legend_outside(axes)
    return axes


def draw_dependencies(
    axes: Axes, information: Tensor, symbols: Sequence[str], masked: Tensor
) -> Axes:
    """Draws the mutual information between the tokens of one partly masked window.

    Args:
        axes: Where to draw.
        information: (W, W) nats; the diagonal and visible tokens are left out.
        symbols: W texts, one a token.
        masked: (W,) bool; these tokens are shown as hidden.

    Returns:
        The same axes.
    """
    pairs = masked[:, None] & masked & ~torch.eye(len(masked), dtype=torch.bool)
    shown = information.detach().double().cpu().masked_fill(~pairs.cpu(), torch.nan)
    axes.set_facecolor(_PALE)
    image = axes.imshow(shown.numpy(), cmap="cividis", vmin=0.0)
    labels = [
        _HIDDEN if hidden else _letter(symbol)
        for symbol, hidden in zip(symbols, masked.tolist(), strict=True)
    ]
    places = list(range(len(labels)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(places, labels, fontsize=9)
        axis.set_tick_params(length=0)
        for hidden, text in zip(masked.tolist(), axis.get_ticklabels(), strict=True):
            text.set_color(COLOURS[1] if hidden else BLACK)
    axes.set_xlabel(f"token of the window ({_HIDDEN} = masked)")
    axes.set_ylabel(f"token of the window ({_HIDDEN} = masked)")
    axes.set_title("Mutual information between masked tokens")
    axes.figure.colorbar(image, ax=axes, label="mutual information (nats)", shrink=0.85)
    return axes


def write_figure(
    path: str | Path,
    draw: Callable[[Axes], Axes],
    *,
    size: tuple[float, float] = (9.0, 4.8),
    dots_per_inch: int = 150,
) -> None:
    """Writes one axes as PNG, in one step.

    Args:
        path: The file.
        draw: Draws on the axes it is given.
        size: Width and height in inches.
        dots_per_inch: Resolution.
    """
    write_panels(path, lambda figure: draw(figure.add_subplot()), size, dots_per_inch)


def write_panels(
    path: str | Path,
    draw: Callable[[Figure], object],
    size: tuple[float, float],
    dots_per_inch: int = 150,
) -> None:
    """Writes a figure as PNG, in one step.

    Args:
        path: The file.
        draw: Draws on the figure it is given.
        size: Width and height in inches.
        dots_per_inch: Resolution.
    """
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dots_per_inch)
    write_atomically(Path(path), stream.getvalue())


def curve(
    axes: Axes,
    places: Sequence[float],
    estimates: Sequence[Estimate],
    colour: str,
    marker: str,
    line: str,
    label: str,
) -> None:
    """Draws estimates at places, with their standard errors as bars."""
    # The standard error of a single window is not known: no bar is drawn then.
    errors = torch.tensor([estimate.standard_error for estimate in estimates]).nan_to_num()
    axes.errorbar(
        places,
        [estimate.value for estimate in estimates],
        yerr=errors.tolist(),
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=5,
        capsize=2,
        label=label,
    )


def legend_outside(axes: Axes) -> None:
    """Puts the legend on the right of the axes."""
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize=9,
        title="± one standard error",
        title_fontsize=8,
    )
    tidy(axes)


def tidy(axes: Axes) -> Axes:
    """Adds a faint grid and takes away the frame's upper and right side."""
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def line_colour(place: int) -> str:
    """The colour of the line of that place."""
    return COLOURS[place % len(COLOURS)]


def line_marker(place: int) -> str:
    """The marker of the line of that place."""
    return _MARKERS[place % len(_MARKERS)]


def _letter(symbol: str) -> str:
    known = "".join(_SIGNS.get(c, c if c.isprintable() else "·") for c in symbol)
    return "".join(c if ord(c) <= _LAST_LETTER or c in _SIGNS.values() else "·" for c in known)
