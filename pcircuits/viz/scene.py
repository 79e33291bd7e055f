"""Where everything in a picture of a graph stands, in inches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pcircuits.viz.layered import Extent, layered_layout
from pcircuits.viz.style import FONT_SIZE, text_height, text_width

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in inches."""
RADIUS, SMALL = 0.15, FONT_SIZE - 1.5
_PAD, _GAP, _SAMPLES = 0.07, 0.22, 40
_ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.2, 0.8)


@dataclass(frozen=True)
class Symbol:
    """One vertex of a picture.

    Attributes:
        kind: "input", "product" or "sum": its colour, and its sign where it is a circle.
        caption: Inside a box, beside a circle; may be empty.
        boxed: Whether it is a box.
    """

    kind: str
    caption: str
    boxed: bool

    @property
    def half_size(self) -> tuple[float, float]:
        """Half the width and half the height of the symbol itself."""
        if not self.boxed:
            return RADIUS, RADIUS
        wide = text_width(self.caption, FONT_SIZE) / 2 + _PAD
        return max(RADIUS, wide), text_height(self.caption) / 2 + _PAD / 2

    @property
    def beside(self) -> str:
        """What stands beside it: a circle's caption."""
        return "" if self.boxed else self.caption


@dataclass(frozen=True)
class Scene:
    """A graph with a place for everything, the root on top or on the left.

    Attributes:
        symbols: N symbols.
        centres: (N, 2) centres of the symbols.
        lines: One array (points, 2) an edge.
        captions: One box a symbol; of no size where nothing stands beside it.
        horizontal: Whether the root is on the left.
    """

    symbols: tuple[Symbol, ...]
    centres: np.ndarray
    lines: tuple[np.ndarray, ...]
    captions: tuple[Box, ...]
    horizontal: bool

    @property
    def bounds(self) -> Box:
        """Around all symbols, captions and lines."""
        boxes = np.array([self.box(number) for number in range(len(self.symbols))])
        points = np.concatenate([*self.lines, self.centres])
        low = np.minimum(boxes[:, :2].min(0), points.min(0))
        high = np.maximum(boxes[:, 2:].max(0), points.max(0))
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def box(self, number: int) -> Box:
        """Around one symbol with its caption."""
        x, y = (float(place) for place in self.centres[number])
        wide, tall = self.symbols[number].half_size
        left, bottom, right, top = self.captions[number]
        return min(left, x - wide), min(bottom, y - tall), max(right, x + wide), max(top, y + tall)


def arrange(
    symbols: Sequence[Symbol], edges: Sequence[tuple[int, int]], *, may_turn: bool = True
) -> Scene:
    """Finds a place for everything: downwards, or to the right where depth is the longer side.

    Args:
        symbols: The vertices, each before those below it.
        edges: Pairs of an upper and a lower vertex.
        may_turn: Whether a deep graph may run to the right.
    """
    down = _arranged(symbols, edges, horizontal=False)
    left, bottom, right, top = down.bounds
    if not may_turn or top - bottom <= max(1.6 * (right - left), 5.0):
        return down
    return _arranged(symbols, edges, horizontal=True)


def free_point(
    line: np.ndarray, width: float, height: float, taken: Sequence[Box]
) -> tuple[float, float]:
    """The point along a line, from its middle outwards, where a label covers least.

    Args:
        line: (points, 2).
        width: Width of the label.
        height: Height of the label.
        taken: What should not be covered.
    """
    boxes = np.array(taken)
    best, least = (0.0, 0.0), np.inf
    for x, y in _points_along(line, _ALONG).tolist():
        wide = np.minimum(boxes[:, 2], x + width / 2) - np.maximum(boxes[:, 0], x - width / 2)
        high = np.minimum(boxes[:, 3], y + height / 2) - np.maximum(boxes[:, 1], y - height / 2)
        covered = float((wide.clip(0) * high.clip(0)).sum())
        if covered < least - 1e-9:
            best, least = (x, y), covered
    return best


