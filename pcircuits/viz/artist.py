"""Draws a scene: symbols by kind, lines, and labels that keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Circle, FancyBboxPatch, Patch

from pcircuits.viz.scene import RADIUS, SMALL, Box, Scene, Symbol, free_point
from pcircuits.viz.style import (
    BLUE,
    FONT_SIZE,
    GREY,
    INK,
    ORANGE,
    PALE,
    WHITE,
    filled_axes,
    plain,
    text_height,
    text_width,
)

_FILLS = {"sum": "#CFE5F3", "product": "#FBE9C6", "input": PALE}
_EDGES = {"sum": BLUE, "product": ORANGE, "input": GREY}
_SIGNS = {"sum": "+", "product": "×"}
_MARGIN, _LARGEST = 0.1, (18.0, 16.0)
_CENTRED: dict[str, Any] = {
    "ha": "center",
    "va": "center_baseline",
    "linespacing": 1.15,
    "clip_on": False,
}


@dataclass(frozen=True)
class EdgeStyle:
    """How one edge looks.

    Attributes:
        width: Line width in points.
        colour: Its colour.
        label: Its text; may be empty.
    """

    width: float = 0.9
    colour: str = GREY
    label: str = ""


@dataclass(frozen=True)
class Frame:
    """A dashed frame.

    Attributes:
        symbols: Numbers of the symbols inside.
        text: What stands on its right.
    """

    symbols: tuple[int, ...]
    text: str


def paint(
    scene: Scene,
    styles: Sequence[EdgeStyle],
    *,
    frames: Sequence[Frame] = (),
    title: str,
    ax: Axes | None,
) -> Axes:
    """Draws a scene; text shrinks with it where the axes are smaller than it is.

    Args:
        scene: What is drawn.
        styles: One an edge.
        frames: Dashed frames around symbols.
        title: Title of the axes; may be empty.
        ax: Where to draw; default a new figure of the scene's size.
    """
    boxes = [scene.bounds, *(_frame_box(scene, frame) for frame in frames)]
    left, bottom = (min(box[side] for box in boxes) - _MARGIN for side in (0, 1))
    right, top = (max(box[side] for box in boxes) + _MARGIN for side in (2, 3))
    width, height = right - left, top - bottom
    shrink = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
    axes, room = filled_axes(ax, (width * shrink, height * shrink), title)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.axis("off")
    scale = min(1.0, room[0] / width, room[1] / height)
    _paint_lines(axes, scene, styles, scale)
    for number in range(len(scene.symbols)):
        _paint_symbol(axes, scene.symbols[number], scene.centres[number], scale)
        _paint_caption(axes, scene, number, scale)
    _paint_labels(axes, scene, styles, scale)
    for frame in frames:
        _paint_frame(axes, scene, frame, scale)
    return axes


def _paint_lines(axes: Axes, scene: Scene, styles: Sequence[EdgeStyle], scale: float) -> None:
    lines = LineCollection(
        [line.tolist() for line in scene.lines],
        linewidths=[style.width * scale for style in styles],
        colors=[style.colour for style in styles],
        capstyle="round",
        zorder=1,
    )
    lines.set_gid("edges")
    axes.add_collection(lines, autolim=False)


def _paint_symbol(axes: Axes, symbol: Symbol, centre: np.ndarray, scale: float) -> None:
    half_width, half_height = symbol.half_size
    x, y = float(centre[0]), float(centre[1])
    shape: Patch
    if symbol.boxed:
        corner = (x - half_width, y - half_height)
        shape = FancyBboxPatch(
            corner, 2 * half_width, 2 * half_height, boxstyle="round,pad=0,rounding_size=0.06"
        )
    else:
        shape = Circle((x, y), RADIUS)
    shape.set(facecolor=_FILLS[symbol.kind], edgecolor=_EDGES[symbol.kind], linewidth=1.2 * scale)
    shape.set(zorder=2, gid=symbol.kind)
    axes.add_patch(shape)
    inside = symbol.caption if symbol.boxed else _SIGNS[symbol.kind]
    size = (FONT_SIZE if symbol.boxed else 1.5 * FONT_SIZE) * scale
    axes.text(x, y, plain(inside), size=size, color=INK, zorder=3, **_CENTRED)


def _paint_caption(axes: Axes, scene: Scene, number: int, scale: float) -> None:
    caption = scene.symbols[number].beside
    if not caption:
        return
    left, bottom, right, top = scene.captions[number]
    # Centred below a symbol; beside it the text begins at the box's left side.
    x, side = ((left + right) / 2, "center") if scene.horizontal else (left, "left")
    look = {**_CENTRED, "ha": side, "size": SMALL * scale, "color": GREY}
    text = axes.text(x, (bottom + top) / 2, plain(caption), **look)
    text.set_bbox({"facecolor": WHITE, "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
    text.set(zorder=2.5, gid="caption")


def _paint_labels(axes: Axes, scene: Scene, styles: Sequence[EdgeStyle], scale: float) -> None:
    taken = [scene.box(number) for number in range(len(scene.symbols))]
    for line, style in zip(scene.lines, styles, strict=True):
        if not style.label:
            continue
        width = text_width(style.label, SMALL) + 0.08
        height = 0.9 * text_height(style.label, SMALL)
        x, y = free_point(line, width, height, taken)
        taken.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        text = axes.text(x, y, style.label, size=SMALL * scale, color=INK, **_CENTRED)
        text.set_bbox({"facecolor": WHITE, "edgecolor": "none", "pad": 0.6, "alpha": 0.85})
        text.set(zorder=3, gid="edge label")


def _frame_box(scene: Scene, frame: Frame) -> Box:
    """Room for a frame and the text on its right."""
    boxes = np.array([scene.box(number) for number in frame.symbols])
    left, bottom = boxes[:, :2].min(0) - _MARGIN
    right, top = boxes[:, 2:].max(0) + _MARGIN
    return left, bottom, right + _MARGIN + text_width(frame.text), top


def _paint_frame(axes: Axes, scene: Scene, frame: Frame, scale: float) -> None:
    left, bottom, end, top = _frame_box(scene, frame)
    right = end - _MARGIN - text_width(frame.text)
    shape = FancyBboxPatch(
        (left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.08"
    )
    shape.set(facecolor="none", edgecolor=INK, linestyle=(0, (4, 3)), linewidth=scale)
    shape.set_gid("frame")
    axes.add_patch(shape)
    look = {**_CENTRED, "ha": "right"}
    axes.text(end, (bottom + top) / 2, frame.text, size=FONT_SIZE * scale, color=INK, **look)
