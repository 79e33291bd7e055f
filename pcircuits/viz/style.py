"""Colours, axes and text measures of all pictures: one look, safe for colour-blind readers.

Examples:
    A picture of your own in the look of all others:

    >>> ax = pc.viz.style.axes_or_new(None, (4, 3))
    >>> for place, name in enumerate(["first", "second"]):
    ...     pc.viz.style.curve(ax, place, [0, 1, 2], [place, 1, 2], label=name)
    >>> pc.viz.style.entitle(ax, "two lines")
    >>> pc.viz.style.legend_beside(ax)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['first', 'second']
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.textpath import TextPath

INK, GREY, PALE, WHITE = "#222222", "#707070", "#F0F0F0", "#FFFFFF"
# Okabe and Ito (2008), without their yellow, which is too light for a line on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
# The first three differ in grey as well; markers and dashes tell all of them apart.
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
SEQUENTIAL = "cividis"
FONT_SIZE = 9.0
Numbers = Sequence[float] | np.ndarray
_POINTS_PER_INCH = 72.0
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
# Beyond these the default font may lack a letter.
_LAST_LETTER = 0x24F


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure.

    Args:
        ax: Where to draw, or None.
        size: Width and height of a new figure in inches.
    """
    if ax is not None:
        return ax
    from matplotlib import pyplot  # chooses a window system: only when a window is asked for

    _, new = pyplot.subplots(figsize=size, layout="constrained")
    assert isinstance(new, Axes)
    return new


def filled_axes(
    ax: Axes | None, size: tuple[float, float], title: str
) -> tuple[Axes, tuple[float, float]]:
    """The given axes, or new ones that fill a figure; with their width and height in inches.

    Args:
        ax: Where to draw, or None.
        size: Width and height of new axes in inches.
        title: Title; may be empty.
    """
    if ax is not None:
        ax.set_title(title, fontsize=FONT_SIZE + 1)
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # places the axes
        box = ax.get_window_extent()
        dots = ax.get_figure(root=True).dpi  # type: ignore[union-attr]
        return ax, (box.width / dots, box.height / dots)
    from matplotlib import pyplot

    width, height = size
    head = 0.3 if title else 0.0
    # No narrower than the title, and nothing around the axes: one unit is one inch.
    wide = max(width, text_width(title, FONT_SIZE + 1) + 0.2)
    figure = pyplot.figure(figsize=(wide, height + head))
    share = (wide - width) / 2 / wide
    new = figure.add_axes((share, 0.0, width / wide, height / (height + head)))
    new.set_title(title, fontsize=FONT_SIZE + 1)
    return new, size


@lru_cache(maxsize=4096)
def text_width(text: str, points: float = FONT_SIZE) -> float:
    """Width in inches of the longest line of a text."""
    lines = [line for line in text.splitlines() if line.strip()]
    widths = [float(TextPath((0, 0), line, size=points).get_extents().width) for line in lines]
    return max(widths, default=0.0) / _POINTS_PER_INCH


def text_height(text: str, points: float = FONT_SIZE) -> float:
    """Height in inches of a text of one or more lines."""
    return 1.2 * points * (text.count("\n") + 1) / _POINTS_PER_INCH if text else 0.0


def number(value: float) -> str:
    """A number in about two digits, short enough for a label."""
    if value == 0 or 0.01 <= abs(value) < 10:
        return f"{value:.2f}"
    if 10 <= abs(value) < 10_000:
        return f"{value:.0f}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def plain(text: str) -> str:
    """A text as it is, not as formulas, without signs that cannot be printed."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text).replace("$", r"\$")


def letters(symbol: str) -> str:
    """A token's text with its spaces visible and nothing that a common font lacks."""
    known = "".join(_SIGNS.get(c, c) for c in symbol)
    return "".join(c if ord(c) <= _LAST_LETTER or c in _SIGNS.values() else "·" for c in known)


def curve(
    axes: Axes,
    place: int,
    x: Numbers,
    y: Numbers,
    *,
    label: str = "",
    errors: Numbers | None = None,
    **look: Any,
) -> None:
    """Draws one of several lines; colour and marker tell it from the others.

    Args:
        axes: Where to draw.
        place: Which of the lines it is, from 0.
        x: Its places.
        y: Its heights.
        label: Its name in the legend; may be empty.
        errors: Half the length of a bar at each point, or (2, N) below and above; or None.
        **look: `color`, `marker`, `linestyle` and the like, in place of its own.
    """
    own: dict[str, Any] = {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.5,
        "label": plain(label),
        **look,
    }
    if errors is None:
        axes.plot(x, y, **own)
    else:
        axes.errorbar(x, y, yerr=errors, capsize=2, **own)


def legend_beside(axes: Axes, title: str = "") -> None:
    """A legend on the right of the axes, where it covers no data; none without a label."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    axes.legend(
        handles,
        labels,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        handlelength=2.6,
        fontsize=FONT_SIZE - 1,
        title=title or None,
        title_fontsize=FONT_SIZE - 1,
    )


def entitle(axes: Axes, title: str) -> None:
    """Gives axes a title in the size of all pictures; texts of data are drawn as they are."""
    axes.set_title(plain(title), fontsize=FONT_SIZE + 1)


def ink_on(colour: Any) -> str:
    """The colour of text that can be read on another: dark on light ones, white on dark ones."""
    red, green, blue = to_rgb(colour)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else WHITE


def without_frame(axes: Axes) -> None:
    """Takes away the sides of the frame that carry no scale."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
