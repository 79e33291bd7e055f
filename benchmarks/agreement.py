"""The picture on the first page: two words written at once, without and with a circuit."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

import codd
import pcircuits as pc
from pcircuits.viz import style

FIRST, SECOND = ("New", "San"), ("York", "Diego")
WORDS = (*FIRST, *SECOND)
_TITLE = style.FONT_SIZE + 1


def joints() -> tuple[Tensor, Tensor, Tensor]:
    """What a denoiser says of two hidden words, and what follows.

    Returns:
        (2, 2) probability of each word at each place; (2, 2) of every pair if the two are drawn
        independently; and the same when a circuit couples them that has read "New York" and
        "San Diego".
    """
    text = torch.tensor([[0, 2], [1, 3]]).repeat(300, 1)
    circuit = pc.CircuitModel(pc.families.mixture(2, 2, len(WORDS)), seed=0)
    pc.fit_em(circuit, text, epochs=30, progress=False)
    said = torch.tensor([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.6, 0.4]])
    pairs = torch.cartesian_prod(torch.tensor([0, 1]), torch.tensor([2, 3]))
    hidden = torch.zeros(1, 2, dtype=torch.bool)
    found = []
    for kind in ("factorised", "copula"):
        joint = codd.couple(
            codd.CouplingSettings(kind=kind),
            circuit.plan,
            circuit.log_parameters(),
            said.log()[None],
            pairs[:1],
            hidden,
        )
        log_probs = [joint.log_prob(pair[None]) for pair in pairs]
        found.append(torch.cat(log_probs).exp().detach().reshape(2, 2))
    return torch.stack((said[0, :2], said[1, 2:])), found[0], found[1]


def agreement() -> Figure:
    """Draws the three of `joints` side by side."""
    said, alone, together = joints()
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    _bars(left, said)
    _table(middle, alone, "each word drawn alone")
    _table(right, together, "coupled by a circuit")
    middle.set_ylabel("first word", fontsize=style.FONT_SIZE)
    keys = [Patch(**_look(is_city), linewidth=1) for is_city in (True, False)]
    figure.legend(
        keys,
        ["a city; area: probability", "no such city"],
        loc="outside lower right",
        ncols=2,
        frameon=False,
        fontsize=style.FONT_SIZE,
    )
    figure.suptitle("“He is from ▢ ▢”: which pairs of words are written in one step?", fontsize=11)
    return figure


def _bars(axes: Axes, said: Tensor) -> None:
    places = [0.0, 1.0, 2.6, 3.6]
    shares = said.flatten().tolist()
    axes.bar(places, shares, color=style.GREY, width=0.8)
    for place, share in zip(places, shares, strict=True):
        axes.text(place, share + 0.02, f"{share:.0%}", ha="center", fontsize=style.FONT_SIZE)
    axes.set_xticks(places, [*FIRST, *SECOND], fontsize=style.FONT_SIZE)
    names = ["first word", "second word"]
    axes.set_xticks([0.5, 3.1], names, minor=True, fontsize=style.FONT_SIZE)
    axes.tick_params(axis="x", which="minor", pad=16)
    axes.tick_params(axis="x", which="both", length=0)
    axes.set_ylim(0, 0.75)
    axes.set_yticks([])
    axes.set_title("what the network says of each", fontsize=_TITLE)
    style.without_frame(axes)
    axes.spines["left"].set_visible(False)


def _look(is_city: bool) -> dict[str, Any]:
    if is_city:
        return {"facecolor": style.SKY, "edgecolor": style.BLUE}
    return {"facecolor": "none", "edgecolor": style.VERMILION, "hatch": "////"}


def _table(axes: Axes, shares: Tensor, title: str) -> None:
    """A square for each pair, its area the probability; pairs that are no city are hatched."""
    for row, column in ((i, j) for i in range(2) for j in range(2)):
        share = float(shares[row, column])
        side, is_city = share**0.5, row == column
        corner = (column - side / 2, row - side / 2)
        axes.add_patch(Rectangle(corner, side, side, linewidth=1, **_look(is_city)))
        box = {"facecolor": style.WHITE, "edgecolor": "none", "pad": 1.2}
        text = axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=_TITLE)
        text.set_bbox(None if is_city else box)
    axes.set_xticks([0, 1], SECOND, fontsize=style.FONT_SIZE)
    axes.set_yticks([0, 1], FIRST, fontsize=style.FONT_SIZE)
    axes.tick_params(length=0)
    axes.set_xlabel("second word", fontsize=style.FONT_SIZE)
    axes.set_xlim(-0.5, 1.5)
    axes.set_ylim(1.5, -0.5)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=_TITLE)
    for spine in axes.spines.values():
        spine.set_color(style.PALE)
