"""How a text was filled in, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from codd.decoding.records import Generation
from codd.errors import EvaluationError
from codd.viz.texts import token_texts
from codd.vocabulary import Vocabulary
from pcircuits import viz

COLOURS = ("step", "confidence")
_CELL, _ROW = 0.19, 0.25


def filling(
    generation: Generation,
    vocabulary: Vocabulary,
    *,
    row: int = 0,
    colour: str = "step",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draws the new tokens after every step: one line a step, a colour when each was fixed.

    Args:
        generation: Made with `record_history=True`, and `log_probs=True` for confidences.
        vocabulary: Ids to text.
        row: Which text of the batch.
        colour: "step" or "confidence", the probability that the marginal of its step gave a token.
        title: Replaces the usual title.
        ax: Where to draw; default a new figure.

    Returns:
        The axes; a token that a step has just fixed is framed.

    Raises:
        EvaluationError: If nothing was recorded, or the row or the colour is unknown.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 8, "steps": 4, "coupling": "factorised"}
        >>> found = model.generate_tokens("Return ", record_history=True, **options)
        >>> ax = codd.viz.filling(found, model.vocabulary)
        >>> _ = pc.viz.save(ax, "steps.png")
        >>> ax.get_title()
        'Step-by-step filling, coloured by step'
    """
    _check(generation, row, colour)
    states = [record.tokens[row].cpu() for record in generation.history]
    fresh = np.array([record.fixed[row].cpu().numpy() for record in generation.history])
    cells = [token_texts(vocabulary, state, mask="") for state in states]
    wide = max([_CELL, *(viz.style.text_width(t) + 0.06 for line in cells for t in line)])
    size = (wide * len(states[0]) + 2.2, max(_ROW * len(states) + 1.1, 2.7))
    shades, scale, quantity = _shades(generation, row, colour, fresh)
    axes = viz.style.axes_or_new(ax, size)
    colours = colormaps[viz.style.SEQUENTIAL]
    if isinstance(scale, BoundaryNorm):
        colours = colours.resampled(scale.Ncmap)
    hidden = np.array([state == vocabulary.mask_id for state in states])
    axes.set_facecolor(viz.style.PALE)
    image = axes.imshow(np.where(hidden, np.nan, shades), cmap=colours, norm=scale, aspect="auto")
    bar = axes.figure.colorbar(image, ax=axes, label=quantity)
    bar.locator = MaxNLocator(integer=colour == "step", nbins=8)
    bar.update_ticks()
    _letters(axes, cells, shades, colours, scale)
    _frames(axes, fresh & ~hidden)
    axes.set_yticks(range(len(states)), [str(i + 1) for i in range(len(states))], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("position among the new tokens")
    axes.set_ylabel("after step")
    viz.style.entitle(axes, title or f"Step-by-step filling, coloured by {colour}")
    return axes


def _check(generation: Generation, row: int, colour: str) -> None:
    if not generation.history:
        raise EvaluationError("generation: expected a history; generate with record_history=True")
    if not 0 <= row < len(generation.completions):
        last = len(generation.completions) - 1
        raise EvaluationError(f"row: expected 0 to {last}, found {row}")
    if colour not in COLOURS:
        raise EvaluationError(f"colour: expected one of {COLOURS}, found {colour!r}")
    if colour == "confidence" and generation.log_probs is None:
        raise EvaluationError("generation: expected log_probs; generate with log_probs=True")


def _shades(
    generation: Generation, row: int, colour: str, fresh: np.ndarray
) -> tuple[np.ndarray, Normalize, str]:
    """(S, N) numbers behind the colours, their scale and what they are."""
    steps, length = fresh.shape
    if colour == "confidence":
        assert generation.log_probs is not None, "it was checked"
        last = generation.log_probs[row].exp().cpu().numpy()
        return np.tile(last, (steps, 1)), Normalize(0.0, 1.0), "probability when it was fixed"
    # With revision a token may be fixed twice: the last time before each state counts.
    numbers = np.where(fresh, np.arange(1, steps + 1)[:, None], 0)
    since = np.maximum.accumulate(numbers, axis=0).reshape(steps, length)
    edges = np.arange(0.5, steps + 1.0)
    if steps == 1:
        return since, Normalize(0.0, 1.0), "step that fixed it"
    return since, BoundaryNorm(edges, steps), "step that fixed it"


def _letters(
    axes: Axes, cells: list[list[str]], shades: np.ndarray, colours: Colormap, scale: Normalize
) -> None:
    painted = colours(scale(shades))
    for y, line in enumerate(cells):
        for x, text in enumerate(line):
            if text:
                ink = viz.style.ink_on(painted[y, x][:3])
                look: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
                axes.text(x, y, viz.style.plain(text), fontsize=viz.style.FONT_SIZE, **look)


def _frames(axes: Axes, fresh: np.ndarray) -> None:
    for y, x in np.argwhere(fresh).tolist():
        corner = (x - 0.46, y - 0.46)
        frame = Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=viz.style.VERMILION)
        frame.set(linewidth=1.2, gid="fresh")
        axes.add_patch(frame)
