"""Fixing the tokens of a window one by one, each conditional exact, without starting anew."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

import pcircuits as pc
from codd.errors import CouplingError


class TokenConditioner(Protocol):
    """A distribution over W tokens while more and more of them are fixed."""

    def fix(self, positions: Tensor, tokens: Tensor, rows: Tensor) -> None:
        """Fixes the token at positions (B,) to tokens (B,) in the windows that rows (B,) name."""

    def marginals(self, wanted: Tensor) -> Tensor:
        """(B, W, V) posteriors given what is fixed; rows where not `wanted` (B, W) mean nothing."""

    def marginal(self, positions: Tensor, rows: Tensor) -> Tensor:
        """(B, V) posterior at positions (B,); rows of other windows than `rows` mean nothing."""


class Conditionable(Protocol):
    """What can be conditioned and asked for all its marginals."""

    @property
    def values(self) -> Tensor:
        """(B, W) tokens."""

    @property
    def observed(self) -> Tensor:
        """(B, W) bool."""

    def marginals(self) -> Tensor:
        """(B, W, V) exact single-token posteriors."""

    def condition(self, tokens: Tensor, observed: Tensor) -> Conditionable:
        """The same distribution given more tokens."""


class Reconditioner:
    """Conditions a distribution anew after every token.

    Args:
        distribution: Any distribution; right for those whose marginals cost nothing.
    """

    def __init__(self, distribution: Conditionable) -> None:
        self._distribution = distribution

    def fix(self, positions: Tensor, tokens: Tensor, rows: Tensor) -> None:
        """See `TokenConditioner`."""
        before = self._distribution
        width = torch.arange(before.values.shape[1], device=positions.device)
        fixed = (width == positions[:, None]) & rows[:, None]
        values = torch.where(fixed, tokens[:, None], before.values)
        self._distribution = before.condition(values, before.observed | fixed)

    def marginals(self, wanted: Tensor) -> Tensor:
        """See `TokenConditioner`."""
        return self._distribution.marginals()

    def marginal(self, positions: Tensor, rows: Tensor) -> Tensor:
        """See `TokenConditioner`."""
        every = torch.arange(len(positions), device=positions.device)
        return self._distribution.marginals()[every, positions]


class CoupledConditioner:
    """Keeps a circuit's messages, so that a token more costs a part of an evaluation at most.

    Args:
        plan: The circuit over W variables.
        parameters: Its log-weights.
        evidence: Visible tokens, potentials of masked ones.

    Raises:
        CouplingError: If the circuit gives some window's visible tokens probability zero.
    """

    def __init__(
        self, plan: pc.Plan, parameters: pc.PreparedParameters, evidence: pc.Evidence
    ) -> None:
        self._conditioner = pc.queries.Conditioner(plan, parameters, evidence)
        self._categories, self._size = evidence.categories, plan.num_categories
        require_possible(self._conditioner.log_value())

    def fix(self, positions: Tensor, tokens: Tensor, rows: Tensor) -> None:
        """See `TokenConditioner`."""
        self._conditioner.fix(positions, tokens, rows)

    def marginals(self, wanted: Tensor) -> Tensor:
        """See `TokenConditioner`."""
        return self._spread(self._conditioner.marginals(wanted), self._categories)

    def marginal(self, positions: Tensor, rows: Tensor) -> Tensor:
        """See `TokenConditioner`."""
        found, listed = self._conditioner.marginal(positions, rows), self._categories
        if listed is not None:
            listed = listed[torch.arange(len(positions), device=listed.device), positions]
        return self._spread(found, listed)

    def _spread(self, found: Tensor, listed: Tensor | None) -> Tensor:
        """Posteriors of listed tokens over all of them."""
        if listed is None:
            return found
        return found.new_zeros(*found.shape[:-1], self._size).scatter_add(-1, listed, found)


def require_possible(log_partition: Tensor) -> None:
    """Checks that no window's visible tokens have probability zero.

    Args:
        log_partition: (B,) log Z.

    Raises:
        CouplingError: If some have, or some log Z is NaN.
    """
    dead = (~(log_partition > -torch.inf)).nonzero().flatten().tolist()
    if dead and bool(log_partition[dead[0]].isnan()):
        raise CouplingError(
            f"log Z of window {dead[0]} is nan; expected circuits whose log-weights, be they given "
            f"by the denoiser's hidden states, are below +inf"
        )
    if dead:
        raise CouplingError(
            f"the circuit gives the visible tokens of window {dead[0]} (of {len(dead)} such) "
            f"probability zero; expected a circuit that allows every visible token"
        )
