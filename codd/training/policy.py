"""How likely a masked diffusion model makes the completions it has written, token by token.

The likelihood itself is a sum over all orders. What stands in for it is a mean over a few views: a
view hides some tokens and asks the denoiser for them, all at once.

- "one_step": the whole completion is hidden and every token of the prompt with a small probability
  (diffu-GRPO; Zhao et al. 2025, arXiv 2504.12216).
- "complementary": a random part of the completion is hidden, then the rest, then all of it; every
  token is seen twice, once in a partial context (coupled-GRPO; Gong et al. 2025, arXiv 2506.20639).
- "trajectory": what was hidden when the token was written. Given the order this is the probability
  that it was written with, not an estimate (CJ-GRPO; Yang et al. 2025, arXiv 2509.23924).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from codd.decoding.records import StepRecord
from codd.errors import ConfigError

Estimate = Literal["one_step", "complementary", "trajectory"]
ESTIMATES: tuple[Estimate, ...] = ("one_step", "complementary", "trajectory")


@dataclass(frozen=True, eq=False)
class Rollout:
    """Completions as a model wrote them.

    Attributes:
        prompts: (B, P) ids, padded on the left with the mask id.
        valid: (B, P) bool, False at padding.
        completions: (B, N) ids.
        history: The state after each step of decoding; needed by "trajectory" alone.
    """

    prompts: Tensor
    valid: Tensor
    completions: Tensor
    history: tuple[StepRecord, ...] = ()


@dataclass(frozen=True, eq=False)
class Views:
    """What the denoiser is shown, and which tokens it is asked for.

    Attributes:
        tokens: (M, B, P + N) ids with the mask id where hidden.
        asked: (M, B, N) bool, every token of the completion in at least one view.
        valid: (B, P + N) bool, False at padding.
    """

    tokens: Tensor
    asked: Tensor
    valid: Tensor


def make_views(
    estimate: Estimate,
    rollout: Rollout,
    mask_id: int,
    *,
    prompt_mask_ratio: float = 0.0,
    generator: torch.Generator,
) -> Views:
    """Chooses what to hide.

    Args:
        estimate: One of `ESTIMATES`.
        rollout: B completions.
        mask_id: The id of a masked token.
        prompt_mask_ratio: Probability of hiding a token of the prompt; "one_step" only.
        generator: Source of the masks, on the CPU.

    Raises:
        ConfigError: If there is no such estimate, or it needs a history that is not there.
    """
    prompts, completions = rollout.prompts, rollout.completions
    everything = torch.ones_like(completions, dtype=torch.bool)
    if estimate == "one_step":
        drawn = torch.rand(prompts.shape, generator=generator).to(prompts.device)
        prompts = prompts.masked_fill(drawn < prompt_mask_ratio, mask_id)
        hidden = asked = everything[None]
    elif estimate == "complementary":
        hidden = asked = torch.stack((*_halves(completions, generator), everything))
    elif estimate == "trajectory":
        hidden, asked = _written(rollout, mask_id)
    else:
        raise ConfigError(f"estimate: expected one of {ESTIMATES}, found {estimate!r}")
    shown = completions.masked_fill(hidden, mask_id)  # (M, B, N)
    before = prompts.expand(len(shown), -1, -1)
    return Views(
        tokens=torch.cat((before, shown), dim=2),
        asked=asked,
        valid=torch.cat((rollout.valid, everything), dim=1),
    )


def completion_log_probs(
    logits_of: Callable[[Tensor, Tensor | None], Tensor],
    views: Views,
    completions: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """The mean log-probability of every token over the views that ask for it.

    Args:
        logits_of: (B, L) ids, (B, L) bool or None without padding -> logits (B, L, V).
        views: What to show.
        completions: (B, N) the ids asked for.
        temperature: Divides the logits, as when the completions were drawn.

    Returns:
        (B, N) nats.
    """
    length = completions.shape[1]
    attention = None if bool(views.valid.all()) else views.valid
    total = torch.zeros((), device=completions.device)
    for tokens, asked in zip(views.tokens, views.asked, strict=True):
        logits = logits_of(tokens, attention)[:, -length:] / temperature
        found = logits.log_softmax(dim=-1).gather(2, completions[..., None]).squeeze(2)
        total = total + found.masked_fill(~asked, 0.0)
    return total / views.asked.sum(dim=0)


def _halves(completions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random mask of each row, of a ratio drawn from (0.2, 0.8), and its complement."""
    ratio = 0.2 + 0.6 * torch.rand(len(completions), 1, generator=generator)
    first = torch.rand(completions.shape, generator=generator) < ratio
    first = first.to(completions.device)
    return first, ~first


def _written(rollout: Rollout, mask_id: int) -> tuple[Tensor, Tensor]:
    """(M, B, N) what was masked before each step, and what the step wrote."""
    if not rollout.history:
        raise ConfigError("estimate: 'trajectory' needs the history of the rollout, found none")
    after = torch.stack([record.tokens == mask_id for record in rollout.history])
    before = torch.cat((torch.ones_like(after[:1]), after[:-1]))
    return before, before & ~after
