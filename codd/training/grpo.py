"""Group-relative policy optimisation of a masked diffusion model.

Each prompt is completed several times by few-step decoding. A completion's advantage is its reward
against those of its group (Shao et al. 2024, arXiv 2402.03300, section 4.1); no value network is
needed. The tokens' likelihoods are those of `codd.training.policy`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codd.decoding.canvas import lay_out
from codd.decoding.loop import Generation, generate
from codd.decoding.uncoupled import UncoupledModel
from codd.denoisers.base import DenoiserOutput
from codd.errors import ConfigError
from codd.training.gradient import Group
from codd.training.grpo_config import GRPOTraining, RewardedPrompts
from codd.training.loop import optimise
from codd.training.policy import Rollout, Views, completion_log_probs, make_views
from codd.training.run_state import HistoryEntry, Outcome
from codd.training.schedule import Schedule, step_seed


def train_grpo(
    denoiser: nn.Module,
    train: RewardedPrompts,
    valid: RewardedPrompts,
    training: GRPOTraining,
    schedule: Schedule,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    resume: bool = False,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Tunes a denoiser for few-step decoding by its factorised output, in place.

    Interruptions take effect, and checkpoints are written, between batches of completions.

    Args:
        denoiser: A module with the `Denoiser` protocol. As given, also when resuming, it is the
            reference that the divergence is taken from.
        train: What to learn from.
        valid: What to validate with.
        training: How completions are made and learned from.
        schedule: Optimiser steps and their rates. `ema_decay=0` trains without averaging.
        folder: Where checkpoints go.
        identity: JSON values that say what the denoiser and the prompts are.
        resume: Continue from the checkpoint in `folder` if there is one.
        log: Called with every validation.
        show_progress: Draw a progress bar.

    Returns:
        History and step; a validation's loss is minus the mean reward of one completion a prompt.

    Raises:
        ConfigError: If a checkpoint would fall between updates on one batch.
        DecodingError: If completions cannot be made so.
        CheckpointError: If `folder` holds a checkpoint of another run, or one while not resuming.
    """
    if schedule.checkpoint_every % training.inner_updates:
        raise ConfigError(
            f"checkpoint_every: expected a multiple of inner_updates = {training.inner_updates}, "
            f"found {schedule.checkpoint_every}"
        )
    tuner = _Tuner(denoiser, train, training, schedule.seed)
    denoiser.requires_grad_()
    named = dict(denoiser.named_parameters())
    outcome = optimise(
        lambda step: [tuner.loss_at(step)],
        lambda: -_mean_reward(denoiser, valid, training, schedule.seed),
        [Group(named, training.learning_rate)],
        schedule,
        folder,
        {**identity, "training": asdict(training)},
        title="grpo",
        resume=resume,
        stop_every=training.inner_updates,
        log=log,
        show_progress=show_progress,
    )
    denoiser.eval().requires_grad_(False)
    return outcome


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards in standard deviations above the mean of their group.

    A group whose completions are all worth the same teaches nothing: zeros.

    Args:
        rewards: (P, G) of G completions of each of P prompts.

    Returns:
        (P, G).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    return torch.where(deviation > 1e-6, centred / deviation.clamp(min=1e-6), 0.0)


def policy_loss(
    log_probs: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, training: GRPOTraining
) -> Tensor:
    """Minus the clipped advantage, plus the weighted divergence from the reference.

    Equation 3 of arXiv 2402.03300 with its unbiased estimate of the divergence (equation 4), whose
    every term is positive.

    Args:
        log_probs: (B, N) of the tokens, by the parameters as they are; carries the gradient.
        old: (B, N) by the parameters that wrote them.
        reference: (B, N) by the denoiser as it was.
        advantages: (B,).
        training: Gives the clip and the weight.

    Returns:
        The mean over tokens and completions.
    """
    ratio = (log_probs - old).exp()
    clipped = ratio.clamp(1.0 - training.clip, 1.0 + training.clip)
    gain = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    apart = reference - log_probs
    divergence = apart.exp() - apart - 1.0
    return (training.kl_weight * divergence - gain).mean()


