"""The couplings by name: how the denoiser's probabilities become the circuit's potentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.distribution import (
    CoupledDistribution,
    FactorisedDistribution,
    TokenDistribution,
    window_evidence,
)
from codd.errors import CouplingError

COUPLINGS = ("factorised", "product", "copula")

# A leave-one-out probability below this share of the target is treated as this share: a token that
# the circuit rules out keeps a finite potential, at the price of its marginal.
LARGEST_LOG_POTENTIAL = 30.0


@dataclass(frozen=True)
class CouplingSettings:
    """How potentials are made.

    Attributes:
        kind: "copula" keeps the denoiser's single-token marginals and takes only dependencies
            from the circuit; "product" multiplies the two (arXiv 2603.00045, eq. 5);
            "factorised" leaves the circuit out.
        step_sizes: Of the copula: how far each proportional-fitting sweep moves the
            log-potentials, 1 = all the way. The first should be 1: it removes what the circuit
            says of single tokens. After it all positions move at once, and full steps would
            overshoot where tokens depend strongly on each other.
    """

    kind: str = "copula"
    step_sizes: tuple[float, ...] = (1.0, 0.5, 0.3)

    def __post_init__(self) -> None:
        if self.kind not in COUPLINGS:
            raise CouplingError(f"coupling must be one of {COUPLINGS}; found {self.kind!r}")
        object.__setattr__(self, "step_sizes", tuple(self.step_sizes))
        if not self.step_sizes or not all(0 < size <= 1 for size in self.step_sizes):
            raise CouplingError(
                f"step_sizes must be one number in (0, 1] for each sweep; found {self.step_sizes}"
            )


def couple(
    settings: CouplingSettings,
    plan: pc.Plan,
    parameters: Mapping[str, Tensor] | pc.PreparedParameters,
    log_probs: Tensor,
    values: Tensor,
    observed: Tensor,
    *,
    latent: dict[str, Tensor] | None = None,
    valid: Tensor | None = None,
) -> TokenDistribution:
    """Couples a denoiser's output on a window with a circuit.

    Args:
        settings: Which coupling.
        plan: The circuit over W variables.
        parameters: Its log-weights by name, shared or per window.
        log_probs: (B, W, V) the denoiser's normalised log-probabilities.
        values: (B, W) tokens; arbitrary where masked.
        observed: (B, W) bool, True = visible.
        latent: Node name -> (B, K) log-potentials over latent units.
        valid: (B, W) bool, False at padding.

    Returns:
        The joint distribution of the masked tokens, differentiable in parameters and potentials.

    Raises:
        CouplingError: If shapes do not fit.
    """
    factorised = FactorisedDistribution(log_probs, values, observed, valid)
    if settings.kind == "factorised":
        return factorised
    prepared = pc.prepare(plan, parameters)
    base = CoupledDistribution(plan, prepared, log_probs, values, observed, latent, valid)
    if settings.kind == "product":
        return base
    potentials = fit_copula(settings, base)
    return CoupledDistribution(plan, prepared, potentials, values, observed, latent, valid)


def fit_copula(settings: CouplingSettings, base: CoupledDistribution) -> Tensor:
    """Potentials under which the coupled marginals are the denoiser's, by proportional fitting.

    Each sweep moves V_i towards p_i / m_i at all masked positions at once, m_i the circuit's exact
    leave-one-out predictive under the current V (iterative proportional fitting towards the
    I-projection of arXiv 2410.01949). The first sweep starts from V = p and takes for m_i what the
    circuit predicts from the visible tokens alone, so a full first step is exact for a circuit
    without dependencies: the result is the factorised output.

    Args:
        settings: The step size of each sweep.
        base: The product coupling, whose potentials are the denoiser's log-probabilities.

    Returns:
        (B, W, V) log-potentials.
    """
    target = base.log_potentials
    potentials = target
    ruled_out = target == -torch.inf
    finite = target.masked_fill(ruled_out, 0.0)
    given = torch.zeros_like(target)
    potentials = target
    for size in settings.step_sizes:
        fitted = (finite - leave_one_out(base, given)).clamp(max=LARGEST_LOG_POTENTIAL)
        # What the denoiser rules out stays so; -inf is kept out of the arithmetic.
        moved = (1 - size) * potentials.masked_fill(ruled_out, 0.0) + size * fitted
        given = potentials = moved.masked_fill(ruled_out, -torch.inf)
    return potentials


def leave_one_out(base: CoupledDistribution, potentials: Tensor) -> Tensor:
    """(B, W, V) log-probability of each token given the evidence on all the others."""
    evidence = window_evidence(potentials, base.values, base.observed, base.latent, base.valid)
    try:
        return pc.queries.log_leave_one_out(base.plan, base.parameters, evidence)
    except pc.errors.EvidenceError as error:
        raise CouplingError(f"the circuit contradicts the visible tokens: {error}") from error


def marginal_error(distribution: TokenDistribution, log_probs: Tensor) -> Tensor:
    """(B,) largest total-variation distance of a masked token's marginal from the denoiser's.

    Zero for a converged copula: a measure of how far its sweeps still are from that.
    """
    gap = (distribution.marginals() - log_probs.exp()).abs().sum(-1) / 2
    return gap.masked_fill(distribution.observed, 0.0).amax(-1)
