"""What can be seen to be wrong in a picture by its boxes alone."""

from __future__ import annotations

import itertools

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def overlapping_texts(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other once drawn: labels, ticks, titles and legends."""
    boxes = [(t.get_text(), t.get_window_extent().shrunk(0.9, 0.8)) for t in _texts(figure)]
    return [(a, b) for (a, x), (b, y) in itertools.combinations(boxes, 2) if x.overlaps(y)]


def texts_outside(figure: Figure) -> list[str]:
    """Texts that are cut off by the figure's side."""
    shown = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
    whole = figure.bbox
    return [
        text
        for text, box in shown
        if box.x0 < whole.x0 - 1
        or box.y0 < whole.y0 - 1
        or box.x1 > whole.x1 + 1
        or box.y1 > whole.y1 + 1
    ]


def _texts(figure: Figure) -> list[Text]:
    figure.canvas.draw()
    found = [text for axes in figure.axes for text in _axes_texts(axes)]
    return [text for text in found if text.get_text() and text.get_visible()]


def _axes_texts(axes: Axes) -> list[Text]:
    found: list[Text] = [*axes.texts, axes.title]
    if axes.axison:
        found += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            for tick in ticks:
                if low <= tick.get_loc() <= high:
                    found += [t for t in (tick.label1, tick.label2) if t.get_visible()]
    legend = axes.get_legend()
    if legend is not None:
        found += [*legend.get_texts(), legend.get_title()]
    return found
