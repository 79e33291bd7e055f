"""The posterior of a text with holes: the likeliest tokens of every hole as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor

from pcircuits.errors import EvidenceError, StructureError
from pcircuits.execute.evidence import Evidence
from pcircuits.module import CircuitModel
from pcircuits.viz.style import (
    FONT_SIZE,
    GREY,
    INK,
    SKY,
    VERMILION,
    axes_or_new,
    entitle,
    letters,
    plain,
    text_width,
)
from pcircuits.viz.subject import checked_names, chosen_row, one_row

HOLE = "■"
_COLUMN, _LINE, _SMALL = 1.15, 0.21, FONT_SIZE - 1
_CONTEXT = 6


def posterior(
    model: CircuitModel,
    evidence: Evidence,
    *,
    row: int = 0,
    num_candidates: int = 5,
    token_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws what a model expects in the holes of a text, see `candidates`.

    Args:
        model: The model.
        evidence: Values with some observed.
        row: Which example of the evidence.
        num_candidates: Most tokens shown of each hole.
        token_names: V texts; default the tokens' numbers.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        EvidenceError: If nothing is observed or all, the evidence does not fit or is impossible,
            or there is no such row.
        StructureError: If there are too few or many names, or `num_candidates` is below one.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=3))
        >>> hole = pc.Evidence(torch.tensor([[0, 0, 2]]), torch.tensor([[True, False, True]]))
        >>> ax = pc.viz.posterior(model, hole, token_names=["a", "b", "c"])
        >>> ax.get_title()
        'what is expected in 1 of 3 positions'
    """
    given = one_row(evidence, row)
    mask = given.mask()
    if given.values is None or mask is None:
        raise EvidenceError("expected evidence with values, some of them observed; found none")
    with torch.no_grad():
        found = chosen_row(model.marginals(given), 0)
    return candidates(
        found,
        given.values[0],
        mask[0],
        num_candidates=num_candidates,
        token_names=token_names,
        ax=ax,
    )


