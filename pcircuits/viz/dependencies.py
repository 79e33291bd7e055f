"""Mutual information between the variables: a heat map, and a graph of the strongest pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import networkx
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.execute.evidence import Evidence
from pcircuits.module import CircuitModel
from pcircuits.viz.heat import heat_map, label_axis
from pcircuits.viz.style import (
    BLUE,
    FONT_SIZE,
    GREY,
    INK,
    PALE,
    SKY,
    axes_or_new,
    entitle,
    plain,
    text_width,
)
from pcircuits.viz.subject import checked_names, chosen_row, one_row

_THINNEST, _THICKEST = 0.4, 6.0


def dependencies(
    model: CircuitModel,
    evidence: Evidence | None = None,
    *,
    row: int = 0,
    variable_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the mutual information of all pairs of variables as a heat map.

    The diagonal, which would hold entropies, and observed variables are left pale.

    Args:
        model: The model.
        evidence: Evidence of any kind; default none.
        row: Which example of the evidence.
        variable_names: L names; default X0, X1, ...
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If there are too few or many names.
        EvidenceError: If the evidence does not fit or is impossible, or has no such row.

    Examples:
        >>> hmm = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
        >>> ax = pc.viz.dependencies(hmm, variable_names=["a", "b", "c", "d"])
        >>> ax.get_title()
        'which variables depend on which'
    """
    information, observed = _information(model, evidence, row)
    return information_map(information, observed=observed, variable_names=variable_names, ax=ax)


