"""Heat maps with labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from pcircuits.viz.style import FONT_SIZE, PALE, SEQUENTIAL, axes_or_new, plain, text_width

_LABEL_SIZE = FONT_SIZE - 1
_SHARP = 200
_LINE = 1.35 * _LABEL_SIZE / 72


def heat_map(
    numbers: np.ndarray,
    quantity: str,
    size: tuple[float, float],
    *,
    limits: tuple[float, float | None],
    logarithmic: bool = False,
    ax: Axes | None,
) -> Axes:
    """Draws a matrix, its first row on top, with a bar that gives the scale.

    Args:
        numbers: (rows, columns); NaN is left pale.
        quantity: What the numbers are, with their unit.
        size: Width and height of a new figure in inches.
        limits: Ends of the colour scale; an upper end of None is the largest number.
        logarithmic: Whether the colours are of logarithms; what is below the lower end, which has
            to be positive, gets its colour.
        ax: Where to draw, or None.
    """
    axes = axes_or_new(ax, size)
    low, high = limits
    if high is None:
        finite = numbers[np.isfinite(numbers)]
        high = float(finite.max()) if finite.size and finite.max() > low else low + 1.0
    axes.set_facecolor(PALE)
    scale = LogNorm if logarithmic else Normalize
    # More cells than dots are averaged, few are drawn with sharp sides.
    smooth = "antialiased" if max(numbers.shape) > _SHARP else "nearest"
    image = axes.imshow(
        np.maximum(numbers, low) if logarithmic else numbers,
        cmap=SEQUENTIAL,
        norm=scale(low, high),
        aspect="auto",
        interpolation=smooth,
    )
    bar = axes.figure.colorbar(
        image, ax=axes, label=quantity, extend="min" if logarithmic else "neither"
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=_LABEL_SIZE)
    return axes


def category_map(
    numbers: np.ndarray, num_categories: int, size: tuple[float, float], ax: Axes | None
) -> Axes:
    """Draws a matrix of categories, a colour each.

    Args:
        numbers: (rows, columns) categories; NaN is left pale.
        num_categories: Number of categories V.
        size: Width and height of a new figure in inches.
        ax: Where to draw, or None.
    """
    axes = heat_map(numbers, "category", size, limits=(-0.5, num_categories - 0.5), ax=ax)
    (image,) = axes.images
    image.set_cmap(colormaps[SEQUENTIAL].resampled(num_categories))
    assert image.colorbar is not None, "the heat map has one"
    image.colorbar.locator = MaxNLocator(integer=True, nbins=10)
    image.colorbar.update_ticks()
    return axes


def label_axis(axis: Axis, names: Sequence[str], title: str, room: float) -> None:
    """Labels the cells of one side; of more names than there is room for, every n-th.

    Args:
        axis: The axis.
        names: One a cell.
        title: What the cells are.
        room: Length of the side in inches.
    """
    shown = [plain(name) for name in names]
    cell = room / len(shown)
    widest = max(text_width(name, _LABEL_SIZE) for name in shown)
    flat = isinstance(axis, XAxis) and widest + 0.08 > cell
    needed = _LINE if flat or not isinstance(axis, XAxis) else widest + 0.08
    step = max(1, math.ceil(needed / cell))
    places = range(0, len(shown), step)
    axis.set_ticks(list(places), [shown[i] for i in places], fontsize=_LABEL_SIZE)
    axis.set_tick_params(length=0, rotation=90 if flat else 0)
    axis.set_label_text(title)
