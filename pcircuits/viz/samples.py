"""Samples side by side: images in a grid, rows as a table of colours, tokens as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.viz.heat import category_map, label_axis
from pcircuits.viz.style import (
    FONT_SIZE,
    INK,
    SEQUENTIAL,
    axes_or_new,
    letters,
    plain,
    text_height,
)
from pcircuits.viz.subject import checked_names

_MOST_LETTERS = 100
# Width in inches of a letter of the monospaced font.
_LETTER = 0.603 * FONT_SIZE / 72


def samples(
    values: Tensor,
    *,
    shape: tuple[int, int] | None = None,
    token_names: Sequence[str] | None = None,
    num_categories: int | None = None,
    variable_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws samples: as images if given their shape, as text if given tokens, else row by row.

    Args:
        values: (N, L) integers.
        shape: Height and width of images; their product is L.
        token_names: V texts, one a category.
        num_categories: Number of categories V, the upper end of the colours; default the largest
            value plus one.
        variable_names: L names for rows; default X0, X1, ...
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If values are not a table, or do not fit the shape, tokens or names, or
            both a shape and tokens are given.

    Examples:
        >>> model = pc.CircuitModel(pc.families.quad_tree(4, 4, num_units=2, num_categories=2))
        >>> ax = pc.viz.samples(model.sample(6), shape=(4, 4))  # six images
        >>> _ = pc.viz.save(ax, "samples.png")
        >>> drawn = torch.tensor([[0, 1, 1], [1, 0, 2]])
        >>> ax = pc.viz.samples(drawn, token_names=["a", "b", "c"])  # two lines of text
    """
    if values.ndim != 2 or 0 in values.shape:
        raise StructureError(f"expected values (N, L); found shape {tuple(values.shape)}")
    if shape is not None and token_names is not None:
        raise StructureError("expected a shape for images or token names for text; found both")
    array = values.detach().cpu().numpy()
    top = int(array.max()) if num_categories is None else num_categories - 1
    if token_names is not None:
        return _text(array, token_names, ax)
    if shape is not None:
        return _images(array, shape, max(top, 1), ax)
    names = checked_names(variable_names, values.shape[1], "variable names", "X")
    size = (
        float(np.clip(0.25 * len(names) + 1.8, 3.5, 12.0)),
        float(np.clip(0.2 * len(array) + 1.0, 2.2, 8.0)),
    )
    axes = category_map(array, max(top, 1) + 1, size, ax)
    label_axis(axes.xaxis, names, "variable", size[0] - 1.8)
    label_axis(axes.yaxis, [str(i) for i in range(len(array))], "sample", size[1] - 1.0)
    return axes


def _images(array: np.ndarray, shape: tuple[int, int], top: int, ax: Axes | None) -> Axes:
    """All images in one, as square as can be, with a line of NaN between them."""
    height, width = shape
    if height * width != array.shape[1]:
        raise StructureError(
            f"images of {height} × {width} have {height * width} pixels; the samples have "
            f"{array.shape[1]}"
        )
    columns = math.ceil(math.sqrt(len(array) * height / width))
    rows = math.ceil(len(array) / columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, image in enumerate(array):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        canvas[y : y + height, x : x + width] = image.reshape(shape)
    side = 6.0 / max(canvas.shape)
    axes = axes_or_new(ax, (side * canvas.shape[1] + 0.2, side * canvas.shape[0] + 0.2))
    axes.imshow(canvas, cmap=SEQUENTIAL, vmin=0, vmax=top, interpolation="nearest")
    axes.axis("off")
    return axes


def _text(array: np.ndarray, token_names: Sequence[str], ax: Axes | None) -> Axes:
    """One line a sample; long ones are cut."""
    if int(array.max()) >= len(token_names) or int(array.min()) < 0:
        raise StructureError(
            f"samples hold tokens {int(array.min())} .. {int(array.max())}; there are "
            f"{len(token_names)} token names"
        )
    lines = [letters("".join(token_names[i] for i in row)) for row in array]
    shown = [t if len(t) <= _MOST_LETTERS else t[: _MOST_LETTERS - 1] + "…" for t in lines]
    line = 1.6 * text_height("x")
    width = max(len(text) for text in shown) * _LETTER + 0.3
    axes = axes_or_new(ax, (width, line * len(shown) + 0.2))
    axes.set_xlim(0, 1)
    axes.set_ylim(len(shown), 0)
    axes.axis("off")
    for number, text in enumerate(shown):
        look: dict[str, Any] = {
            "family": "monospace",
            "fontsize": FONT_SIZE,
            "color": INK,
            "va": "center",
        }
        axes.text(0.0, number + 0.5, plain(text), **look)
    return axes
