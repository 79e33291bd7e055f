"""The fewest windows that cover the positions chosen in each row.

Full-sequence decoding chooses positions anywhere; the circuit couples W neighbouring tokens. Going
from left to right, a window that starts at the first uncovered position covers at least as much
as any other window that covers it, so the greedy cover is a minimum one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class WindowRound:
    """At most one window for each row.

    Attributes:
        start: (B,) int64 first position of the window; meaningful where the row is active.
        covered: (B, L) bool, the chosen positions that belong to this round's window. A row
            without any has no window left.
    """

    start: Tensor
    covered: Tensor

    @property
    def active(self) -> Tensor:
        """(B,) bool, True where the row has a window in this round."""
        return self.covered.any(dim=1)


def minimum_cover(selected: Tensor, window: int) -> list[WindowRound]:
    """Covers the selected positions of every row by as few windows as possible.

    A window is moved so that what it covers lies in its middle, as far as the sequence allows: the
    cover stays as small, and the tokens get context from both sides.

    Args:
        selected: (B, L) bool.
        window: W, at most L.

    Returns:
        Rounds from left to right; as many as the row that needs most has windows.
    """
    rounds = []
    remaining = selected
    while bool(remaining.any()):
        covered = _reach(remaining, window)
        rounds.append(WindowRound(start=_centred_start(covered, window), covered=covered))
        remaining = remaining & ~covered
    return rounds


def _reach(remaining: Tensor, window: int) -> Tensor:
    """The remaining positions within `window` of the row's first."""
    positions = torch.arange(remaining.shape[1], device=remaining.device)
    first = remaining.byte().argmax(dim=1, keepdim=True)
    return remaining & (positions < first + window)


def _centred_start(covered: Tensor, window: int) -> Tensor:
    length = covered.shape[1]
    first = covered.byte().argmax(dim=1)
    last = length - 1 - covered.flip(1).byte().argmax(dim=1)
    spare = window - (last - first + 1)
    # A row without a window has a negative spare; its start only has to be inside the sequence.
    return (first - spare // 2).clamp(0, length - window)
