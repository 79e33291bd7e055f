"""Colours, axes and text measures of all pictures: one look, safe for colour-blind readers."""

from __future__ import annotations

from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

INK, GREY, PALE, WHITE = "#222222", "#707070", "#F0F0F0", "#FFFFFF"
# Okabe and Ito (2008), without their yellow, which is too light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL = "cividis"
FONT_SIZE = 9.0
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


def without_frame(axes: Axes) -> None:
    """Takes away the sides of the frame that carry no scale."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