class _Tuner:
    """Writes batches of completions and says what they teach."""

    def __init__(
        self, denoiser: nn.Module, task: RewardedPrompts, training: GRPOTraining, seed: int
    ) -> None:
        self.denoiser = denoiser
        self.reference = _frozen(denoiser)
        self.writer = self.reference
        self.task = task
        self.training = training
        self.seed = seed

    def loss_at(self, step: int) -> Tensor:
        training, generator = self.training, torch.Generator()
        generator.manual_seed(step_seed(self.seed, step))
        if step % training.inner_updates == 0:
            self._write(generator)
        views = make_views(
            training.estimate,
            self.rollout,
            self.mask_id,
            prompt_mask_ratio=training.prompt_mask_ratio,
            generator=generator,
        )
        own = self._log_probs(self.denoiser, views)
        with torch.no_grad():
            # The only update on a batch starts from the parameters that wrote it.
            alone = training.inner_updates == 1
            old = own if alone else self._log_probs(self.writer, views)
            far = training.kl_weight > 0
            reference = self._log_probs(self.reference, views) if far else own
        return policy_loss(own, old.detach(), reference.detach(), self.advantages, training)

    def _write(self, generator: torch.Generator) -> None:
        training, count = self.training, len(self.task.prompts)
        chosen = torch.randint(count, (training.prompts_per_step,), generator=generator)
        asked = chosen.repeat_interleave(training.group_size)
        if training.inner_updates > 1:
            self.writer = _frozen(self.denoiser)
        seed = int(torch.randint(2**62, (), generator=generator))
        prompts = [self.task.prompts[i] for i in asked.tolist()]
        found = _complete(self.denoiser, prompts, training, seed)
        context = int(self.denoiser.max_length) - training.new_tokens  # type: ignore[arg-type]
        canvas = lay_out(prompts, 0, context=context, least=0, mask_id=self.mask_id)
        self.rollout = Rollout(canvas.tokens, canvas.valid, found.completions, found.history)
        rewards = self.task.reward(asked, found.completions).view(len(chosen), -1)
        self.advantages = group_advantages(rewards.float()).flatten().to(found.completions.device)

    @property
    def mask_id(self) -> int:
        return int(self.denoiser.mask_id)  # type: ignore[arg-type]

    def _log_probs(self, module: nn.Module, views: Views) -> Tensor:
        weights = _cast(module, self.training.dtype)

        def logits_of(tokens: Tensor, valid: Tensor | None) -> Tensor:
            output: DenoiserOutput = functional_call(module, weights, (tokens, valid))
            return output.logits

        return completion_log_probs(
            logits_of, views, self.rollout.completions, temperature=self.training.temperature
        )


def _complete(
    denoiser: nn.Module, prompts: Sequence[Tensor], training: GRPOTraining, seed: int
) -> Generation:
    """One completion of each prompt, in one block: its views are then what decoding saw."""
    quick = denoiser
    if training.dtype != torch.float32:
        quick = copy.deepcopy(denoiser).to(training.dtype)
    return generate(
        UncoupledModel(quick, training.new_tokens),
        prompts,
        training.new_tokens,
        training.decoding_steps,
        block_length=training.new_tokens,
        selection=training.selection,
        sampler="latent",
        temperature=training.temperature,
        seed=seed,
        record_history=training.estimate == "trajectory",
    )


def _mean_reward(
    denoiser: nn.Module, task: RewardedPrompts, training: GRPOTraining, seed: int
) -> float:
    asked = torch.arange(min(len(task.prompts), training.validation_prompts))
    found = _complete(denoiser, [task.prompts[i] for i in asked.tolist()], training, seed)
    return float(task.reward(asked, found.completions).double().mean())


def _cast(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    # A cast copy of the weights runs the whole network in one type; it carries the gradient back.
    return {name: parameter.to(dtype) for name, parameter in module.named_parameters()}


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)
