"""What a denoiser is tuned on by reinforcement, and the settings of the tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codd.errors import ConfigError
from codd.training.denoiser_config import DTYPES, Precision
from codd.training.policy import ESTIMATES, Estimate

Reward = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class RewardedPrompts:
    """What is asked, and what an answer is worth.

    Attributes:
        prompts: (P_i,) int64 ids of each prompt.
        reward: (B,) indices of prompts and their (B, N) completions -> (B,) rewards.
    """

    prompts: Sequence[Tensor]
    reward: Reward

    def __post_init__(self) -> None:
        """Checks that there is a prompt.

        Raises:
            ConfigError: If there is none.
        """
        if not len(self.prompts):
            raise ConfigError("prompts: expected at least one, found none")


@dataclass(frozen=True)
class GRPOTraining:
    """How a denoiser is tuned.

    Attributes:
        new_tokens: N, tokens of a completion.
        decoding_steps: Denoiser calls that write one.
        selection: Which positions come first; a name in `codd.decoding.selection.SELECTIONS`.
        temperature: Of the drawn tokens; above 0, or no two completions would differ.
        prompts_per_step: Prompts of a batch of completions.
        group_size: Completions of each prompt.
        inner_updates: Optimiser steps on each batch of completions.
        clip: Largest change of a token's probability ratio that is rewarded, the paper's epsilon.
        kl_weight: Weight of the divergence from the denoiser as it was, the paper's beta.
        estimate: How likelihoods are estimated; one of `codd.training.policy.ESTIMATES`.
        prompt_mask_ratio: Probability of hiding a token of the prompt in "one_step".
        learning_rate: Peak of AdamW's learning rate.
        precision: Number type of activations; master weights are float32.
        validation_prompts: Most prompts that a validation completes.
    """

    new_tokens: int
    decoding_steps: int
    selection: str = "low_confidence"
    temperature: float = 1.0
    prompts_per_step: int = 8
    group_size: int = 8
    inner_updates: int = 1
    clip: float = 0.2
    kl_weight: float = 0.01
    estimate: Estimate = "trajectory"
    prompt_mask_ratio: float = 0.15
    learning_rate: float = 1e-4
    precision: Precision = "float32"
    validation_prompts: int = 128

    def __post_init__(self) -> None:
        """Checks every field that decoding does not check.

        Raises:
            ConfigError: If a field is impossible.
        """
        least = {"prompts_per_step": 1, "group_size": 2, "inner_updates": 1}
        for name, smallest in {**least, "validation_prompts": 1}.items():
            if getattr(self, name) < smallest:
                raise ConfigError(
                    f"{name}: expected at least {smallest}, found {getattr(self, name)}"
                )
        for name in ("temperature", "clip", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)}"
                )
        if not self.kl_weight >= 0:
            raise ConfigError(f"kl_weight: expected 0 or more, found {self.kl_weight}")
        if not 0.0 <= self.prompt_mask_ratio < 1.0:
            raise ConfigError(
                f"prompt_mask_ratio: expected at least 0 and below 1, found "
                f"{self.prompt_mask_ratio}"
            )
        if self.estimate not in ESTIMATES:
            raise ConfigError(f"estimate: expected one of {ESTIMATES}, found {self.estimate!r}")
        if self.precision not in DTYPES:
            raise ConfigError(
                f"precision: expected one of {list(DTYPES)}, found {self.precision!r}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The number type that `precision` names."""
        return DTYPES[self.precision]
