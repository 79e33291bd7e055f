"""How a denoiser is trained: the settings and what follows from them alone."""

from dataclasses import dataclass
from typing import Literal

import torch

from codd.errors import ConfigError
from codd.training.schedule import Schedule

Precision = Literal["bfloat16", "float32"]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_POSITIVE = (
    "steps",
    "batch_size",
    "window_length",
    "block_length",
    "matrix_learning_rate",
    "learning_rate",
    "gradient_clip",
    "validate_every",
    "validation_windows",
    "checkpoint_every",
)


@dataclass(frozen=True)
class DenoiserTraining:
    """How a denoiser is trained.

    Attributes:
        steps: Optimiser steps.
        batch_size: Windows a step.
        window_length: Tokens a window.
        block_length: Tokens of the block that follows a visible prompt.
        prompt_fraction: Share of windows whose prompt stays visible.
        warmup_plain: Share of the steps that count every masked token once, without 1/t.
        matrix_learning_rate: Its peak for weight matrices inside the blocks, which Muon trains.
        learning_rate: Its peak for all else, which AdamW trains.
        warmup_steps: Steps of linear rise to the peak; a cosine falls from there.
        final_fraction: The last learning rate over the peak.
        momentum: Muon's moving-average rate.
        weight_decay: Decoupled, on weight matrices inside the blocks only.
        betas: AdamW's moving-average rates.
        gradient_clip: Largest norm of the whole gradient.
        ema_decay: Rate of the moving average of the weights.
        precision: Number type of activations; master weights are float32.
        seed: Seed of initial weights, windows, masks and dropout.
        validate_every: Steps between validations.
        validation_windows: Most windows a validation uses.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = 3600
    batch_size: int = 64
    window_length: int = 64
    block_length: int = 32
    prompt_fraction: float = 0.5
    warmup_plain: float = 0.1
    matrix_learning_rate: float = 4e-3
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    final_fraction: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    precision: Precision = "bfloat16"
    seed: int = 0
    validate_every: int = 200
    validation_windows: int = 512
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: If a field is impossible.
        """
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)}"
                )
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("prompt_fraction", "warmup_plain", "final_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: expected 0 to 1, found {getattr(self, name)}")
        for name in ("momentum", "ema_decay"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(
                    f"{name}: expected at least 0 and below 1, found {getattr(self, name)}"
                )
        if self.block_length > self.window_length:
            raise ConfigError(
                f"block_length: expected at most window_length = {self.window_length}, "
                f"found {self.block_length}"
            )
        if self.precision not in DTYPES:
            raise ConfigError(
                f"precision: expected one of {list(DTYPES)}, found {self.precision!r}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The number type that `precision` names."""
        return DTYPES[self.precision]

    @property
    def schedule(self) -> Schedule:
        """The part of the settings that every optimisation loop has."""
        return Schedule(
            steps=self.steps,
            warmup_steps=self.warmup_steps,
            final_fraction=self.final_fraction,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
            betas=self.betas,
            validate_every=self.validate_every,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )
