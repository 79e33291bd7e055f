"""Distributions over the tokens of a window, in the manner of `torch.distributions`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.conditioner import (
    CoupledConditioner,
    Reconditioner,
    TokenConditioner,
    require_possible,
)
from codd.errors import CouplingError


class TokenDistribution(Protocol):
    """An exact joint distribution over the W tokens of a window, given its visible ones."""

    @property
    def batch_size(self) -> int:
        """Number of windows B."""

    @property
    def length(self) -> int:
        """Tokens in a window W."""

    @property
    def num_categories(self) -> int:
        """Number of categories V."""

    @property
    def values(self) -> Tensor:
        """(B, W) tokens; arbitrary where masked."""

    @property
    def observed(self) -> Tensor:
        """(B, W) bool, True = visible or fixed."""

    @property
    def log_partition(self) -> Tensor:
        """(B,) log Z, with the visible tokens' own factors."""

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(B,) log-probability of the masked tokens of (B, W) given the visible ones."""

    def marginals(self) -> Tensor:
        """(B, W, V) exact single-token posteriors; one-hot where observed."""

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, num_samples, W) exact joint samples; observed tokens are kept."""

    def mutual_information(self) -> Tensor:
        """(B, W, W) mutual information of every pair of tokens, in nats."""

    def condition(self, tokens: Tensor, observed: Tensor) -> TokenDistribution:
        """The same distribution given more tokens."""

    def conditioner(self) -> TokenConditioner:
        """The same distribution, to fix tokens one by one; it stays as it is."""