def _arranged(
    symbols: Sequence[Symbol], edges: Sequence[tuple[int, int]], *, horizontal: bool
) -> Scene:
    rooms = [_room(symbol, horizontal) for symbol in symbols]
    if horizontal:  # places within a layer grow downwards
        extents = [Extent(top, -bottom) for _, bottom, _, top in rooms]
        deep = max(right - left for left, _, right, _ in rooms)
    else:
        extents = [Extent(-left, right) for left, _, right, _ in rooms]
        deep = max(top - bottom for _, bottom, _, top in rooms)
    layout = layered_layout(len(symbols), edges, extents, gap=_GAP)
    step = deep + (0.3 if horizontal or all(symbol.boxed for symbol in symbols) else 0.45)

    def point(depth: float, place: float) -> tuple[float, float]:
        return (step * depth, -place) if horizontal else (place, -step * depth)

    def through(bend: tuple[int, float]) -> list[tuple[float, float]]:
        # Straight along the whole layer, so that the line touches no symbol beside it.
        return [point(bend[0] + side * deep / 2 / step, bend[1]) for side in (-1, 1)]

    centres = np.array([point(d, p) for d, p in zip(layout.depths, layout.places, strict=True)])
    lines = tuple(
        _curve(np.array([centres[upper], *itertools.chain(*map(through, bends)), centres[lower]]))
        for (upper, lower), bends in zip(edges, layout.bends, strict=True)
    )
    captions = _captions(symbols, centres, lines, horizontal)
    return Scene(tuple(symbols), centres, lines, captions, horizontal)


def _room(symbol: Symbol, horizontal: bool) -> Box:
    """What a symbol at the origin and its caption may need; captions stand beside or below."""
    half_width, half_height = symbol.half_size
    wide, tall = text_width(symbol.beside, SMALL), text_height(symbol.beside, SMALL)
    if not symbol.beside:
        return -half_width, -half_height, half_width, half_height
    if horizontal:
        half = max(half_width, wide / 2)
        return -half, -half_height - tall - _PAD / 2, half, half_height
    half = max(half_height, tall / 2)
    return -half_width, -half, half_width + wide + _PAD, half


def _captions(
    symbols: Sequence[Symbol],
    centres: np.ndarray,
    lines: Sequence[np.ndarray],
    horizontal: bool,
) -> tuple[Box, ...]:
    """A place for every caption: below the symbol, or on its right where the fewest lines pass."""
    share = np.linspace(0, 1, _SAMPLES).tolist()
    points = np.concatenate([np.empty((0, 2)), *(_points_along(line, share) for line in lines)])
    found = []
    for symbol, centre in zip(symbols, centres, strict=True):
        x, y = (float(place) for place in centre)
        wide, tall = text_width(symbol.beside, SMALL), text_height(symbol.beside, SMALL)
        if not symbol.beside:
            places = [(x, y, x, y)]
        elif horizontal:
            top = y - RADIUS - _PAD / 2
            places = [(x - wide / 2, top - tall, x + wide / 2, top)]
        else:
            left = x + RADIUS + _PAD / 2
            places = [
                (left, y + shift - tall / 2, left + wide, y + shift + tall / 2)
                for shift in (0.0, -tall / 2 - 0.03, tall / 2 + 0.03)
            ]
        found.append(min(places, key=lambda place: _inside(points, place)))
    return tuple(found)


def _inside(points: np.ndarray, box: Box) -> int:
    low, high = np.array(box[:2]), np.array(box[2:])
    return int(((points > low) & (points < high)).all(1).sum())


def _points_along(line: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """(shares, 2) points at the given parts of a line's length."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.array(shares) * along[-1]
    return np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)


def _curve(points: np.ndarray) -> np.ndarray:
    """A quadratic B-spline through the ends, with the bends as its control points."""
    if len(points) == 2:
        return points
    middles = (points[1:-2] + points[2:-1]) / 2
    starts = np.concatenate([points[:1], middles])
    ends = np.concatenate([middles, points[-1:]])
    t = np.linspace(0, 1, 9)[None, :, None]
    pieces = (
        (1 - t) ** 2 * starts[:, None] + 2 * t * (1 - t) * points[1:-1, None] + t**2 * ends[:, None]
    )
    return np.asarray(pieces.reshape(-1, 2))