def information_map(
    information: Tensor,
    *,
    observed: Tensor | None = None,
    variable_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a matrix of mutual information that is known already as a heat map.

    Args:
        information: (L, L) nats; the diagonal is left out.
        observed: (L,) bool, variables that are left out and named in grey; default none.
        variable_names: L names; default X0, X1, ...
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If it is not a square matrix, or there are too few or many names.

    Examples:
        >>> information = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> ax = pc.viz.information_map(information, variable_names=["x", "y"])
        >>> ax.get_title()
        'which variables depend on which'
    """
    known = _checked_observed(information, observed)
    names = checked_names(variable_names, len(information), "variable names", "X")
    side = float(np.clip(0.3 * len(names) + 1.4, 3.2, 9.0))
    axes = heat_map(
        _hidden(information, known).numpy(),
        "mutual information (nats)",
        (side + 0.9, side),
        limits=(0.0, None),
        ax=ax,
    )
    axes.set_aspect("equal")
    given = known.tolist()
    for axis in (axes.xaxis, axes.yaxis):
        label_axis(axis, names, "variable", side - 1.0)
        for text in axis.get_ticklabels():
            place = text.get_position()[axis is axes.yaxis]
            text.set_color(GREY if given[round(place)] else INK)
    entitle(axes, "which variables depend on which")
    return axes


def dependency_graph(
    model: CircuitModel,
    evidence: Evidence | None = None,
    *,
    num_edges: int | None = None,
    row: int = 0,
    variable_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the pairs of largest mutual information as lines between variables on a circle.

    Neighbours on the circle are chosen to be dependent: the order walks along the maximum
    spanning tree. Line widths are proportional to the mutual information.

    Args:
        model: The model.
        evidence: Evidence of any kind; default none.
        num_edges: Lines drawn; default two for each variable.
        row: Which example of the evidence.
        variable_names: L names; default X0, X1, ...
        ax: Where to draw; default a new figure.

    Returns:
        The axes; observed variables are grey.

    Raises:
        StructureError: If there are too few or many names, or `num_edges` is below one.
        EvidenceError: If the evidence does not fit or is impossible, or has no such row.

    Examples:
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> ax = pc.viz.dependency_graph(model, num_edges=1)
        >>> ax.get_title()
        'mutual information, thickest line 0.693 nats'
    """
    information, observed = _information(model, evidence, row)
    return information_graph(
        information,
        observed=observed,
        num_edges=num_edges,
        variable_names=variable_names,
        ax=ax,
    )


def information_graph(
    information: Tensor,
    *,
    observed: Tensor | None = None,
    num_edges: int | None = None,
    variable_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a matrix of mutual information that is known already as `dependency_graph` does.

    Args:
        information: (L, L) nats; the diagonal is left out.
        observed: (L,) bool, variables without lines, drawn grey; default none.
        num_edges: Lines drawn; default two for each variable.
        variable_names: L names; default X0, X1, ...
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If it is not a square matrix, there are too few or many names, or
            `num_edges` is below one.

    Examples:
        >>> information = torch.tensor([[0.0, 0.5, 0.1], [0.5, 0.0, 0.1], [0.1, 0.1, 0.0]])
        >>> ax = pc.viz.information_graph(information, num_edges=1, variable_names=["x", "y", "z"])
        >>> sorted(text.get_text() for text in ax.texts)
        ['x', 'y', 'z']
    """
    known = _checked_observed(information, observed)
    names = checked_names(variable_names, len(information), "variable names", "X")
    if num_edges is not None and num_edges < 1:
        raise StructureError(f"expected num_edges >= 1; found {num_edges}")
    information = _hidden(information, known)
    pairs = _strongest(information, 2 * len(names) if num_edges is None else num_edges)
    places = _circle(_order(information))
    longest = max(text_width(plain(name)) for name in names)
    side = float(np.clip(0.09 * len(names), 1.2, 4.0)) + longest + 0.2
    axes = axes_or_new(ax, (2 * side + 0.4, 2 * side))
    _draw_pairs(axes, pairs, places)
    _draw_names(axes, names, known.tolist(), places)
    reach = side / (side - longest - 0.2)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.axis("off")
    if pairs:
        entitle(axes, f"mutual information, thickest line {pairs[0][2]:.3g} nats")
    return axes


def _information(model: CircuitModel, evidence: Evidence | None, row: int) -> tuple[Tensor, Tensor]:
    """(L, L) nats and (L,) which variables are observed."""
    given = one_row(evidence or Evidence(), row)
    with torch.no_grad():
        found = chosen_row(model.mutual_information(given), 0)
    mask = given.mask()
    return found, torch.zeros(len(found)).bool() if mask is None else mask[0].cpu()


def _checked_observed(information: Tensor, observed: Tensor | None) -> Tensor:
    """(L,) bool on the CPU.

    Raises:
        StructureError: If the information is not square or not about these variables.
    """
    length = len(information)
    if information.shape != (length, length) or not length:
        raise StructureError(
            f"expected mutual information (L, L); found shape {tuple(information.shape)}"
        )
    if observed is None:
        return torch.zeros(length, dtype=torch.bool)
    if observed.shape != (length,):
        raise StructureError(f"expected observed ({length},); found {tuple(observed.shape)}")
    return observed.detach().bool().cpu()


def _hidden(information: Tensor, observed: Tensor) -> Tensor:
    """(L, L) float64 nats, NaN where there is nothing to tell."""
    hidden = torch.eye(len(observed)).bool() | observed | observed[:, None]
    return information.detach().double().cpu().masked_fill(hidden, torch.nan)


def _strongest(information: Tensor, count: int) -> list[tuple[int, int, float]]:
    """Pairs (i, j, nats), the largest first; none that is zero."""
    pairs = [
        (i, j, float(information[i, j]))
        for i in range(len(information))
        for j in range(i + 1, len(information))
        if information[i, j] > 0
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:count]


def _order(information: Tensor) -> list[int]:
    """Variables as a walk down the maximum spanning tree meets them."""
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(information)))
    graph.add_weighted_edges_from(_strongest(information, information.numel()))
    tree = networkx.maximum_spanning_tree(graph)
    found: list[int] = []
    for start in range(len(information)):
        if start not in found:
            found.extend(networkx.dfs_preorder_nodes(tree, start))
    return found


def _circle(order: Sequence[int]) -> np.ndarray:
    """(L, 2) places, the first on top, then clockwise."""
    angles = np.empty(len(order))
    angles[list(order)] = np.pi / 2 - 2 * np.pi * np.arange(len(order)) / len(order)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _draw_pairs(axes: Axes, pairs: Sequence[tuple[int, int, float]], places: np.ndarray) -> None:
    most = max((nats for _, _, nats in pairs), default=1.0)
    lines = LineCollection(
        [[tuple(places[i]), tuple(places[j])] for i, j, _ in pairs],
        linewidths=[max(_THINNEST, _THICKEST * nats / most) for _, _, nats in pairs],
        colors=BLUE,
        alpha=0.75,
        capstyle="round",
        zorder=1,
    )
    lines.set_gid("edges")
    axes.add_collection(lines, autolim=False)


def _draw_names(
    axes: Axes, names: Sequence[str], observed: Sequence[bool], places: np.ndarray
) -> None:
    faces = [PALE if known else SKY for known in observed]
    axes.scatter(places[:, 0], places[:, 1], s=42, c=faces, edgecolors=INK, zorder=2)
    for name, known, (x, y) in zip(names, observed, places, strict=True):
        angle = math.degrees(math.atan2(y, x))
        left = x < -1e-9
        axes.annotate(
            plain(name),
            (x, y),
            xytext=(9 * x, 9 * y),
            textcoords="offset points",
            rotation=angle + 180 if left else angle,
            rotation_mode="anchor",
            ha="right" if left else "left",
            va="center",
            fontsize=FONT_SIZE,
            color=GREY if known else INK,
        )
