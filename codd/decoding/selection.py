"""Which masked positions to fix: scores from single-token marginals, and the best n per row."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


def low_confidence(marginals: Tensor) -> Tensor:
    """Scores a position by the probability of its most likely token.

    Named after the rule of LLaDA (Nie et al. 2025, arXiv 2502.09992), which keeps masked what it
    is least confident of.

    Args:
        marginals: (B, W, V) probabilities.

    Returns:
        (B, W) scores.
    """
    return marginals.amax(dim=-1)


def margin(marginals: Tensor) -> Tensor:
    """Scores a position by how far its most likely token is ahead of the second.

    Args:
        marginals: (B, W, V) probabilities.

    Returns:
        (B, W) scores.
    """
    if marginals.shape[-1] == 1:
        return marginals[..., 0]
    best = marginals.topk(2, dim=-1).values
    lead: Tensor = best[..., 0] - best[..., 1]
    return lead


def entropy(marginals: Tensor) -> Tensor:
    """Scores a position by minus the entropy of its token, in nats.

    Args:
        marginals: (B, W, V) probabilities.

    Returns:
        (B, W) scores.
    """
    surprise: Tensor = torch.special.entr(marginals).sum(dim=-1)
    return -surprise


RANDOM, LEFT_TO_RIGHT = "random", "left_to_right"
CONFIDENCES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"low_confidence": low_confidence, "margin": margin, "entropy": entropy}
)
SELECTIONS = (RANDOM, *CONFIDENCES, LEFT_TO_RIGHT)


def score(
    selection: str,
    marginals: Callable[[], Tensor],
    candidates: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Scores positions; the best are fixed first.

    Args:
        selection: One of `SELECTIONS`; "random" puts positions in uniformly random order,
            "left_to_right" in that of an autoregressive model.
        marginals: Gives (B, W, V) probabilities; called for a confidence alone.
        candidates: (B, W), for the shape.
        generator: Source of random orders.

    Returns:
        (B, W) scores.
    """
    if selection == RANDOM:
        return torch.rand(candidates.shape, generator=generator, device=candidates.device)
    if selection == LEFT_TO_RIGHT:
        places = torch.arange(candidates.shape[1], device=candidates.device)
        return -places.double().expand(candidates.shape)
    return CONFIDENCES[selection](marginals())


def select(scores: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """Picks the best-scored candidates, a number of its own for each row.

    Args:
        scores: (B, W); of equal scores the leftmost wins.
        candidates: (B, W) bool, positions that may be picked.
        counts: (B,) int64, how many to pick; all candidates of the row when there are fewer.

    Returns:
        (B, W) bool, True where picked.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    # Candidates come first whatever their scores, so even an infinite score cannot displace one.
    eligible = candidates.gather(1, order).byte()
    order = order.gather(1, eligible.argsort(dim=1, descending=True, stable=True))
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < counts.unsqueeze(1)) & candidates
