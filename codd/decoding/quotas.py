"""How many of the best-scored positions one step commits, as objects.

A count rule (see `schedules`) says a number beforehand; an adaptive rule looks at what the step's
distribution says and commits at least one token a row, so no region takes more steps than tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from codd.coupling.distribution import TokenDistribution
from codd.errors import DecodingError


@dataclass(frozen=True, eq=False)
class QuotaView:
    """What an adaptive rule may look at.

    Attributes:
        distribution: Over the W tokens of each row's window.
        single: Gives its (B, W, V) marginals; called when they are needed.
        candidates: (B, W) bool, positions that may be fixed.
        scores: (B, W), the best come first.
        previous: (B, W, V) marginals at the step before in the same window; None at the first.
    """

    distribution: TokenDistribution
    single: Callable[[], Tensor]
    candidates: Tensor
    scores: Tensor
    previous: Tensor | None = None

    @cached_property
    def marginals(self) -> Tensor:
        """(B, W, V) single-token posteriors."""
        return self.single()

    @cached_property
    def confidences(self) -> Tensor:
        """(B, W) probability of the likeliest token."""
        return self.marginals.amax(dim=-1)

    @cached_property
    def entropies(self) -> Tensor:
        """(B, W) entropies in nats."""
        entropies: Tensor = torch.special.entr(self.marginals).sum(dim=-1)
        return entropies

    @cached_property
    def order(self) -> Tensor:
        """(B, W) positions, candidates first, of these the best first."""
        best = self.scores.argsort(dim=-1, descending=True, stable=True)
        eligible = self.candidates.gather(1, best).byte()
        return best.gather(1, eligible.argsort(dim=-1, descending=True, stable=True))


class AdaptiveQuota(Protocol):
    """A rule that reads the number of tokens off the distribution."""

    def choose(self, view: QuotaView) -> Tensor:
        """(B, W) bool, the candidates to commit now; at least one in a row that has any."""


@dataclass(frozen=True)
class Threshold:
    """Commits every token whose probability is at least a threshold, or else the best one.

    Fast-dLLM (Wu et al. 2025, arXiv 2505.22618).

    Attributes:
        probability: In (0, 1].
    """

    probability: float = 0.9

    def __post_init__(self) -> None:
        _within("threshold", self.probability, 0.0, 1.0)

    def choose(self, view: QuotaView) -> Tensor:
        """See `AdaptiveQuota`."""
        return _at_least_one(view, view.candidates & (view.confidences >= self.probability))


@dataclass(frozen=True)
class Factor:
    """Commits the n best while (n + 1) (1 - the n-th probability) < f, at least one.

    The largest number of tokens whose parallel argmax still equals the joint's, scaled
    (Fast-dLLM, arXiv 2505.22618, theorem 1).

    Attributes:
        factor: f, above 0.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        _within("factor", self.factor, 0.0, float("inf"))

    def choose(self, view: QuotaView) -> Tensor:
        """See `AdaptiveQuota`."""
        doubts = 1 - view.confidences.gather(1, view.order)
        number = torch.arange(1, doubts.shape[1] + 1, device=doubts.device)
        return _prefix(view, (number + 1) * doubts < self.factor)


