"""Layered layout of a directed acyclic graph (Sugiyama, Tagawa and Toda, IEEE SMC 1981).

Vertices stand in layers by depth; long edges bend through a place of their own in every layer they
cross; layers are ordered to have few crossings; places are then moved towards their neighbours as
far as the widths allow. The result is a function of the input alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SWEEPS = 12
_BEND_WIDTH = 0.12


@dataclass(frozen=True)
class Extent:
    """Room a vertex needs on both sides of its centre, across the direction of the edges."""

    before: float
    after: float


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        depths: Layer of every vertex; the first is 0.
        places: Place of every vertex within its layer, in the unit of the extents.
        bends: For every edge the (depth, place) of each layer it passes through.
    """

    depths: tuple[int, ...]
    places: tuple[float, ...]
    bends: tuple[tuple[tuple[int, float], ...], ...]


def layered_layout(
    num_vertices: int,
    edges: Sequence[tuple[int, int]],
    extents: Sequence[Extent],
    *,
    gap: float,
) -> Layout:
    """Places the vertices of an acyclic graph.

    Args:
        num_vertices: Number of vertices N; each edge runs from a smaller to a larger number.
        edges: (parent, child) pairs.
        extents: Room that each vertex needs.
        gap: Least room between neighbours.
    """
    depths = _depths(num_vertices, edges)
    chains, all_depths = _with_bends(edges, depths)
    room = [*extents, *[Extent(_BEND_WIDTH, _BEND_WIDTH)] * (len(all_depths) - num_vertices)]
    links = [pair for chain in chains for pair in itertools.pairwise(chain)]
    above, below = _neighbours(len(all_depths), links)
    layers = _ordered(_first_order(all_depths, links), above, below)
    sizes = _sizes(layers, below)
    pulls = [
        [*((n, 1.0) for n in above[v]), *((n, sizes[n]) for n in below[v])]
        for v in range(len(room))
    ]
    places = _places(layers, pulls, room, gap)
    bends = tuple(tuple((all_depths[v], places[v]) for v in chain[1:-1]) for chain in chains)
    return Layout(tuple(depths), tuple(places[:num_vertices]), bends)


def _depths(num_vertices: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Edges on the longest path from a vertex without parents."""
    depths = [0] * num_vertices
    for parent, child in sorted(edges):
        depths[child] = max(depths[child], depths[parent] + 1)
    return depths


def _with_bends(
    edges: Sequence[tuple[int, int]], depths: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """Every edge as a chain of vertices one layer apart, and the depths of old and new ones."""
    found, all_depths = [], list(depths)
    for parent, child in edges:
        passed = range(depths[parent] + 1, depths[child])
        bends = list(range(len(all_depths), len(all_depths) + len(passed)))
        all_depths.extend(passed)
        found.append([parent, *bends, child])
    return found, all_depths


def _neighbours(
    count: int, links: Sequence[tuple[int, int]]
) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    return above, below


def _first_order(depths: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Layers in which children stand in the order of their first parents, then of the edges."""
    layers: list[list[int]] = [[] for _ in range(max(depths) + 1)]
    for vertex, depth in enumerate(depths):
        layers[depth].append(vertex)
    rank = {vertex: place for place, vertex in enumerate(layers[0])}
    incoming: dict[int, list[tuple[int, int]]] = {}
    for number, (upper, lower) in enumerate(links):
        incoming.setdefault(lower, []).append((upper, number))
    for layer in layers[1:]:
        first = {v: min((rank[upper], number) for upper, number in incoming[v]) for v in layer}
        layer.sort(key=first.__getitem__)
        rank.update({vertex: place for place, vertex in enumerate(layer)})
    return layers


def _sizes(layers: list[list[int]], below: list[list[int]]) -> list[float]:
    """How much hangs below each vertex, itself included: edges to much are drawn straighter."""
    sizes = [1.0] * len(below)
    for layer in reversed(layers):
        for vertex in layer:
            # What several parents share would else count for more and more towards the root.
            sizes[vertex] = min(1.0 + sum(sizes[child] for child in below[vertex]), len(below))
    return sizes


def _ordered(
    layers: list[list[int]], above: list[list[int]], below: list[list[int]]
) -> list[list[int]]:
    """Sorts layers by the mean place of their neighbours, down and up; the best order found."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, below)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        near = above if down else below
        fixed = layers[0] if down else layers[-1]
        rank = {vertex: float(place) for place, vertex in enumerate(fixed)}
        for layer in layers[1:] if down else layers[-2::-1]:
            own = {vertex: float(place) for place, vertex in enumerate(layer)}
            mean = {v: _mean([rank[n] for n in near[v]], own[v]) for v in layer}
            layer.sort(key=lambda v, mean=mean, own=own: (mean[v], own[v]))  # type: ignore[misc]
            rank.update({vertex: float(place) for place, vertex in enumerate(layer)})
        count = _crossings(layers, below)
        if count < fewest:
            best, fewest = [list(layer) for layer in layers], count
    return best


def _mean(numbers: Sequence[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default


def _crossings(layers: list[list[int]], below: list[list[int]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(layers):
        rank = {vertex: place for place, vertex in enumerate(lower)}
        ends = np.array([r for v in upper for r in sorted(rank[c] for c in below[v])], dtype=int)
        # Links are listed by their upper end, so two of them cross where lower ends are inverted.
        total += int(np.triu(ends[:, None] > ends[None, :], 1).sum())
    return total


def _places(
    layers: list[list[int]],
    pulls: list[list[tuple[int, float]]],
    room: Sequence[Extent],
    gap: float,
) -> list[float]:
    """Moves vertices, layer by layer, to the weighted mean of their neighbours."""
    places = [0.0] * len(room)
    for layer in layers:
        offsets = _offsets(layer, room, gap)
        for vertex, offset in zip(layer, offsets - offsets.mean(), strict=True):
            places[vertex] = float(offset)
    for sweep in range(2 * _SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            weights = np.array([sum(weight for _, weight in pulls[v]) for v in layer])
            moments = np.array([sum(places[n] * w for n, w in pulls[v]) for v in layer])
            wanted = moments / np.maximum(weights, 1.0)
            moved = _separated(wanted, weights, _offsets(layer, room, gap))
            for vertex, place in zip(layer, moved, strict=True):
                places[vertex] = float(place)
    return places


def _offsets(layer: Sequence[int], room: Sequence[Extent], gap: float) -> np.ndarray:
    """Places of a layer packed as tightly as the widths allow."""
    steps = [room[a].after + gap + room[b].before for a, b in itertools.pairwise(layer)]
    return np.concatenate([[0.0], np.cumsum(steps)])


def _separated(wanted: np.ndarray, weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The places nearest to the wanted ones (least squares) that keep order and distances.

    Less the offsets this is isotonic regression, solved by pooling adjacent violators.
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(wanted - offsets, np.maximum(weights, 1.0), strict=True):
        blocks.append((float(value), float(weight), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, v, m), (b, w, n) = blocks[-2:]
            blocks[-2:] = [((a * v + b * w) / (v + w), v + w, m + n)]
    level = np.repeat([value for value, _, _ in blocks], [count for _, _, count in blocks])
    return np.asarray(level + offsets)
