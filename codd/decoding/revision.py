"""Taking tokens back: committed tokens that a step masks again, so that later steps may correct.

ReMDM (Wang et al. 2025, arXiv 2503.00307): at a step from noise level t to s each committed token
is masked again with probability σ, and as many more are committed, so that the share of masked
tokens follows the same schedule. With α the share that is visible, σ is at most
min(1, (1 - α_s) / α_t), and zero at the last step. The paper's four strategies are here, by its
names: "cap", "rescale", "conf" and "loop".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from codd.decoding.schedules import LoopSchedule, Schedule
from codd.errors import DecodingError


class Revision(Protocol):
    """Which committed tokens a step masks again."""

    @property
    def by_confidence(self) -> bool:
        """Whether σ is shared out by how likely the tokens were when they were committed."""

    def probability(self, steps_left: int, steps: int) -> float:
        """σ of a step of `steps`, with `steps_left` of them left, this one included."""

    def schedule(self, steps: int) -> Schedule | None:
        """How many tokens each of so many steps commits; None for any schedule."""


@dataclass(frozen=True)
class _AtAnySchedule:
    """A revision that any schedule may have.

    Attributes:
        rate: In [0, 1].
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        _check_shares(rate=self.rate)

    @property
    def by_confidence(self) -> bool:
        """See `Revision`."""
        return False

    def schedule(self, steps: int) -> Schedule | None:
        """See `Revision`."""
        return None


@dataclass(frozen=True)
class CappedRevision(_AtAnySchedule):
    """ReMDM-cap: σ = min(rate, σ_max).

    Attributes:
        rate: In [0, 1].

    Examples:
        With 8 of 10 steps left a token may be taken back with probability 1/8 at most:

        >>> rule = codd.CappedRevision(rate=0.02)
        >>> rule.probability(steps_left=8, steps=10)
        0.02
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 8, "steps": 4, "coupling": "factorised"}
        >>> text = model.generate("Return ", revision=rule, **options)
        >>> text == model.generate("Return ", revision="remdm_cap=0.02", **options)
        True
    """

    rate: float = 0.02

    def probability(self, steps_left: int, steps: int) -> float:
        """See `Revision`."""
        return min(self.rate, largest_probability(steps_left, steps))


@dataclass(frozen=True)
class RescaledRevision(_AtAnySchedule):
    """ReMDM-rescale: σ = rate · σ_max.

    Attributes:
        rate: In [0, 1].

    Examples:
        >>> rule = codd.RescaledRevision(rate=0.5)
        >>> [rule.probability(steps_left=left, steps=10) for left in (10, 5, 2)]
        [0.5, 0.4, 0.0625]
    """

    rate: float = 0.05

    def probability(self, steps_left: int, steps: int) -> float:
        """See `Revision`."""
        return self.rate * largest_probability(steps_left, steps)


@dataclass(frozen=True)
class ConfidentRevision(RescaledRevision):
    """ReMDM-conf: of a row's committed tokens number i has σ_i = rate · σ_max · softmax(-ψ)_i.

    ψ is the probability of the token under its step's marginals, when it was committed last. The
    σ_i of a row sum to at most one: a step takes back one token at most, on average.

    Attributes:
        rate: In [0, 1].

    Examples:
        Doubtful tokens are the first to be taken back; as a text it is "remdm_conf=1":

        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 8, "steps": 4, "coupling": "factorised"}
        >>> text = model.generate("Return ", revision=codd.ConfidentRevision(rate=1.0), **options)
        >>> text == model.generate("Return ", revision="remdm_conf=1", **options)
        True
    """

    rate: float = 1.0

    @property
    def by_confidence(self) -> bool:
        """See `Revision`."""
        return True


