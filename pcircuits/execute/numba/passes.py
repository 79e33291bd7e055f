"""Passes over all tiles of a batch: each tile in the quickest arithmetic that holds its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pcircuits.execute.numba import kernels, logarithms
from pcircuits.execute.numba.graph import Graph
from pcircuits.execute.numba.kernels import Numbers, Structure, Tile
from pcircuits.execute.numba.numbers import table_numbers, weight_numbers
from pcircuits.execute.numba.threads import in_threads, num_threads

Array = np.ndarray

# Levels of a tile: plain numbers in single or double precision, or logarithms.
_SINGLE, _DOUBLE, _LOGARITHMS = 0, 1, 2

# Widest tile: the indices of a node are read once for so many examples.
_WIDEST = 128
# Bytes that one thread's rows may take; tiles are narrower where the circuit is larger.
_TILE_BYTES = 1 << 28
# Numbers of a vector register: widths are multiples of it.
_LANES = 16


@dataclass(frozen=True, eq=False)
class Problem:
    """One evaluation, in numpy arrays.

    Attributes:
        graph: The nodes.
        logs: (W,) log-weights.
        batch_size: Examples B.
        leaves: (I, B) log-values of the inputs; None where `values` are given.
        tables: Log-entries of all inputs' tables, beside `values`.
        values: (L, B) categories of the variables, all of which are observed, or None.
    """

    graph: Graph
    logs: Array
    batch_size: int
    leaves: Array | None = None
    tables: Array | None = None
    values: Array | None = None

    @property
    def dtype(self) -> Any:
        """Floating-point type of weights and results."""
        return self.logs.dtype

    @property
    def structure(self) -> Structure:
        """The graph as kernels take it."""
        return Structure(self.graph.starts, self.graph.children, self.graph.places)


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What the upward pass found.

    Attributes:
        roots: (B,) log-values of the root.
        spans: First example and end of each tile.
        levels: Level that each tile was evaluated at.
    """

    roots: Array
    spans: list[tuple[int, int]]
    levels: Array


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a problem's parts, or sums of them.

    Attributes:
        logs: (W,).
        tables: As `Problem.tables`, or None.
        leaves: (I, B), or None.
    """

    logs: Array
    tables: Array | None
    leaves: Array | None


def root_values(problem: Problem) -> Evaluated:
    """Evaluates all tiles, each at the first level that can hold its values."""
    spans = _spans(problem)
    roots = np.empty(problem.batch_size, problem.dtype)
    levels = np.empty(len(spans), np.int64)
    scaled = _scaled_once(problem)

    def run(tiles: range) -> None:
        worker = Worker(problem, scaled, spans)
        for tile in tiles:
            levels[tile] = worker.up(tile)
            roots[spans[tile][0] : spans[tile][1]] = worker.root_values()

    in_threads(run, len(spans))
    return Evaluated(roots, spans, levels)


def gradients(problem: Problem, evaluated: Evaluated, gradient: Array) -> Gradients:
    """Gradients of the sum of `gradient` (B,) times the root's log-values.

    Values are computed anew, tile by tile: to keep those of all tiles takes more memory, and
    as much time to write and read.
    """
    # Flows of at most 1 cannot leave the range of their type.
    size = np.abs(gradient).max(initial=0.0)
    factor = size if 0 < size < np.inf else 1.0
    unit = np.where(evaluated.roots == -np.inf, 0.0, gradient / factor)
    scaled = _scaled_once(problem)
    leaves = None if problem.leaves is None else np.empty_like(problem.leaves)
    parts: list[Gradients] = []

    def run(tiles: range) -> None:
        worker = Worker(problem, scaled, evaluated.spans)
        tables = None if problem.tables is None else np.zeros(len(problem.tables))
        own = Gradients(np.zeros(len(problem.logs)), tables, leaves)
        parts.append(own)
        for tile in tiles:
            worker.up(tile, int(evaluated.levels[tile]))
            worker.down(unit, own)

    in_threads(run, len(evaluated.spans))
    if leaves is not None:
        leaves *= factor
    return Gradients(
        _total([part.logs for part in parts], factor, problem.dtype),
        _total([p.tables for p in parts if p.tables is not None], factor, problem.dtype)
        if problem.tables is not None
        else None,
        leaves,
    )


def tiles_of(
    problem: Problem,
) -> Iterator[tuple[int, int, Tile | None, Numbers | None, Array | None]]:
    """Evaluates tiles one after the other.

    Yields:
        First example and end; then the values of all nodes and the weights as plain numbers, or,
        where these cannot hold them, None twice and (N, last - first) log-values.
    """
    spans = _spans(problem)
    worker = Worker(problem, _scaled_once(problem), spans)
    for place, (first, last) in enumerate(spans):
        worker.up(place)
        yield first, last, *worker.values()


class Worker:
    """One thread's memory and its passes, a tile at a time.

    Args:
        problem: What is evaluated.
        scaled: Level -> its weights and tables as plain numbers.
        spans: First example and end of each tile.
    """

    def __init__(
        self,
        problem: Problem,
        scaled: Callable[[int], _Scaled],
        spans: list[tuple[int, int]],
    ) -> None:
        self._problem = problem
        self._scaled = scaled
        self._spans = spans
        self._width = max(last - first for first, last in spans)
        self._tiles: dict[int, Tile] = {}
        self._flows: dict[int, Array] = {}
        self._log_values = np.empty((0, 0, 0))
        self._place = 0
        self._level = _SINGLE if problem.dtype == np.float32 else _DOUBLE

    def up(self, place: int, level: int | None = None) -> int:
        """Evaluates all nodes in the tile at `place`; the level that could hold the values.

        Where it is not said, levels are tried from that of the tile before: tiles are alike.
        """
        self._place = place
        self._level = self._level if level is None else level
        while not self._up():
            self._level += 1
        return self._level

    def values(self) -> tuple[Tile | None, Numbers | None, Array | None]:
        """Values and weights as plain numbers, or else (N, B of the tile) log-values."""
        first, last = self._spans[self._place]
        if self._level == _LOGARITHMS:
            logs = np.moveaxis(self._log_values, 0, 1)
            return None, None, logs.reshape(logs.shape[0], -1)[:, : last - first]
        return self._tiles[self._level], self._scaled(self._level).weights, None

    def root_values(self) -> Array:
        """Log-values of the root in the tile."""
        first, last = self._spans[self._place]
        if self._level == _LOGARITHMS:
            roots: Array = self._log_values[:, -1].reshape(-1)[: last - first]
            return roots
        own = self._tiles[self._level]
        with np.errstate(divide="ignore"):
            logs: Array = np.log(own.rows[-1, : last - first].astype(np.float64))
        logs += own.scales[-1, 0] * math.log(2.0)
        return logs

    def down(self, gradient: Array, totals: Gradients) -> None:
        """Adds the tile's part to totals; `gradient` (B,) is that of the root, at most 1."""
        first, last = self._spans[self._place]
        if self._level == _LOGARITHMS:
            self._down_logarithms(gradient[first:last], totals)
            return
        tile, weights = self._tiles[self._level], self._scaled(self._level).weights
        if self._level not in self._flows:
            self._flows[self._level] = np.zeros_like(tile.rows)
        flow = self._flows[self._level]
        flow[-1, : last - first] = gradient[first:last]
        kernels.downward(self._problem.structure, weights, tile, flow, totals.logs)
        inputs, own = flow[: self._problem.graph.num_inputs], self._problem.graph.tables
        if totals.tables is None:
            assert totals.leaves is not None
            totals.leaves[:, first:last] = inputs[:, : last - first]
        else:
            values = self._values()
            kernels.give_to_tables(
                flow, own.starts, own.sizes, own.variables, values, totals.tables
            )
        inputs[:] = 0.0

    def _up(self) -> bool:
        problem, own = self._problem, self._problem.graph.tables
        if self._level == _LOGARITHMS:
            inputs = self._columns()
            self._log_values = logarithms.upward(inputs, *problem.structure, problem.logs)
            if not ((inputs < np.inf).all() and (problem.logs < np.inf).all()):
                self._log_values[:, -1] = np.nan  # compiled maxima pass NaN over
            return True
        scaled = self._scaled(self._level)
        if scaled.weights is None:
            return False
        tile = self._tile()
        if problem.leaves is not None:
            filled = kernels.lay_out(problem.leaves, *self._spans[self._place], tile)
        elif scaled.table is None:
            return False
        else:
            indices = own.starts, own.rows, own.variables
            filled = kernels.look_up(scaled.table, *indices, self._values(), tile)
        return bool(filled and kernels.upward(problem.structure, scaled.weights, tile))

    def _down_logarithms(self, gradient: Array, totals: Gradients) -> None:
        problem, own = self._problem, self._problem.graph.tables
        first, last = self._spans[self._place]
        inputs = logarithms.downward(
            gradient, *problem.structure, problem.logs, self._log_values, totals.logs
        )[:, : last - first]
        if totals.tables is None:
            assert totals.leaves is not None
            totals.leaves[:, first:last] = inputs
        else:
            values = self._values()[:, : last - first]
            np.add.at(totals.tables, own.starts[:, None] + values[own.variables], inputs)

    def _columns(self) -> Array:
        """Log-values of the inputs in the tile, (I, B of the tile)."""
        first, last = self._spans[self._place]
        problem, own = self._problem, self._problem.graph.tables
        if problem.leaves is not None:
            return np.ascontiguousarray(problem.leaves[:, first:last])
        assert problem.tables is not None
        at = own.starts[:, None] + self._values()[own.variables, : last - first]
        found: Array = problem.tables[at]
        return found

    def _values(self) -> Array:
        """(L, WIDTH) categories in the tile; columns beyond its end repeat the last example."""
        assert self._problem.values is not None
        first, last = self._spans[self._place]
        at = np.minimum(np.arange(first, first + self._width), last - 1)
        found: Array = self._problem.values[:, at]
        return found

    def _tile(self) -> Tile:
        if self._level not in self._tiles:
            dtype = np.float32 if self._level == _SINGLE else np.float64
            nodes = self._problem.graph.num_nodes
            self._tiles[self._level] = _new_tile(nodes, self._width, dtype)
        return self._tiles[self._level]


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Weights and tables as plain numbers of one type; None where they are too far from 1."""

    weights: Numbers | None
    table: Numbers | None


def _scaled_once(problem: Problem) -> Callable[[int], _Scaled]:
    @cache
    def scaled(level: int) -> _Scaled:
        dtype = np.float32 if level == _SINGLE else np.float64
        table = None
        if problem.tables is not None:
            table = table_numbers(problem.tables, problem.graph.tables.row_starts, dtype)
        return _Scaled(weight_numbers(problem.logs, dtype), table)

    return scaled


def _spans(problem: Problem) -> list[tuple[int, int]]:
    """Tiles of one width, as many as there are threads or a multiple."""
    batch = problem.batch_size
    row_bytes = problem.graph.num_nodes * problem.dtype.itemsize
    widest = max(_LANES, min(_WIDEST, _TILE_BYTES // row_bytes // _LANES * _LANES))
    threads = num_threads(-(-batch // _LANES))
    tiles = -(-batch // (widest * threads)) * threads
    width = -(-batch // tiles)
    if width > _LANES:
        width = -(-width // _LANES) * _LANES
    return [(first, min(first + width, batch)) for first in range(0, batch, width)]


def _total(parts: list[Array], factor: float, dtype: Any) -> Array:
    total: Array = np.sum(parts, axis=0)
    return (total * factor).astype(dtype)


def _new_tile(num_nodes: int, width: int, dtype: Any) -> Tile:
    rows = np.empty((num_nodes, width), dtype)
    bits = rows.view(np.uint32 if rows.itemsize == 4 else np.uint64)
    return Tile(rows, bits, np.empty((num_nodes, 2), np.int64))