@dataclass(frozen=True)
class EntropyBound:
    """Commits the longest prefix of the order whose entropies, less the largest, stay in a bound.

    EB-Sampler (Ben-Hamu et al. 2025, arXiv 2505.24857): sum - max bounds the total correlation of
    the committed tokens from above, by their entropies alone.

    Attributes:
        bound: In nats, at least 0.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        _within("entropy_bound", self.bound, -1.0, float("inf"))

    def choose(self, view: QuotaView) -> Tensor:
        """See `AdaptiveQuota`."""
        ordered = view.entropies.gather(1, view.order)
        excess = ordered.cumsum(dim=1) - ordered.cummax(dim=1).values
        return _prefix(view, excess <= self.bound)


@dataclass(frozen=True)
class Klass:
    """Commits confident tokens whose distribution has settled since the last step, or the best.

    KL-adaptive stability sampling (Kim et al. 2025, arXiv 2511.05664) with a history of one step.

    Attributes:
        divergence: Largest KL divergence of the marginal from that of the step before, in nats.
        probability: Least probability of the likeliest token.
    """

    divergence: float = 0.01
    probability: float = 0.6

    def __post_init__(self) -> None:
        _within("klass divergence", self.divergence, 0.0, float("inf"))
        _within("klass probability", self.probability, 0.0, 1.0)

    def choose(self, view: QuotaView) -> Tensor:
        """See `AdaptiveQuota`."""
        if view.previous is None:
            return _at_least_one(view, torch.zeros_like(view.candidates))
        settled = divergence(view.marginals, view.previous) <= self.divergence
        confident = view.confidences >= self.probability
        return _at_least_one(view, view.candidates & settled & confident)


@dataclass(frozen=True)
class TotalCorrelation:
    """Commits tokens, best first, while their dependence under the exact joint stays in a budget.

    A token that would exceed it is passed over, so the set is as large as a greedy one can be. The
    dependence of a set is the sum of its pairs' exact mutual informations (the total correlation's
    first-order part, which the factorised output cannot tell). For a factorised distribution every
    set is free and everything is committed at once. Cost: the circuit's pairwise query
    (`pcircuits.queries.mutual_information`) at every step, far more than its marginals.

    Attributes:
        budget: ε in nats, at least 0.
    """

    budget: float = 0.5

    def __post_init__(self) -> None:
        _within("total_correlation", self.budget, -1.0, float("inf"))

    def choose(self, view: QuotaView) -> Tensor:
        """See `AdaptiveQuota`."""
        dependence = view.distribution.mutual_information()  # (B, W, W)
        rows = torch.arange(len(view.order), device=view.order.device)
        chosen = torch.zeros_like(view.candidates)
        spent = dependence.new_zeros(len(rows))
        for place in range(int(view.candidates.sum(dim=1).max())):
            position = view.order[:, place]
            after = spent + (dependence[rows, position] * chosen).sum(dim=1)
            taken = view.candidates[rows, position] & (after <= self.budget)
            chosen[rows, position] |= taken
            spent = torch.where(taken, after, spent)
        return _at_least_one(view, chosen)


QUOTAS: Mapping[str, Callable[..., AdaptiveQuota]] = MappingProxyType(
    {
        "threshold": Threshold,
        "factor": Factor,
        "entropy_bound": EntropyBound,
        "klass": Klass,
        "total_correlation": TotalCorrelation,
    }
)


def quota_from_text(text: str) -> AdaptiveQuota:
    """Reads a rule such as "threshold=0.9", "klass=0.01,0.6" or "entropy_bound".

    Args:
        text: A name in `QUOTAS`, with its numbers in order if others than the default are wanted.

    Raises:
        DecodingError: If the name is unknown, or the numbers are too many, impossible or none.
    """
    name, _, numbers = text.partition("=")
    if name not in QUOTAS:
        listed = ", ".join(repr(known) for known in QUOTAS)
        raise DecodingError(f"quota: expected one of {listed}, found {text!r}")
    try:
        values = [float(number) for number in numbers.split(",")] if numbers else []
    except ValueError as error:
        raise DecodingError(f"quota: expected numbers after {name!r}, found {text!r}") from error
    most = len(fields(QUOTAS[name]))  # type: ignore[arg-type]
    if len(values) > most:
        raise DecodingError(
            f"quota: expected at most {most} numbers after {name!r}, found {text!r}"
        )
    return QUOTAS[name](*values)


def divergence(marginals: Tensor, before: Tensor) -> Tensor:
    """(B, W) KL(now || before) of (B, W, V) marginals in nats."""
    floor = torch.finfo(before.dtype).tiny
    cross = marginals * before.clamp(min=floor).log()
    gap: Tensor = -torch.special.entr(marginals).sum(dim=-1) - cross.sum(dim=-1)
    return gap


def _prefix(view: QuotaView, fits: Tensor) -> Tensor:
    """The longest prefix of the order (B, W) all of whose places fit."""
    kept = fits.byte().cumprod(dim=1).bool()
    chosen = torch.zeros_like(view.candidates).scatter(1, view.order, kept)
    return _at_least_one(view, chosen & view.candidates)


def _at_least_one(view: QuotaView, chosen: Tensor) -> Tensor:
    """Adds the best candidate where none is chosen."""
    first = torch.zeros_like(chosen).scatter(1, view.order[:, :1], True) & view.candidates
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, first)


def _within(name: str, found: float, above: float, most: float) -> None:
    if not above < found <= most or found == float("inf") or (above < 0 and found < 0):
        least = "at least 0" if above < 0 else f"above {above:g}"
        limit = "" if most == float("inf") else f" and at most {most:g}"
        raise DecodingError(f"{name}: expected a finite number {least}{limit}, found {found}")
