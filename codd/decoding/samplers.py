"""How the tokens of one step are drawn from the distribution over a window.

Every sampler works on all rows at once, gives exactly the ordinary parallel decoding when the
distribution is factorised, and calls no denoiser.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.conditioner import TokenConditioner
from codd.coupling.distribution import (
    CoupledDistribution,
    FactorisedDistribution,
    TokenDistribution,
)
from codd.coupling.rowwise import RowwiseDistribution
from codd.coupling.stepper import SteppedDistribution
from codd.decoding.selection import score, select
from codd.errors import DecodingError


@dataclass(frozen=True)
class SamplingRule:
    """How to choose positions and how sharply to draw their tokens.

    Attributes:
        selection: A name in `SELECTIONS`.
        temperature: Divides log-probabilities; 0 takes the most likely token.
        top_p: Draws from the smallest set of tokens that holds this much probability after the
            temperature is applied; None draws from all. Only `any_order` can apply it.
    """

    selection: str = "low_confidence"
    temperature: float = 1.0
    top_p: float | None = None


@dataclass(frozen=True, eq=False)
class Commitment:
    """What a sampler fixed.

    Attributes:
        tokens: (B, W) int64; meaningful where chosen.
        chosen: (B, W) bool, True where a token was fixed.
    """

    tokens: Tensor
    chosen: Tensor


Sampler = Callable[["TokenDistribution", Tensor, Tensor, SamplingRule, torch.Generator], Commitment]


def exact(
    distribution: TokenDistribution,
    candidates: Tensor,
    counts: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> Commitment:
    """Draws the whole window jointly, once, and keeps the chosen positions.

    The temperature is 1: a sharper joint cannot be drawn exactly.

    Args:
        distribution: Over the W tokens of each row's window.
        candidates: (B, W) bool, positions that may be fixed.
        counts: (B,) int64, how many to fix.
        rule: Which positions; its temperature and top-p do not count.
        generator: Source of positions and tokens.

    Returns:
        The chosen positions and their tokens.
    """
    return _draw_window(distribution, candidates, counts, rule, 1.0, generator)


def latent(
    distribution: TokenDistribution,
    candidates: Tensor,
    counts: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> Commitment:
    """Draws the circuit's latent choices exactly, then each token with its temperature.

    Latent-variable sampling of Li et al. 2026 (arXiv 2603.00045).

    Args:
        distribution: Over the W tokens of each row's window.
        candidates: (B, W) bool, positions that may be fixed.
        counts: (B,) int64, how many to fix.
        rule: Which positions, and the temperature; its top-p does not count.
        generator: Source of positions, latent choices and tokens.

    Returns:
        The chosen positions and their tokens.
    """
    return _draw_window(distribution, candidates, counts, rule, rule.temperature, generator)


def any_order(
    distribution: TokenDistribution,
    candidates: Tensor,
    counts: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> Commitment:
    """Fixes tokens one by one, each from its exact conditional given those already fixed.

    The position with the best score is next, by the exact marginals given the tokens so far; a
    selection that asks for no marginals needs those of its position alone. Any-order autoregressive
    sampling of Li et al. 2026 (arXiv 2603.00045). At temperature 1 without top-p the tokens follow
    the joint distribution exactly, in whatever order.

    Args:
        distribution: Over the W tokens of each row's window.
        candidates: (B, W) bool, positions that may be fixed.
        counts: (B,) int64, how many to fix.
        rule: Which positions, temperature and top-p.
        generator: Source of positions and tokens.

    Returns:
        The chosen positions and their tokens.
    """
    counts = torch.minimum(counts, candidates.sum(dim=1))
    tokens, chosen = distribution.values, torch.zeros_like(candidates)
    most = int(counts.max()) if counts.numel() else 0
    if not most:
        return Commitment(tokens=tokens, chosen=chosen)
    conditioner = distribution.conditioner()
    for turn in range(most):
        allowed, wanted = candidates & ~chosen, turn < counts
        following, drawn = _draw_one(conditioner, allowed, wanted, rule, generator)
        conditioner.fix(following.byte().argmax(dim=1), drawn, wanted)
        tokens = torch.where(following, drawn.unsqueeze(1), tokens)
        chosen = chosen | following
    return Commitment(tokens=tokens, chosen=chosen)


def most_probable(
    distribution: TokenDistribution,
    candidates: Tensor,
    counts: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> Commitment:
    """Takes the window's most probable tokens together and keeps the chosen positions.

    The Viterbi path, and a climb from it and from the marginals' modes to the best sum over latent
    paths that is found (`pcircuits.queries.map`); exact for factorised and deterministic circuits.

    Args:
        distribution: Over the W tokens of each row's window.
        candidates: (B, W) bool, positions that may be fixed.
        counts: (B,) int64, how many to fix.
        rule: Which positions; its temperature and top-p do not count.
        generator: Source of positions and of the climb's restarts.

    Returns:
        The chosen positions and their tokens.

    Raises:
        DecodingError: If the distribution is neither factorised nor a circuit's.
    """
    tokens = _modes(distribution, generator)
    return Commitment(tokens, _chosen(distribution, candidates, counts, rule, generator))


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {"exact": exact, "latent": latent, "any_order": any_order, "map": most_probable}
)


def draw(
    probabilities: Tensor, temperature: float, top_p: float | None, generator: torch.Generator
) -> Tensor:
    """Draws one token a row, with temperature and nucleus truncation.

    Args:
        probabilities: (B, V), rows sum to 1.
        temperature: Divides log-probabilities; 0 takes the most likely token.
        top_p: Keeps the smallest set of tokens that holds this much probability after the
            temperature is applied (Holtzman et al. 2020, arXiv 1904.09751); None keeps all.
        generator: Source of the tokens.

    Returns:
        (B,) int64.
    """
    if temperature == 0.0:
        return probabilities.argmax(dim=1)
    # In float32 the noise of a draw has too few values and sharpens it (arXiv 2409.02908).
    weights = probabilities.double()
    if temperature != 1.0:
        weights = torch.softmax(weights.log() / temperature, dim=1)
    if top_p is not None and top_p < 1.0:
        weights = _nucleus(weights, top_p)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def _modes(distribution: TokenDistribution, generator: torch.Generator) -> Tensor:
    """(B, W) the most probable tokens of each window that are found."""
    if isinstance(distribution, RowwiseDistribution):
        return distribution.joined(lambda part, _: _modes(part, generator))
    if isinstance(distribution, FactorisedDistribution):
        return distribution.sample(1, temperature=0.0, generator=generator)[:, 0]
    if isinstance(distribution, CoupledDistribution):
        return pc.queries.map(
            distribution.plan, distribution.parameters, distribution.evidence, generator=generator
        ).values
    raise DecodingError(
        f"sampler 'map': expected a circuit's distribution, found {type(distribution).__name__}"
    )


def _draw_one(
    conditioner: TokenConditioner,
    candidates: Tensor,
    wanted: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The best candidate (B, W) of each row in which one is wanted (B,), and its token (B,)."""
    asked: list[Tensor] = []

    def marginals() -> Tensor:
        asked.append(conditioner.marginals(candidates & wanted[:, None]))  # (B, W, V)
        return asked[0]

    scores = score(rule.selection, marginals, candidates, generator)
    following = select(scores, candidates, wanted.long())
    position = following.byte().argmax(dim=1)
    if asked:
        every = torch.arange(len(position), device=position.device)
        conditional = asked[0][every, position]
    else:
        conditional = conditioner.marginal(position, wanted)
    # Rows that have all their tokens draw one too, of no use: each row has its own random numbers.
    conditional = conditional.masked_fill(~wanted[:, None], 1.0)
    return following, draw(conditional, rule.temperature, rule.top_p, generator)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(1, order, kept)


def _draw_window(
    distribution: TokenDistribution,
    candidates: Tensor,
    counts: Tensor,
    rule: SamplingRule,
    temperature: float,
    generator: torch.Generator,
) -> Commitment:
    chosen = _chosen(distribution, candidates, counts, rule, generator)
    tokens = distribution.sample(1, temperature=temperature, generator=generator)[:, 0]
    return Commitment(tokens=tokens, chosen=chosen)


def _chosen(
    distribution: TokenDistribution,
    candidates: Tensor,
    counts: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> Tensor:
    """(B, W) bool, the best `counts` (B,) of the candidates."""
    # To know whether all are chosen takes a wait for the device, which saves the marginals where
    # they are not there yet.
    known = isinstance(distribution, SteppedDistribution)
    if not known and not bool((counts < candidates.sum(dim=1)).any()):
        return candidates
    scores = score(rule.selection, distribution.marginals, candidates, generator)
    return select(scores, candidates, counts)
