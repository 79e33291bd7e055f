"""Distributions over the tokens of a window, in the manner of `torch.distributions`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.conditioner import (
    CoupledConditioner,
    TokenConditioner,
    require_possible,
)
from codd.coupling.factorised import FactorisedDistribution
from codd.coupling.omitted import omitted_mass
from codd.coupling.targets import Listing, marginal_distance
from codd.coupling.window import (
    check_circuit,
    check_shapes,
    check_tokens,
    describe,
    free_sum,
    skipped,
    taken,
    window_evidence,
)

__all__ = ["CoupledDistribution", "FactorisedDistribution", "TokenDistribution"]


class TokenDistribution(Protocol):
    """An exact joint distribution over the W tokens of a window, given its visible ones.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> tokens = model.vocabulary.encode("Return a list of all files in the given directory.")
        >>> tokens[34:40] = model.mask_id  # six characters are hidden
        >>> joint: codd.TokenDistribution = model.joint(tokens[None])
        >>> joint.length, int((~joint.observed).sum())
        (48, 6)
        >>> drawn = joint.sample(2)[0]
        >>> bool((drawn[:, :30] == joint.values[:, :30]).all())  # what is visible is kept
        True
    """

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

    @property
    def omitted_mass(self) -> Tensor:
        """(B,) bound on the probability of worlds with a token that is not listed."""

    @property
    def marginal_error(self) -> Tensor:
        """(B,) largest total variation between a masked token's marginal and its target."""

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
class CoupledDistribution:
    """A circuit times per-position potentials, exactly normalised.

    p(x | visible) = circuit(x) prod_i exp(log_potentials_i(x_i)) / Z, the product over the masked
    positions (arXiv 2603.00045, eq. 5, for the denoiser's probabilities as potentials). Latent
    potentials make it sum_z circuit(x, z) prod_i ... prod_n exp(latent_n(z_n)) / Z (E.1).

    Args:
        plan: The circuit over W variables.
        parameters: Its log-weights by name, shared or per window, or prepared.
        log_potentials: (B, W, V) log-potentials; with `listing` (B, W, J).
        values: (B, W) tokens.
        observed: (B, W) bool.
        latent: Node name -> (B, K) log-potentials over latent units, or None.
        valid: (B, W) bool, False at padding: such a position is summed out and has no potential.
        listing: The tokens that `log_potentials` speaks of, all others being ruled out; None = all.
        kind: The coupling that it is of.
        base: The product of the denoiser's output and the circuit that another coupling started
            from; None for the product itself.

    Examples:
        New York or San Diego: the denoiser is unsure of both words, the circuit knows the pairs.

        >>> cities = pc.CircuitModel.of(pc.chow_liu(torch.tensor([[0, 0], [1, 1]]), pseudocount=0))
        >>> unsure = torch.full((1, 2, 2), 0.5).double().log()
        >>> hidden = torch.zeros(1, 2, dtype=torch.bool)
        >>> weights, settings = cities.log_parameters(), codd.CouplingSettings("copula")
        >>> joint = codd.couple(settings, cities.plan, weights, unsure, hidden.long(), hidden)
        >>> joint.log_prob(torch.tensor([[0, 0]])).exp().detach()  # New York
        tensor([0.5000], dtype=torch.float64)
        >>> joint.log_prob(torch.tensor([[0, 1]])).exp().detach()  # New Diego
        tensor([0.], dtype=torch.float64)
        >>> york = joint.condition(torch.tensor([[0, 0]]), torch.tensor([[True, False]]))
        >>> york.marginals().detach()[0, 1]  # after "New"
        tensor([1., 0.], dtype=torch.float64)
    """

    plan: pc.Plan
    parameters: pc.PreparedParameters
    log_potentials: Tensor
    values: Tensor
    observed: Tensor
    latent: dict[str, Tensor] | None = None
    valid: Tensor | None = None
    listing: Listing | None = field(default=None, kw_only=True)
    kind: str = field(default="product", kw_only=True)
    base: CoupledDistribution | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        window = (self.values, self.observed, self.valid)
        check_shapes(self.log_potentials, *window, self.listing)
        check_circuit(self.plan, self.log_potentials, self.listing)
        self._check_tokens()

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.observed, self.num_categories)

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
        return self.plan.num_categories

    def evidence_with(
        self, log_potentials: Tensor | None, latent: dict[str, Tensor] | None = None
    ) -> pc.Evidence:
        """The window's evidence with other potentials, or with its masked tokens summed out.

        Args:
            log_potentials: In the shape of the own ones, or None.
            latent: Latent potentials; default the own ones.
        """
        return window_evidence(
            log_potentials,
            self.values,
            self.observed,
            self.latent if latent is None else latent,
            self.valid,
            self.listing,
            self.num_categories,
        )

    @cached_property
    def evidence(self) -> pc.Evidence:
        """Visible tokens as values, masked ones as potentials."""
        return self.evidence_with(self.log_potentials)

    @property
    def omitted_mass(self) -> Tensor:
        """(B,) bound on what the lists leave out, as it was before any `condition`.

        The probability that the same coupling of all tokens gives to worlds with a token that is
        not listed is at most this: for "product" then log_prob + log(1 - omitted_mass) <= the
        exact log-probability <= log_prob. Zero without lists. See `omitted.omitted_mass`.

        Raises:
            CouplingError: If it is not known how probable the other tokens are.
        """
        return omitted_mass(self.kind, self.base or self)

    @property
    def marginal_error(self) -> Tensor:
        """(B,) largest total variation between a masked token's marginal and its target.

        The target is the denoiser's distribution, sharpened if the coupling's settings say so. Zero
        for a converged copula: how far its sweeps still are from that.
        """
        made_of = self.base or self
        targets = made_of.log_potentials
        if self.listing is not None:
            listed = targets.log_softmax(-1).exp()
            targets = self.listing.spread(listed, self.num_categories).log()
        fixed = skipped(made_of.observed, self.valid)
        return marginal_distance(self.marginals(), targets, fixed)

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
        each = taken(self.log_potentials, tokens, self.listing)
        free = free_sum(each, tokens, self.values, self.observed, self.valid)
        return joint + free - self.log_partition

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

    def _check_tokens(self) -> None:
        check_tokens(self.values, self.observed, self.valid, self.num_categories)

    def _require_possible(self) -> None:
        require_possible(self.log_partition)
