"""Group-relative policy optimisation: its formulas by hand, its gradient, and whether it learns."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, ConfigError
from codd.training import grpo
from codd.training.grpo import group_advantages, policy_loss, train_grpo
from codd.training.grpo_config import GRPOTraining, RewardedPrompts
from codd.training.policy import ESTIMATES
from codd.training.run_state import Outcome
from codd.training.schedule import Schedule
from tests.support.interrupt import interrupt_during

CATEGORIES, NEW = 6, 4
CONFIG = TransformerConfig(CATEGORIES, max_length=8, width=16, num_layers=1, num_heads=2)
TRAINING = GRPOTraining(
    NEW, 2, prompts_per_step=4, group_size=8, learning_rate=2e-2, validation_prompts=32
)
SCHEDULE = Schedule(
    30, warmup_steps=2, final_fraction=1.0, ema_decay=0.0, validate_every=15, checkpoint_every=10
)
PROMPTS = [torch.tensor([i % CATEGORIES] * (1 + i % 3)) for i in range(32)]


def copies(which: Tensor, completions: Tensor) -> Tensor:
    """The share of a completion that repeats the prompt."""
    wanted = torch.stack([PROMPTS[i][0] for i in which.tolist()])
    return (completions == wanted[:, None]).double().mean(dim=1)


TASK = RewardedPrompts(PROMPTS, copies)


def tune(folder: Path, schedule: Schedule = SCHEDULE, **changes: Any) -> tuple[Any, Outcome]:
    denoiser = TransformerDenoiser(CONFIG, seed=1).eval()
    resume = changes.pop("resume", False)
    training = dataclasses.replace(TRAINING, **changes)
    outcome = train_grpo(
        denoiser,
        TASK,
        TASK,
        training,
        schedule,
        folder,
        {"kind": "test"},
        resume=resume,
        show_progress=False,
    )
    return denoiser, outcome


def test_advantages_are_standard_scores_within_a_group() -> None:
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 3.0, 1.0], [2.0] * 4]))
    deviation = math.sqrt((1 + 1 + 4 + 0) / 4)
    wanted = [[1, -1, -1, 1], [-1 / deviation, -1 / deviation, 2 / deviation, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_the_loss_is_what_its_formula_says_token_by_token() -> None:
    source = torch.Generator().manual_seed(0)
    new, old, reference = (torch.rand(3, 5, generator=source).double() - 1 for _ in range(3))
    advantages = torch.tensor([1.0, -2.0, 0.5]).double()
    training = dataclasses.replace(TRAINING, clip=0.1, kl_weight=0.3)
    total = 0.0
    for i in range(3):
        for j in range(5):
            ratio = math.exp(new[i, j] - old[i, j])
            clipped = min(max(ratio, 0.9), 1.1)
            gain = min(ratio * advantages[i].item(), clipped * advantages[i].item())
            apart = (reference[i, j] - new[i, j]).item()
            total -= gain - 0.3 * (math.exp(apart) - apart - 1)
    found = policy_loss(new, old, reference, advantages, training)
    assert found.item() == pytest.approx(total / 15, abs=1e-12)


def test_nothing_is_gained_beyond_the_clip() -> None:
    old = torch.zeros(1, 4)
    new = torch.tensor([[0.5, -0.5, 0.1, -0.1]], requires_grad=True)  # ratios 1.65, .61, 1.11, .90
    training = dataclasses.replace(TRAINING, clip=0.2, kl_weight=0.0)
    for advantage, free in ((1.0, [False, True, True, True]), (-1.0, [True, False, True, True])):
        loss = policy_loss(new, old, old, torch.tensor([advantage]), training)
        (gradient,) = torch.autograd.grad(loss, new)
        assert (gradient[0] != 0).tolist() == free
        moving = torch.tensor(free)
        torch.testing.assert_close(gradient[0][moving], (-advantage * new.exp() / 4)[0][moving])


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_the_gradient_is_the_score_times_the_advantage(estimate: str) -> None:
    """For one update a batch: minus the mean of advantage x (one-hot - probability)."""
    denoiser = TransformerDenoiser(CONFIG, seed=1).double()
    training = dataclasses.replace(TRAINING, estimate=estimate, kl_weight=0.0, prompt_mask_ratio=0)
    tuner = grpo._Tuner(denoiser, TASK, training, 0)
    loss = tuner.loss_at(0)
    (found,) = torch.autograd.grad(loss, denoiser.head.bias)
    rollout, mask = tuner.rollout, denoiser.mask_id
    wanted, count = torch.zeros(CATEGORIES).double(), rollout.completions.numel()
    views = grpo.make_views(
        training.estimate, rollout, mask, generator=_after_writing(tuner, training)
    )
    asked_of = views.asked.sum(dim=0)
    for shown, asked in zip(views.tokens, views.asked, strict=True):
        probability = denoiser(shown, views.valid).logits[:, -NEW:].softmax(dim=-1).detach()
        score = torch.nn.functional.one_hot(rollout.completions, CATEGORIES) - probability
        weight = tuner.advantages[:, None] * asked / asked_of
        wanted -= (weight[..., None] * score).sum(dim=(0, 1)) / count
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def _after_writing(tuner: Any, training: GRPOTraining) -> torch.Generator:
    """The generator of step 0 as it is once the completions are written."""
    generator = torch.Generator().manual_seed(grpo.step_seed(0, 0))
    torch.randint(len(PROMPTS), (training.prompts_per_step,), generator=generator)
    torch.randint(2**62, (), generator=generator)
    return generator


def test_advantages_belong_to_their_completions(tmp_path: Path) -> None:
    tuner = grpo._Tuner(TransformerDenoiser(CONFIG, seed=1), TASK, TRAINING, 0)
    tuner.loss_at(0)
    rollout = tuner.rollout
    wanted = rollout.prompts[:, -1]  # every token of a prompt is the same
    rewards = (rollout.completions == wanted[:, None]).float().mean(dim=1).view(4, 8)
    assert all(len(set(group.tolist())) == 1 for group in wanted.view(4, 8))
    torch.testing.assert_close(tuner.advantages, group_advantages(rewards).flatten())


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_the_reward_grows(tmp_path: Path, estimate: str) -> None:
    first = TransformerDenoiser(CONFIG, seed=1).eval()
    before = -grpo._mean_reward(first, TASK, TRAINING, 0)
    _, outcome = tune(tmp_path, dataclasses.replace(SCHEDULE, steps=25), estimate=estimate)
    assert before > -0.35  # about 1 / 6 by chance
    assert outcome.history[-1].valid_loss < -0.6


def test_a_heavy_divergence_keeps_the_denoiser_where_it_was(tmp_path: Path) -> None:
    start = TransformerDenoiser(CONFIG, seed=1).eval()
    tokens = torch.full((1, 8), start.mask_id)
    moved = []
    for weight in (0.0, 100.0):
        short = dataclasses.replace(SCHEDULE, steps=10)
        tuned, _ = tune(tmp_path / str(weight), short, kl_weight=weight, learning_rate=1e-2)
        own, old = (m(tokens).logits.detach().log_softmax(-1) for m in (tuned, start))
        moved.append(float((old.exp() * (old - own)).sum(-1).mean()))
    assert moved[1] < 0.2 * moved[0]


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    short = dataclasses.replace(SCHEDULE, steps=10, validate_every=5, checkpoint_every=6)
    whole, first = tune(tmp_path / "whole", short, inner_updates=2)
    with monkeypatch.context() as patch:
        interrupt_during(patch, grpo, stop_at)
        _, part = tune(tmp_path / "part", short, inner_updates=2)
    assert part.step == 2 * (stop_at // 2 + 1)  # the end of a batch of completions
    resumed, second = tune(tmp_path / "part", short, inner_updates=2, resume=True)
    assert second.step == 10
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [e.valid_loss for e in first.history] == [e.valid_loss for e in second.history]


def test_the_first_of_several_updates_starts_from_a_ratio_of_one(tmp_path: Path) -> None:
    denoiser = TransformerDenoiser(CONFIG, seed=1)
    training = dataclasses.replace(TRAINING, inner_updates=2, kl_weight=0.0)
    tuner = grpo._Tuner(denoiser, TASK, training, 0)
    assert tuner.loss_at(0).item() == pytest.approx(-tuner.advantages.mean().item(), abs=1e-6)
    written = tuner.rollout
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(1.1)
    second = tuner.loss_at(1)
    assert tuner.rollout is written
    assert second.item() != pytest.approx(-tuner.advantages.mean().item(), abs=1e-4)


def test_bfloat16_learns_float32_weights(tmp_path: Path) -> None:
    tuned, outcome = tune(tmp_path, dataclasses.replace(SCHEDULE, steps=20), precision="bfloat16")
    assert {p.dtype for p in tuned.parameters()} == {torch.float32}
    assert outcome.history[-1].valid_loss < -0.35


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size: expected at least 2, found 1"),
        ({"temperature": 0.0}, "temperature: expected a positive number"),
        ({"clip": 0.0}, "clip: expected a positive number"),
        ({"kl_weight": -1.0}, "kl_weight: expected 0 or more"),
        ({"prompt_mask_ratio": 1.0}, "prompt_mask_ratio: expected at least 0 and below 1"),
        ({"estimate": "elbo"}, "estimate: expected one of"),
        ({"precision": "float16"}, "precision: expected one of"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TRAINING, **changes)


def test_a_run_that_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint_every: expected a multiple of inner_updates"):
        tune(tmp_path, inner_updates=3)
    with pytest.raises(ConfigError, match="prompts: expected at least one"):
        RewardedPrompts([], copies)
    tune(tmp_path, dataclasses.replace(SCHEDULE, steps=1))
    with pytest.raises(CheckpointError, match=r"training\.clip"):
        tune(tmp_path, dataclasses.replace(SCHEDULE, steps=1), clip=0.3, resume=True)


def test_the_denoiser_given_is_the_reference(tmp_path: Path) -> None:
    tuned, _ = tune(tmp_path, dataclasses.replace(SCHEDULE, steps=2))
    assert not any(p.requires_grad for p in tuned.parameters())
    assert not torch.equal(
        tuned.head.weight, copy.deepcopy(TransformerDenoiser(CONFIG, seed=1)).head.weight
    )