@dataclass(frozen=True, eq=False)
class FactorisedDistribution:
    """The denoiser's own output: independent tokens.

    Args:
        log_probs: (B, W, V) normalised log-probabilities.
        values: (B, W) tokens.
        observed: (B, W) bool.
        valid: (B, W) bool, False at padding, which is no token at all; None = all valid.
    """

    log_probs: Tensor
    values: Tensor
    observed: Tensor
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        check_window(self.log_probs, self.values, self.observed, self.valid)

    @property
    def batch_size(self) -> int:
        """Number of windows B."""
        return self.log_probs.shape[0]

    @property
    def length(self) -> int:
        """Tokens in a window W."""
        return self.log_probs.shape[1]

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return self.log_probs.shape[2]

    @property
    def log_partition(self) -> Tensor:
        """(B,) zeros: the factors are normalised."""
        return self.log_probs.new_zeros(self.batch_size)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(B,) log-probability of the masked tokens of (B, W) given the visible ones."""
        taken = _taken(self.log_probs, tokens).masked_fill(self.observed, 0.0)
        if self.valid is not None:
            taken = taken.masked_fill(~self.valid, 0.0)
        return _contradicted(taken.sum(-1), tokens, self.values, self.observed)

    def marginals(self) -> Tensor:
        """(B, W, V) the denoiser's probabilities; one-hot where observed."""
        inside = self.values.masked_fill(~self.observed, 0).long()
        one_hot = torch.nn.functional.one_hot(inside, self.num_categories).to(self.log_probs)
        return torch.where(self.observed[..., None], one_hot, self.log_probs.exp())

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, num_samples, W) independent tokens, each tempered; observed ones are kept."""
        shape = (self.batch_size, num_samples, self.length, self.num_categories)
        logits = self.log_probs[:, None].expand(shape)
        if temperature > 0:
            noise = torch.empty(shape).to(logits).exponential_(generator=generator)
            logits = logits / temperature - noise.log()
        return torch.where(self.observed[:, None], self.values[:, None], logits.argmax(-1))

    def mutual_information(self) -> Tensor:
        """(B, W, W) entropies on the diagonal, zero elsewhere."""
        return torch.diag_embed(torch.special.entr(self.marginals()).sum(-1))

    def condition(self, tokens: Tensor, observed: Tensor) -> FactorisedDistribution:
        """The same distribution given more tokens."""
        return replace(self, values=tokens, observed=observed)

    def conditioner(self) -> TokenConditioner:
        """The same distribution, to fix tokens one by one; it stays as it is."""
        return Reconditioner(self)


@dataclass(frozen=True, eq=False)
class CoupledDistribution:
    """A circuit times per-position potentials, exactly normalised.

    p(x | visible) = circuit(x) prod_i exp(log_potentials_i(x_i)) / Z, the product over the masked
    positions (arXiv 2603.00045, eq. 5, for the denoiser's probabilities as potentials).

    Args:
        plan: The circuit over W variables.
        parameters: Its log-weights by name, shared or per window, or prepared.
        log_potentials: (B, W, V) log-potentials.
        values: (B, W) tokens.
        observed: (B, W) bool.
        latent: Node name -> (B, K) log-potentials over latent units, or None.
        valid: (B, W) bool, False at padding: such a position is summed out and has no potential.
    """

    plan: pc.Plan
    parameters: pc.PreparedParameters
    log_potentials: Tensor
    values: Tensor
    observed: Tensor
    latent: dict[str, Tensor] | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        check_window(self.log_potentials, self.values, self.observed, self.valid)
        check_circuit(self.plan, self.log_potentials)

    @property
    def batch_size(self) -> int:
        """Number of windows B."""
        return self.log_potentials.shape[0]

    @property
    def length(self) -> int:
        """Tokens in a window W."""
        return self.log_potentials.shape[1]

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return self.log_potentials.shape[2]

    @cached_property
    def evidence(self) -> pc.Evidence:
        """Visible tokens as values, masked ones as potentials."""
        return window_evidence(
            self.log_potentials, self.values, self.observed, self.latent, self.valid
        )

    @cached_property
    def log_partition(self) -> Tensor:
        """(B,) log Z; -inf where the circuit gives the visible tokens probability zero."""
        return pc.forward(self.plan, self.parameters, self.evidence)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(B,) log-probability of the masked tokens of (B, W) given the visible ones.

        Raises:
            CouplingError: If the circuit gives some window's visible tokens probability zero.
        """
        self._require_possible()
        complete = pc.Evidence(tokens, self.valid, latent_log_potentials=self.latent)
        joint = pc.forward(self.plan, self.parameters, complete)
        taken = _taken(self.log_potentials, tokens).masked_fill(self.observed, 0.0)
        if self.valid is not None:
            taken = taken.masked_fill(~self.valid, 0.0)
        found = joint + taken.sum(-1) - self.log_partition
        return _contradicted(found, tokens, self.values, self.observed)

    def marginals(self) -> Tensor:
        """(B, W, V) exact single-token posteriors; one-hot where observed.

        Raises:
            CouplingError: If the circuit gives some window's visible tokens probability zero.
        """
        self._require_possible()
        return pc.queries.marginals(self.plan, self.parameters, self.evidence)

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, num_samples, W) exact joint samples; observed tokens are kept.

        Another temperature than 1 is the latent-tempered scheme of arXiv 2603.00045: latent
        choices are drawn exactly, each token's conditional given them is tempered; 0 = most likely.

        Raises:
            CouplingError: If the circuit gives some window's visible tokens probability zero.
        """
        self._require_possible()
        return pc.queries.sample(
            self.plan,
            self.parameters,
            num_samples,
            self.evidence,
            temperature=temperature,
            generator=generator,
        )

    def mutual_information(self) -> Tensor:
        """(B, W, W) mutual information of every pair of tokens in nats, entropies on the diagonal.

        Raises:
            CouplingError: If the circuit gives some window's visible tokens probability zero.
        """
        self._require_possible()
        return pc.queries.mutual_information(self.plan, self.parameters, self.evidence)

    def condition(self, tokens: Tensor, observed: Tensor) -> CoupledDistribution:
        """The same distribution given more tokens; potentials stay as they are."""
        return replace(self, values=tokens, observed=observed)

    def conditioner(self) -> TokenConditioner:
        """The same distribution, to fix tokens one by one; it stays as it is.

        Raises:
            CouplingError: If the circuit gives some window's visible tokens probability zero.
        """
        return CoupledConditioner(self.plan, self.parameters, self.evidence)

    def _require_possible(self) -> None:
        require_possible(self.log_partition)


def window_evidence(
    log_potentials: Tensor,
    values: Tensor,
    observed: Tensor,
    latent: dict[str, Tensor] | None,
    valid: Tensor | None,
) -> pc.Evidence:
    """Evidence of a window: visible tokens, potentials at masked ones, nothing at padding."""
    if valid is not None:
        log_potentials = log_potentials.masked_fill(~valid[..., None], 0.0)
    return pc.Evidence(values, observed, log_potentials, latent)


def check_window(
    log_potentials: Tensor, values: Tensor, observed: Tensor, valid: Tensor | None
) -> None:
    """Checks that the tensors of a window fit together.

    Raises:
        CouplingError: If shapes differ, a visible token is out of range or padding is observed.
    """
    if log_potentials.ndim != 3:
        raise CouplingError(
            f"log-potentials must be (B, W, V); found shape {tuple(log_potentials.shape)}"
        )
    for name, tensor in (("values", values), ("observed", observed), ("valid", valid)):
        if tensor is not None and tensor.shape != log_potentials.shape[:2]:
            raise CouplingError(
                f"{name} has shape {tuple(tensor.shape)}; "
                f"log-potentials need {tuple(log_potentials.shape[:2])}"
            )
    outside = ((values < 0) | (values >= log_potentials.shape[2])) & observed
    if bool(outside.any()):
        row, position = outside.nonzero()[0].tolist()
        raise CouplingError(
            f"visible token [{row}, {position}] is {int(values[row, position])}; "
            f"expected 0 .. {log_potentials.shape[2] - 1}"
        )
    if valid is not None and bool((observed & ~valid).any()):
        row, position = (observed & ~valid).nonzero()[0].tolist()
        raise CouplingError(f"position [{row}, {position}] is padding and observed; expected one")


def check_circuit(plan: pc.Plan, log_potentials: Tensor) -> None:
    """Checks that a circuit is about such windows.

    Raises:
        CouplingError: If its numbers of variables or categories differ.
    """
    found = (plan.num_variables, plan.num_categories)
    if found != tuple(log_potentials.shape[1:]):
        raise CouplingError(
            f"the circuit has {found[0]} variables of {found[1]} categories; the window has "
            f"{log_potentials.shape[1]} tokens of {log_potentials.shape[2]}"
        )


def _taken(log_potentials: Tensor, tokens: Tensor) -> Tensor:
    if tokens.shape != log_potentials.shape[:2]:
        raise CouplingError(
            f"tokens have shape {tuple(tokens.shape)}; expected {tuple(log_potentials.shape[:2])}"
        )
    inside = tokens.clamp(0, log_potentials.shape[2] - 1)
    return log_potentials.gather(2, inside.long()[..., None])[..., 0]


def _contradicted(found: Tensor, tokens: Tensor, values: Tensor, observed: Tensor) -> Tensor:
    return found.masked_fill(((tokens != values) & observed).any(-1), -torch.inf)