@dataclass(frozen=True)
class LoopRevision:
    """ReMDM-loop: most tokens are committed first, then corrected for a while, then the rest.

    Time t falls from 1 to 0. Down to `on` the visible share rises to `visible`, from `off` on it
    rises to 1; in between it stays, and σ = min(rate, (1 - visible) / visible).

    Attributes:
        rate: In [0, 1].
        on: When correcting begins, in (0, 1).
        off: When it ends, in (0, on).
        visible: The share that is visible meanwhile, in (0, 1).

    Examples:
        Nothing is taken back before most tokens are there, and nothing near the end:

        >>> rule = codd.LoopRevision(rate=0.02, on=0.55, off=0.05)
        >>> [rule.probability(steps_left=left, steps=100) for left in (80, 50, 3)]
        [0.0, 0.02, 0.0]
    """

    rate: float = 0.02
    on: float = 0.55
    off: float = 0.05
    visible: float = 0.9

    def __post_init__(self) -> None:
        _check_shares(rate=self.rate, on=self.on, off=self.off, visible=self.visible)
        if not 0 < self.off < self.on < 1 or not 0 < self.visible < 1:
            raise DecodingError(
                "LoopRevision: expected 0 < off < on < 1 and 0 < visible < 1, found off "
                f"{self.off}, on {self.on} and visible {self.visible}"
            )

    @property
    def by_confidence(self) -> bool:
        """See `Revision`."""
        return False

    def probability(self, steps_left: int, steps: int) -> float:
        """See `Revision`."""
        if not self.off < steps_left / steps <= self.on:
            return 0.0
        return min(self.rate, (1 - self.visible) / self.visible)

    def schedule(self, steps: int) -> Schedule | None:
        """See `Revision`."""
        return LoopSchedule(steps, self.on, self.off, self.visible)


REVISIONS: Mapping[str, Callable[..., Revision]] = MappingProxyType(
    {
        "remdm_cap": CappedRevision,
        "remdm_rescale": RescaledRevision,
        "remdm_conf": ConfidentRevision,
        "remdm_loop": LoopRevision,
    }
)


def revision_from_text(text: str) -> Revision:
    """Reads a rule such as "remdm_cap=0.02", "remdm_conf" or "remdm_loop=0.02,0.55,0.05,0.9".

    The numbers are the rule's attributes in their order; the last ones may be left out.

    Raises:
        DecodingError: If the name is unknown or what follows are no numbers that it takes.
    """
    name, _, numbers = text.partition("=")
    if name not in REVISIONS:
        listed = ", ".join(repr(known) for known in REVISIONS)
        raise DecodingError(f"revision: expected one of {listed}, found {text!r}")
    try:
        return REVISIONS[name](*(float(number) for number in numbers.split(",") if numbers))
    except (TypeError, ValueError) as error:
        raise DecodingError(
            f"revision: expected {name} and its numbers, as {name}=RATE, found {text!r}: {error}"
        ) from error


def largest_probability(steps_left: int, steps: int) -> float:
    """σ_max of a step: at most so many can be masked again and the schedule still be kept."""
    visible = 1 - steps_left / steps
    masked_after = (steps_left - 1) / steps
    return min(1.0, masked_after / visible) if visible > 0 else 1.0


def take_back(
    committed: Tensor,
    room: Tensor,
    probability: float | Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draws the tokens to mask again.

    Args:
        committed: (B, L) bool, tokens that earlier steps committed.
        room: (B,) int64, most tokens of a row that can be taken back.
        probability: Of each, σ; one for all, or (B, L).
        generator: Source of the choice.

    Returns:
        (B, L) bool.
    """
    draws = torch.rand(committed.shape, generator=generator, device=committed.device)
    taken = committed & (draws < probability)
    order = draws.masked_fill(~taken, 2.0).argsort(dim=1).argsort(dim=1)
    return taken & (order < room[:, None])


def shared_out(probability: float, log_probs: Tensor, committed: Tensor) -> Tensor:
    """(B, L) σ_i = probability · softmax(-ψ)_i over a row's committed tokens, zero elsewhere.

    Args:
        probability: σ of the step.
        log_probs: (B, L) log ψ of each committed token.
        committed: (B, L) bool.
    """
    doubt = (-log_probs.exp()).masked_fill(~committed, -torch.inf)
    return probability * doubt.softmax(dim=1).nan_to_num(0.0)  # a row may have none


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise DecodingError(f"revision: expected a {name} in [0, 1], found {share}")
