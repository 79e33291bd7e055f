"""Sizes of the cost benchmark; everything that was chosen was chosen on validation problems."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codd.denoisers.transformer import TransformerConfig
from codd.evaluation.tasks.arithmetic import QUESTION_LENGTH, SOLUTION_LENGTH
from codd.training.circuit_loop import CircuitTraining
from codd.training.coupling_loop import CouplingTraining
from codd.training.denoiser_config import DenoiserTraining
from codd.training.grpo_config import GRPOTraining
from codd.training.schedule import Schedule

LENGTH = QUESTION_LENGTH + SOLUTION_LENGTH
_BASE = DenoiserTraining(
    steps=6000,
    batch_size=64,
    window_length=LENGTH,
    block_length=SOLUTION_LENGTH,
    prompt_fraction=1.0,
    warmup_plain=1.0,
    warmup_steps=100,
    validate_every=500,
    checkpoint_every=500,
)
_CIRCUIT = CircuitTraining(
    num_states=256, batch_size=256, warmup=4, validate_every=20, checkpoint_every=20
)
_HEAD = CouplingTraining(prompt_fraction=1.0)
_HEAD_SCHEDULE = Schedule(
    100, warmup_steps=10, ema_decay=0.98, validate_every=50, checkpoint_every=50
)
_GRPO = GRPOTraining(SOLUTION_LENGTH, 1, kl_weight=0.0, precision="bfloat16")
_GRPO_SCHEDULE = Schedule(
    200, warmup_steps=5, final_fraction=1.0, ema_decay=0.0, validate_every=25, checkpoint_every=25
)
_TUNING = CouplingTraining(
    batch_size=64, prompt_fraction=1.0, modulator_learning_rate=0, denoiser_learning_rate=3e-4
)
_TUNING_SCHEDULE = Schedule(
    400, warmup_steps=20, ema_decay=0.98, validate_every=200, checkpoint_every=200
)


@dataclass(frozen=True)
class CostSettings:
    """How much of everything.

    Attributes:
        train_problems: Problems to learn from.
        valid_problems: Problems that choices are made on.
        test_problems: Problems that figures are reported on.
        width: Of the denoiser.
        layers: Of the denoiser.
        heads: Of its attention.
        denoiser: How the denoiser is trained, before anything is compared.
        circuit: How a hidden Markov model is learned from solutions; run for each of `em_steps`.
        em_steps: Mini-batches of EM, a run for each.
        head: How the latent head is trained on the longest of these runs.
        head_schedule: How long.
        grpo: How the denoiser is tuned by reinforcement; `decoding_steps` and `learning_rate` are
            replaced.
        grpo_schedule: How long; each validation is a point of the curve.
        grpo_rates: Learning rates, tried on the fewest steps and compared on validation problems.
        grpo_trial: Updates of a trial.
        tuning: How it is tuned on the worked solutions instead, the control.
        tuning_schedule: How long; each validation is a point of the curve.
        shares: Steps of decoding are so many times fewer than tokens, a panel each.
        batch_size: Problems decoded together.
    """

    train_problems: int = 40_000
    valid_problems: int = 256
    test_problems: int = 1000
    width: int = 128
    layers: int = 4
    heads: int = 4
    denoiser: DenoiserTraining = _BASE
    circuit: CircuitTraining = _CIRCUIT
    em_steps: tuple[int, ...] = (10, 40, 160)
    head: CouplingTraining = _HEAD
    head_schedule: Schedule = _HEAD_SCHEDULE
    grpo: GRPOTraining = _GRPO
    grpo_schedule: Schedule = _GRPO_SCHEDULE
    grpo_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    grpo_trial: int = 50
    tuning: CouplingTraining = _TUNING
    tuning_schedule: Schedule = _TUNING_SCHEDULE
    shares: tuple[int, ...] = (4, 8, 16)
    batch_size: int = 256

    def network(self, num_categories: int) -> TransformerConfig:
        """The shape of the denoiser."""
        return TransformerConfig(num_categories, LENGTH, self.width, self.layers, self.heads)


def quick_settings() -> CostSettings:
    """Tiny sizes, to see that everything runs."""
    full = CostSettings()
    short: dict[str, Any] = {"validate_every": 2, "checkpoint_every": 2}
    return replace(
        full,
        train_problems=64,
        valid_problems=8,
        test_problems=8,
        width=16,
        layers=1,
        denoiser=replace(full.denoiser, steps=2, batch_size=8, **short),
        circuit=replace(full.circuit, num_states=8, batch_size=16, warmup=1, **short),
        em_steps=(2,),
        head=replace(full.head, batch_size=4, validation_windows=4),
        head_schedule=replace(full.head_schedule, steps=2, warmup_steps=1, **short),
        grpo=replace(full.grpo, prompts_per_step=2, group_size=2, validation_prompts=4),
        grpo_schedule=replace(full.grpo_schedule, steps=2, warmup_steps=1, **short),
        grpo_rates=(1e-3, 1e-4),
        grpo_trial=2,
        tuning=replace(full.tuning, batch_size=4, validation_windows=4),
        tuning_schedule=replace(full.tuning_schedule, steps=2, warmup_steps=1, **short),
        shares=(8, 16),
        batch_size=8,
    )
