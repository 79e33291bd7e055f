"""Likelihoods of completions by what the denoiser is shown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codd.decoding.loop import Generation, generate
from codd.decoding.uncoupled import UncoupledModel
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import ConfigError, DecodingError
from codd.training.policy import Rollout, Views, completion_log_probs, make_views

CATEGORIES, PROMPT, NEW = 7, 3, 6
MASK = CATEGORIES
DENOISER = TransformerDenoiser(
    TransformerConfig(CATEGORIES, max_length=PROMPT + NEW, width=16, num_layers=2, num_heads=2)
)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def written(steps: int = 3, lengths: tuple[int, ...] = (3, 3, 3, 3)) -> tuple[Rollout, Generation]:
    prompts = [torch.randint(CATEGORIES, (n,), generator=source(i)) for i, n in enumerate(lengths)]
    model = UncoupledModel(DENOISER, NEW)
    found = generate(
        model, prompts, NEW, steps, sampler="latent", record_history=True, log_probs=True
    )
    padded = torch.stack([torch.cat((torch.full((PROMPT - len(p),), MASK), p)) for p in prompts])
    valid = torch.stack([torch.arange(PROMPT) >= PROMPT - len(p) for p in prompts])
    return Rollout(padded, valid, found.completions, found.history), found


def logits_of(tokens: Tensor, valid: Tensor | None) -> Tensor:
    return DENOISER(tokens, valid).logits


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(3, 3, 3, 3), (3, 1, 2, 3)])
def test_a_trajectory_has_the_probability_it_was_written_with(lengths: tuple[int, ...]) -> None:
    rollout, found = written(lengths=lengths)
    views = make_views("trajectory", rollout, MASK, generator=source())
    assert len(views.tokens) == 3
    log_probs = completion_log_probs(logits_of, views, rollout.completions)
    torch.testing.assert_close(log_probs, found.log_probs, rtol=1e-4, atol=1e-5)


def test_one_step_hides_the_completion_and_some_of_the_prompt() -> None:
    prompts = torch.randint(CATEGORIES, (400, PROMPT), generator=source())
    rollout = Rollout(
        prompts, torch.ones_like(prompts, dtype=torch.bool), torch.zeros(400, NEW).long()
    )
    views = make_views("one_step", rollout, MASK, prompt_mask_ratio=0.25, generator=source())
    shown = views.tokens[0]
    assert len(views.tokens) == 1 and views.asked.all()
    assert (shown[:, PROMPT:] == MASK).all()
    hidden = shown[:, :PROMPT] == MASK
    assert torch.equal(shown[:, :PROMPT][~hidden], prompts[~hidden])
    assert 0.2 < hidden.float().mean() < 0.3


def test_complementary_views_ask_for_every_token_twice() -> None:
    rollout, _ = written()
    views = make_views("complementary", rollout, MASK, generator=source())
    hidden = views.tokens[:, :, PROMPT:] == MASK
    assert torch.equal(hidden, views.asked)
    assert torch.equal(hidden[0], ~hidden[1]) and hidden[2].all()
    assert hidden[0].any() and hidden[1].any()
    assert (views.asked.sum(dim=0) == 2).all()
    for shown, masked in zip(views.tokens, hidden, strict=True):
        assert torch.equal(shown[:, PROMPT:][~masked], rollout.completions[~masked])
        assert torch.equal(shown[:, :PROMPT], rollout.prompts)


@torch.no_grad()
def test_log_probs_are_the_mean_over_the_views_that_ask() -> None:
    rollout, _ = written()
    views = make_views("complementary", rollout, MASK, generator=source())
    found = completion_log_probs(logits_of, views, rollout.completions, temperature=2.0)
    for row, place in [(0, 0), (1, 3), (3, 5)]:
        asking = [m for m in range(3) if views.asked[m, row, place]]
        wanted = [
            (DENOISER(views.tokens[m]).logits[row, PROMPT + place] / 2).log_softmax(0)[
                rollout.completions[row, place]
            ]
            for m in asking
        ]
        assert len(wanted) == 2
        torch.testing.assert_close(found[row, place], torch.stack(wanted).mean())


@torch.no_grad()
def test_padding_is_not_attended_to() -> None:
    rollout, _ = written(lengths=(3, 1, 2, 3))
    views = make_views("one_step", rollout, MASK, generator=source())
    alone = Views(views.tokens[:, 1:2, 2:], views.asked[:, 1:2], views.valid[1:2, 2:])
    together = completion_log_probs(logits_of, views, rollout.completions)
    single = completion_log_probs(logits_of, alone, rollout.completions[1:2])
    torch.testing.assert_close(together[1:2], single, rtol=1e-4, atol=1e-5)


def test_a_trajectory_needs_its_history() -> None:
    rollout, _ = written()
    bare = Rollout(rollout.prompts, rollout.valid, rollout.completions)
    with pytest.raises(ConfigError, match="needs the history"):
        make_views("trajectory", bare, MASK, generator=source())
    with pytest.raises(ConfigError, match="estimate: expected one of"):
        make_views("exact", bare, MASK, generator=source())  # type: ignore[arg-type]


def test_a_denoiser_alone_has_no_coupling() -> None:
    with pytest.raises(DecodingError, match="block: expected 1 to 9, found 10"):
        UncoupledModel(DENOISER, 10)
    with pytest.raises(DecodingError, match="coupling: expected 'factorised'"):
        generate(UncoupledModel(DENOISER, NEW), [torch.tensor([1])], NEW, 2, coupling="copula")
