"""How long a run is and how fast it learns, and the randomness of each of its steps.

Randomness comes from the run's seed and the step alone, so a run that was stopped and resumed gives
the same weights, bit for bit on the same machine with the same number of threads.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from codd.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and how often a run looks at itself.

    Attributes:
        steps: Optimiser steps.
        warmup_steps: Steps of linear rise of the learning rate; a cosine falls from there.
        final_fraction: The last learning rate over the peak.
        gradient_clip: Largest norm of the whole gradient.
        ema_decay: Rate of the moving average of the weights, which are the result.
        betas: AdamW's moving-average rates.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints.
        seed: Seed of everything random.

    Examples:
        >>> from codd.training import Schedule
        >>> Schedule(steps=200).warmup_steps
        50
        >>> Schedule(steps=0)
        Traceback (most recent call last):
        codd.errors.ConfigError: steps: expected a positive number, found 0
    """

    steps: int
    warmup_steps: int = 50
    final_fraction: float = 0.02
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    betas: tuple[float, float] = (0.9, 0.98)
    validate_every: int = 250
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "gradient_clip", "validate_every", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)}"
                )
        for name in ("final_fraction", "ema_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: expected 0 to 1, found {getattr(self, name)}")


def rate_factor(step: int, schedule: Schedule) -> float:
    """Learning rate over its peak: linear warm-up, then half a cosine to `final_fraction`.

    Args:
        step: Steps done so far.
        schedule: The schedule.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    fall = 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.final_fraction + (1.0 - schedule.final_fraction) * fall


def step_seed(seed: int, step: int) -> int:
    """A seed for one step, so that a resumed run needs no saved generator state.

    Args:
        seed: The run's seed.
        step: Steps done so far.
    """
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
