"""How many of the best-scored positions one step commits, as objects.

A count rule (see `schedules`) says a number beforehand; an adaptive rule looks at what the step's
distribution says and commits at least one token a row, so no region takes more steps than tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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
        best = self.scores.argsort(dim=1, descending=True, stable=True)
        eligible = self.candidates.gather(1, best).byte()
        return best.gather(1, eligible.argsort(dim=1, descending=True, stable=True))


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

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> for share in (0.01, 1.0):  # all at once, and the best one at each call
        ...     rule = codd.Threshold(share)
        ...     found = codd.generate(model, prompts, 8, quota=rule, coupling="factorised")
        ...     print(found.denoiser_calls, found.tokens_per_forward)
        1 8.0
        8 1.0
    """

    probability: float = 0.9

    def __post_init__(self) -> None:
        _check_share("threshold", self.probability)

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

    Examples:
        As a text it is "factor=1":

        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> found, same = (
        ...     codd.generate(model, prompts, 8, quota=quota, coupling="factorised")
        ...     for quota in (codd.Factor(1.0), "factor=1")
        ... )
        >>> torch.equal(found.completions, same.completions)
        True
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("factor", self.factor)

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

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> for bound in (0.1, 50.0):  # nats a call
        ...     rule = codd.EntropyBound(bound)
        ...     found = codd.generate(model, prompts, 8, quota=rule, coupling="factorised")
        ...     print(found.denoiser_calls)
        8
        1
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        check_nats("entropy_bound", self.bound)

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

    Examples:
        As a text it is "klass=0.01,0.6":

        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> found, same = (
        ...     codd.generate(model, prompts, 8, quota=quota, coupling="factorised")
        ...     for quota in (codd.Klass(divergence=0.01, probability=0.6), "klass=0.01,0.6")
        ... )
        >>> torch.equal(found.completions, same.completions)
        True
    """

    divergence: float = 0.01
    probability: float = 0.6

    def __post_init__(self) -> None:
        _check_positive("klass divergence", self.divergence)
        _check_share("klass probability", self.probability)

    def choose(self, view: QuotaView) -> Tensor:
        """See `AdaptiveQuota`."""
        if view.previous is None:
            return _at_least_one(view, torch.zeros_like(view.candidates))
        settled = divergence(view.marginals, view.previous) <= self.divergence
        confident = view.confidences >= self.probability
        return _at_least_one(view, view.candidates & settled & confident)


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


def check_nats(name: str, found: float) -> None:
    """Checks a bound in nats.

    Raises:
        DecodingError: If it is no finite number of at least 0.
    """
    _check(name, found, "at least 0", found >= 0)


def _check_positive(name: str, found: float) -> None:
    _check(name, found, "above 0", found > 0)


def _check_share(name: str, found: float) -> None:
    _check(name, found, "above 0 and at most 1", 0 < found <= 1)


def _check(name: str, found: float, expected: str, holds: bool) -> None:
    if not holds or not math.isfinite(found):
        raise DecodingError(f"{name}: expected a finite number {expected}, found {found}")
