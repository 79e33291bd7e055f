"""Budgets spent while the tokens of a step are fixed one by one inside the exact joint.

A coupled distribution has exact conditionals after every fixed token, so a rule need not guess
beforehand how tokens depend on each other: each token is charged by what its conditional says when
its turn comes, and a row stops when no token fits its budget. What is charged depends on tokens
that are already fixed, never on the one that is drawn next, so the tokens follow the joint exactly
(at temperature 1 without top-p), as by any-order sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from codd.coupling.distribution import TokenDistribution
from codd.decoding.quotas import check_nats, divergence
from codd.decoding.samplers import Commitment, SamplingRule, draw
from codd.decoding.selection import score, select

# Rounding must not keep out a token that depends on nothing, whatever the budget.
_SLACK = 1e-5


@runtime_checkable
class Budget(Protocol):
    """A rule that charges every token that a step fixes."""

    def charges(self, before: Tensor, now: Tensor) -> Tensor:
        """(B, W) nats that each token costs if it is fixed next.

        Args:
            before: (B, W, V) its marginal at the beginning of the step.
            now: (B, W, V) its exact marginal given the tokens fixed so far.
        """

    def fits(self, spent: Tensor, largest: Tensor) -> Tensor:
        """Whether a step may charge so much.

        Args:
            spent: (B, W) sum of the charges.
            largest: (B, W) the largest of them.

        Returns:
            (B, W) bool.
        """


@dataclass(frozen=True)
class TotalCorrelation:
    """Commits tokens while their total correlation under the exact joint stays in a budget.

    By the chain rule the total correlation of a set (the sum of its marginal entropies less its
    joint entropy) is the expected sum of KL(p(x_i | x_fixed) || p(x_i)) over its tokens, in any
    order; each token is charged its term, exactly, given the tokens that were drawn. A token that
    would exceed the budget is passed over. What is bounded is how far the circuit moves the tokens
    away from the predictions that the denoiser vouches for: all that a step takes on trust of the
    circuit. Independent tokens cost nothing, so of a factorised distribution all are committed.

    Attributes:
        budget: ε in nats, at least 0.

    Examples:
        Independent tokens cost nothing: of a factorised output all are fixed by one call.

        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> rule = codd.TotalCorrelation(budget=1.0)
        >>> codd.generate(model, prompts, 8, quota=rule, coupling="factorised").denoiser_calls
        1
    """

    budget: float = 6.0

    def __post_init__(self) -> None:
        check_nats("total_correlation", self.budget)

    def charges(self, before: Tensor, now: Tensor) -> Tensor:
        """See `Budget`."""
        return divergence(now, before)

    def fits(self, spent: Tensor, largest: Tensor) -> Tensor:
        """See `Budget`."""
        return spent <= self.budget + _SLACK


@dataclass(frozen=True)
class JointEntropy:
    """Commits tokens while the entropies of their exact conditionals, less the largest, stay bound.

    The entropy bound of EB-Sampler (Ben-Hamu et al. 2025, arXiv 2505.24857), sum - max of the
    entropies, caps the dependence of tokens that are drawn independently. Drawn from the joint, the
    dependence that the circuit knows is no error any more: what can still be wrong is dependence
    that it does not know, and that is at most the same of the entropies that are left once each
    token is given those before it. For a factorised distribution both bounds are one.

    Attributes:
        bound: In nats, at least 0.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> for bound in (0.0, 50.0):  # nats a call
        ...     rule = codd.JointEntropy(bound)
        ...     found = codd.generate(model, prompts, 8, quota=rule, coupling="factorised")
        ...     print(found.denoiser_calls)
        8
        1
    """

    bound: float = 2.0

    def __post_init__(self) -> None:
        check_nats("joint_entropy", self.bound)

    def charges(self, before: Tensor, now: Tensor) -> Tensor:
        """See `Budget`."""
        entropies: Tensor = torch.special.entr(now).sum(dim=-1)
        return entropies

    def fits(self, spent: Tensor, largest: Tensor) -> Tensor:
        """See `Budget`."""
        return spent - largest <= self.bound + _SLACK


def spend(
    budget: Budget,
    distribution: TokenDistribution,
    candidates: Tensor,
    rule: SamplingRule,
    generator: torch.Generator,
) -> Commitment:
    """Fixes tokens one by one until none fits the budget; at least one in a row with candidates.

    Args:
        budget: What tokens cost.
        distribution: Over the W tokens of each row's window.
        candidates: (B, W) bool, positions that may be fixed.
        rule: Which position comes next, by the marginals given the tokens so far; temperature and
            top-p of the draw. Charges are of the untempered conditionals.
        generator: Source of positions and tokens.

    Returns:
        The chosen positions and their tokens.
    """
    conditioner = distribution.conditioner()
    every = torch.arange(len(candidates), device=candidates.device)
    tokens, chosen = distribution.values, torch.zeros_like(candidates)
    active, fits = candidates.any(dim=1), candidates
    before = now = conditioner.marginals(candidates)
    spent = largest = now.new_zeros(len(candidates))
    for turn in range(candidates.shape[1]):
        charges = budget.charges(before, now)
        if turn:
            after, most = spent[:, None] + charges, torch.maximum(largest[:, None], charges)
            fits = candidates & ~chosen & budget.fits(after, most)
            active = active & fits.any(dim=1)
        if not bool(active.any()):  # the one wait of a token: it saves all that follow
            break
        scores = score(rule.selection, partial(_as_is, now), candidates, generator)
        following = select(scores, fits, active.long())
        position = following.byte().argmax(dim=1)
        # Rows that have stopped draw one too, of no use: each row has its own random numbers.
        conditional = now[every, position].masked_fill(~active[:, None], 1.0)
        drawn = draw(conditional, rule.temperature, rule.top_p, generator)
        conditioner.fix(position, drawn, active)
        tokens = torch.where(following, drawn[:, None], tokens)
        chosen = chosen | following
        charge = charges[every, position]  # of rows that have stopped it does not count
        spent, largest = spent + charge, torch.maximum(largest, charge)
        now = conditioner.marginals(candidates & ~chosen & active[:, None])
    return Commitment(tokens=tokens, chosen=chosen)


def _as_is(marginals: Tensor) -> Tensor:
    return marginals