def candidates(
    probabilities: Tensor,
    values: Tensor,
    observed: Tensor,
    *,
    num_candidates: int = 5,
    token_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the likeliest tokens of every hole in a text, with what stands around the hole.

    One column a hole, as many in a row as fit; a bar as wide as its column is probability 1.

    Args:
        probabilities: (L, V) of every token.
        values: (L,) integers; arbitrary in the holes.
        observed: (L,) bool, False in the holes.
        num_candidates: Most tokens shown of each hole.
        token_names: V texts; default the tokens' numbers.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        EvidenceError: If there is no hole.
        StructureError: If shapes do not fit, there are too few or many names, or `num_candidates`
            is below one.

    Examples:
        >>> probabilities = torch.tensor([[0.7, 0.2, 0.1]]).expand(3, 3)
        >>> tokens, seen = torch.tensor([0, 0, 2]), torch.tensor([True, False, True])
        >>> ax = pc.viz.candidates(probabilities, tokens, seen, token_names=["a", "b", "c"])
        >>> ax.get_title()
        'what is expected in 1 of 3 positions'
    """
    length, size = _checked(probabilities, values, observed, num_candidates)
    names = [letters(name) for name in checked_names(token_names, size, "token names", "")]
    known = observed.detach().cpu().bool().tolist()
    places = [i for i in range(length) if not known[i]]
    if not places:
        raise EvidenceError("expected a hole at least; found every token observed")
    ids = values.detach().cpu().tolist()
    text = [names[ids[i]] if known[i] else HOLE for i in range(length)]
    found, which = probabilities.detach().double().cpu()[places].topk(min(num_candidates, size))
    grid = _Grid.of(len(places), found.shape[1], max(text_width(names[i]) for i in which.flatten()))
    axes = axes_or_new(ax, grid.size)
    _prepare(axes, grid)
    for number, place in enumerate(places):
        x, y = grid.corner(number)
        _heading(axes, grid, (x, y), place, text)
        tokens = [names[i] for i in which[number].tolist()]
        _bars(axes, grid, (x, y), tokens, found[number].tolist())
    entitle(axes, f"what is expected in {len(places)} of {length} positions")
    return axes


@dataclass(frozen=True)
class _Grid:
    """Columns of bars, in inches: as many side by side as are square, roughly."""

    columns: int
    rows: int
    depth: int
    label: float

    @classmethod
    def of(cls, holes: int, depth: int, label: float) -> _Grid:
        most = max(1, int(11.0 / (_COLUMN + label + 0.45)))
        rows = math.ceil(holes / most)
        return cls(math.ceil(holes / rows), rows, depth, label + 0.1)

    @property
    def step(self) -> tuple[float, float]:
        """From one column to the next, from one row to the next."""
        return self.label + _COLUMN + 0.4, (self.depth + 3.2) * _LINE

    @property
    def size(self) -> tuple[float, float]:
        return max(3.4, self.columns * self.step[0] + 0.5), self.rows * self.step[1] + 0.7

    def corner(self, number: int) -> tuple[float, float]:
        """Left of the bars, and the height of the heading."""
        row, column = divmod(number, self.columns)
        return column * self.step[0] + self.label, row * self.step[1] + _LINE


def _prepare(axes: Axes, grid: _Grid) -> None:
    axes.set_xlim(-0.05, grid.columns * grid.step[0])
    axes.set_ylim(grid.rows * grid.step[1], 0.0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("probability (to the dotted line: 1)")
    axes.set_ylabel("token, the likeliest on top")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _heading(
    axes: Axes, grid: _Grid, corner: tuple[float, float], place: int, text: Sequence[str]
) -> None:
    x, y = corner
    left = x - grid.label
    axes.text(left, y, f"position {place}", fontsize=_SMALL, color=GREY, va="center")
    before = "".join(text[max(0, place - _CONTEXT) : place])
    after = "".join(text[place + 1 : place + 1 + _CONTEXT])
    around = _fitting(before, after, grid.step[0] - 0.35)
    axes.text(left, y + _LINE, plain(around), fontsize=_SMALL, color=VERMILION, va="center")


def _fitting(before: str, after: str, room: float) -> str:
    """A hole with as much of the text around it as there is room for."""
    for kept in range(max(len(before), len(after)), 0, -1):
        around = f"{before[-kept:]}[{HOLE}]{after[:kept]}"
        if text_width(around, _SMALL) <= room:
            return around
    return f"[{HOLE}]"


def _bars(
    axes: Axes,
    grid: _Grid,
    corner: tuple[float, float],
    tokens: Sequence[str],
    shares: Sequence[float],
) -> None:
    x, top = corner
    for rank, (token, share) in enumerate(zip(tokens, shares, strict=True)):
        y = top + (rank + 2.1) * _LINE
        axes.barh(y, share * _COLUMN, height=0.8 * _LINE, left=x, color=SKY)
        axes.text(x - 0.06, y, plain(token), ha="right", va="center", fontsize=_SMALL, color=INK)
        label = f"{share:.2f}" if share >= 0.005 else "<.01"
        axes.text(x + 0.04, y, label, va="center", fontsize=_SMALL - 1, color=INK)
    # What a bar of probability 1 would reach.
    bottom = top + (len(tokens) + 1.6) * _LINE
    axes.plot([x, x], [top + 1.6 * _LINE, bottom], color=GREY, linewidth=0.8)
    axes.plot([x + _COLUMN] * 2, [top + 1.6 * _LINE, bottom], color=GREY, linewidth=0.5, ls=":")


def _checked(
    probabilities: Tensor, values: Tensor, observed: Tensor, num_candidates: int
) -> tuple[int, int]:
    shapes = tuple(tuple(t.shape) for t in (probabilities, values, observed))
    if probabilities.ndim != 2 or shapes[1] != shapes[0][:1] or shapes[2] != shapes[0][:1]:
        raise StructureError(
            f"expected probabilities (L, V), values (L,) and observed (L,); found {shapes}"
        )
    if num_candidates < 1:
        raise StructureError(f"expected num_candidates >= 1; found {num_candidates}")
    return shapes[0][0], shapes[0][1]
