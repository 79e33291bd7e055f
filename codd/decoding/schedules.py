"""How many tokens each row fixes at a step."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A rule for the number of tokens to fix at each step."""

    def num_steps(self, length: int) -> int:
        """Number of steps that fix `length` masked tokens."""

    def quota(self, masked: Tensor, steps_left: int, generator: torch.Generator) -> Tensor:
        """Number of tokens to fix now.

        Args:
            masked: (B,) int64 tokens still masked.
            steps_left: Steps left, this one included.
            generator: Source of the number where it is random.

        Returns:
            (B,) int64, at most `masked`.
        """


@dataclass(frozen=True)
class EvenSchedule:
    """Spreads the masked tokens evenly over a number of steps.

    Each step fixes masked // steps tokens, and one more in the first masked % steps steps (the
    schedule of LLaDA, Nie et al. 2025, arXiv 2502.09992).

    Attributes:
        steps: Number of steps.
    """

    steps: int

    def num_steps(self, length: int) -> int:
        """Number of steps, whatever the length."""
        return self.steps

    def quota(self, masked: Tensor, steps_left: int, generator: torch.Generator) -> Tensor:
        """Number of tokens to fix now, (B,): masked / steps_left, rounded up."""
        return (masked + steps_left - 1) // steps_left


@dataclass(frozen=True)
class StochasticSchedule:
    """Unmasks each token by itself, at a step drawn uniformly from those left.

    The reverse process of masked diffusion under the linear schedule: from noise level t to s a
    masked token is fixed with probability (t - s) / t = 1 / steps left (MDLM, Sahoo et al. 2024,
    arXiv 2406.07524, eq. 6). Under random selection this is that process; other selections draw
    the number alone.

    Attributes:
        steps: Number of steps.
    """

    steps: int

    def num_steps(self, length: int) -> int:
        """Number of steps, whatever the length."""
        return self.steps

    def quota(self, masked: Tensor, steps_left: int, generator: torch.Generator) -> Tensor:
        """Number of tokens to fix now, (B,): binomial, 0 to all that are masked."""
        share = torch.full_like(masked, 1.0 / steps_left, dtype=torch.float64)
        return torch.binomial(masked.double(), share, generator=generator).long()


@dataclass(frozen=True)
class LoopSchedule:
    """Commits most tokens, then none for a while, then the rest (ReMDM-loop, arXiv 2503.00307).

    Attributes:
        steps: Number of steps; time falls from 1 to 0 over them.
        on: Time down to which the visible share rises to `visible`.
        off: Time from which it rises to 1.
        visible: The share in between.
    """

    steps: int
    on: float
    off: float
    visible: float

    def num_steps(self, length: int) -> int:
        """Number of steps, whatever the length."""
        return self.steps

    def quota(self, masked: Tensor, steps_left: int, generator: torch.Generator) -> Tensor:
        """Number of tokens to fix now, (B,): masked * (α_s - α_t) / (1 - α_t), rounded up."""
        before, after = (self._masked_share(n / self.steps) for n in (steps_left, steps_left - 1))
        share = (before - after) / before
        return (masked.double() * share - 1e-6).ceil().long()  # a rounding error is no token

    def _masked_share(self, time: float) -> float:
        if time > self.on:
            return 1 - (1 - time) / (1 - self.on) * self.visible
        return (1 - self.visible) * min(1.0, time / self.off)


@dataclass(frozen=True)
class FixedSchedule:
    """Fixes the same number of tokens at each step, and what is left at the last.

    Attributes:
        tokens_per_step: Tokens to fix at a step.
    """

    tokens_per_step: int

    def num_steps(self, length: int) -> int:
        """Number of steps: length / tokens_per_step, rounded up."""
        return -(-length // self.tokens_per_step)

    def quota(self, masked: Tensor, steps_left: int, generator: torch.Generator) -> Tensor:
        """Number of tokens to fix now, (B,), whatever the number of steps left."""
        return masked.clamp(max=self.tokens_per_step)


def split_evenly(total: int, parts: int) -> list[int]:
    """Splits `total` into `parts` whole numbers, the first total % parts one larger."""
    return [total // parts + (i < total % parts) for i in range(parts)]
