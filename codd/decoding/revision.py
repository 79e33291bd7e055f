"""Taking tokens back: committed tokens that a step masks again, so that later steps may correct.

ReMDM (Wang et al. 2025, arXiv 2503.00307): at a step from noise level t to s each committed token
is masked again with probability σ, and as many more are committed, so that the share of masked
tokens follows the same schedule. With α the share that is visible, σ is at most
min(1, (1 - α_s) / α_t), and zero at the last step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from codd.errors import DecodingError


class Revision(Protocol):
    """Which committed tokens a step masks again."""

    def probability(self, steps_left: int, steps: int) -> float:
        """σ of a step of `steps`, with `steps_left` of them left, this one included."""


@dataclass(frozen=True)
class CappedRevision:
    """ReMDM-cap: σ = min(rate, σ_max).

    Attributes:
        rate: In [0, 1].
    """

    rate: float = 0.02

    def __post_init__(self) -> None:
        _check_rate("remdm_cap", self.rate)

    def probability(self, steps_left: int, steps: int) -> float:
        """See `Revision`."""
        return min(self.rate, largest_probability(steps_left, steps))


@dataclass(frozen=True)
class RescaledRevision:
    """ReMDM-rescale: σ = rate · σ_max.

    Attributes:
        rate: In [0, 1].
    """

    rate: float = 0.05

    def __post_init__(self) -> None:
        _check_rate("remdm_rescale", self.rate)

    def probability(self, steps_left: int, steps: int) -> float:
        """See `Revision`."""
        return self.rate * largest_probability(steps_left, steps)


REVISIONS: Mapping[str, type[CappedRevision] | type[RescaledRevision]] = MappingProxyType(
    {"remdm_cap": CappedRevision, "remdm_rescale": RescaledRevision}
)


def revision_from_text(text: str) -> Revision:
    """Reads a rule such as "remdm_cap=0.02" or "remdm_rescale".

    Raises:
        DecodingError: If the name is unknown or what follows is no number in [0, 1].
    """
    name, _, rate = text.partition("=")
    if name not in REVISIONS:
        listed = ", ".join(repr(known) for known in REVISIONS)
        raise DecodingError(f"revision: expected one of {listed}, found {text!r}")
    try:
        return REVISIONS[name](float(rate)) if rate else REVISIONS[name]()
    except ValueError as error:
        raise DecodingError(f"revision: expected {name}=RATE, found {text!r}: {error}") from error


def largest_probability(steps_left: int, steps: int) -> float:
    """σ_max of a step: at most so many can be masked again and the schedule still be kept."""
    visible = 1 - steps_left / steps
    masked_after = (steps_left - 1) / steps
    return min(1.0, masked_after / visible) if visible > 0 else 1.0


def take_back(
    committed: Tensor, room: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """Draws the tokens to mask again.

    Args:
        committed: (B, L) bool, tokens that earlier steps committed.
        room: (B,) int64, most tokens of a row that can be taken back.
        probability: Of each, σ.
        generator: Source of the choice.

    Returns:
        (B, L) bool.
    """
    draws = torch.rand(committed.shape, generator=generator, device=committed.device)
    taken = committed & (draws < probability)
    order = draws.masked_fill(~taken, 2.0).argsort(dim=1).argsort(dim=1)
    return taken & (order < room[:, None])


def _check_rate(name: str, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise DecodingError(f"{name}: expected a rate in [0, 1], found {rate}")
