"""From the denoiser's probabilities to the circuit's potentials, coupling by coupling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.distribution import CoupledDistribution, TokenDistribution
from codd.coupling.factorised import FactorisedDistribution
from codd.coupling.settings import COUPLING_NAMES, COUPLINGS, FACTORISED, CouplingSettings
from codd.coupling.targets import Listing, list_top, marginal_distance, target_log_probs
from codd.coupling.units import local_latent
from codd.coupling.window import skipped
from codd.errors import CouplingError

__all__ = [
    "COUPLINGS",
    "COUPLING_NAMES",
    "CouplingSettings",
    "couple",
    "fit_copula",
    "leave_one_out",
    "marginal_error",
    "targets_of",
]

# A leave-one-out probability below this share of the target is treated as this share: a token that
# the circuit rules out keeps a finite potential, at the price of its marginal.
LARGEST_LOG_POTENTIAL = 30.0


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
    listing: Listing | None = None,
    include: Tensor | None = None,
) -> TokenDistribution:
    """Couples a denoiser's output on a window with a circuit.

    A coupling is conditioned (arXiv 2603.00045, E.1 and E.2) by giving it parameters, latent
    potentials, or both, that a modulator made of the denoiser's hidden states.

    Args:
        settings: Which coupling.
        plan: The circuit over W variables.
        parameters: Name -> log-weights of the declared shape, shared or per window; or prepared.
        log_probs: (B, W, V) the denoiser's normalised log-probabilities; with `listing` (B, W, J).
        values: (B, W) tokens; arbitrary where masked.
        observed: (B, W) bool, True = visible.
        latent: Node name -> (B, K) log-potentials over latent units.
        valid: (B, W) bool, False at padding.
        listing: The tokens that `log_probs` speaks of, if they are listed already.
        include: (B, W) tokens that `settings.top_k` lists whatever their rank: the true ones, when
            their probability is learned.

    Returns:
        The joint distribution of the masked tokens, differentiable in parameters and potentials.

    Raises:
        CouplingError: If shapes do not fit, or the circuit contradicts the visible tokens.

    Examples:
        New York or San Diego: the denoiser knows neither word, the circuit which go together.

        >>> cities = pc.CircuitModel.of(pc.chow_liu(torch.tensor([[0, 0], [1, 1]]), pseudocount=0))
        >>> unsure = torch.full((1, 2, 2), 0.5).double().log()
        >>> hidden = torch.zeros(1, 2, dtype=torch.bool)
        >>> plan, weights = cities.plan, cities.log_parameters()
        >>> for kind in ("factorised", "copula"):
        ...     settings = codd.CouplingSettings(kind)
        ...     joint = codd.couple(settings, plan, weights, unsure, hidden.long(), hidden)
        ...     new_diego = joint.log_prob(torch.tensor([[0, 1]])).exp().item()
        ...     print(kind, round(new_diego, 4))
        factorised 0.25
        copula 0.0
    """
    log_probs, listing = targets_of(settings, log_probs, listing, include)
    if settings.kind == FACTORISED:
        return FactorisedDistribution(
            log_probs,
            values,
            observed,
            valid,
            listing=listing,
            vocabulary_size=plan.num_categories,
        )
    prepared = pc.prepare(plan, parameters)
    base = CoupledDistribution(
        plan, prepared, log_probs, values, observed, latent, valid, listing=listing
    )
    if settings.kind == "product":
        return base
    if settings.kind == "local":
        return replace(base, latent=local_latent(base), kind="local", base=base)
    return replace(base, log_potentials=fit_copula(settings, base), kind="copula", base=base)


def targets_of(
    settings: CouplingSettings,
    log_probs: Tensor,
    listing: Listing | None = None,
    include: Tensor | None = None,
) -> tuple[Tensor, Listing | None]:
    """The distributions that are coupled, on all tokens or on listed ones; see `couple`."""
    targets = target_log_probs(settings, log_probs)
    if listing is not None:
        # How probable the other tokens were says little of a changed target.
        return targets, Listing(listing.categories) if settings.changes_target else listing
    if settings.top_k is None:
        return targets, None
    return list_top(targets, settings.top_k, include)


def fit_copula(settings: CouplingSettings, base: CoupledDistribution) -> Tensor:
    """Potentials under which the coupled marginals are the denoiser's, by proportional fitting.

    Each sweep moves V_i towards p_i / m_i at all masked positions at once, m_i the circuit's exact
    leave-one-out predictive under the current V (iterative proportional fitting towards the
    I-projection of arXiv 2410.01949). The first sweep starts from V = p and takes for m_i what the
    circuit predicts from the visible tokens alone, so a full first step is exact for a circuit
    without dependencies: the result is the factorised output.

    Args:
        settings: The step size of each sweep, and when a window is left as it is.
        base: The product coupling, whose potentials are the targets.

    Returns:
        (B, W, V) log-potentials, or (B, W, J) of the listed tokens.
    """
    target = base.log_potentials
    ruled_out = target.isneginf()
    finite = target.masked_fill(ruled_out, 0.0)
    potentials, given = finite, None
    for size in settings.step_sizes:
        predicted = leave_one_out(base, given)
        fitted = (finite - predicted).clamp(max=LARGEST_LOG_POTENTIAL)
        # What the denoiser rules out stays so; -inf is kept out of the arithmetic.
        moved = (1 - size) * potentials + size * fitted
        if settings.tolerance > 0 and given is not None:
            settled = _distance(base, given + predicted) <= settings.tolerance  # (B,)
            if not settled.is_cuda and bool(settled.all()):
                break
            moved = torch.where(settled[:, None, None], potentials, moved)
        potentials = moved
        given = potentials.masked_fill(ruled_out, -torch.inf)
    return potentials.masked_fill(ruled_out, -torch.inf)


def _distance(base: CoupledDistribution, log_marginals: Tensor) -> Tensor:
    """(B,) how far marginals, up to their normalisation, are from the targets."""
    found, target = log_marginals.detach().log_softmax(-1), base.log_potentials.detach()
    fixed = skipped(base.observed, base.valid)
    return marginal_distance(found.exp(), target.log_softmax(-1), fixed)


def leave_one_out(base: CoupledDistribution, potentials: Tensor | None) -> Tensor:
    """(B, W, V) or (B, W, J) log-probability of each token given the evidence on all the others.

    Args:
        base: The window.
        potentials: Of the masked tokens; None sums them out.
    """
    categories = None if base.listing is None else base.listing.categories
    evidence = base.evidence_with(potentials)
    try:
        return pc.queries.log_leave_one_out(base.plan, base.parameters, evidence, categories)
    except pc.errors.EvidenceError as error:
        raise CouplingError(f"the circuit contradicts the visible tokens: {error}") from error


def marginal_error(distribution: TokenDistribution, log_probs: Tensor) -> Tensor:
    """Largest total-variation distance of a masked token's marginal from the denoiser's.

    Args:
        distribution: Any.
        log_probs: (B, W, V) the denoiser's log-probabilities.

    Returns:
        (B,) distances in [0, 1]; zero where nothing is masked.

    Examples:
        The copula keeps the denoiser's marginals, the product does not:

        >>> rows = torch.tensor([[0, 0], [1, 1]])
        >>> cities = pc.CircuitModel.of(pc.chow_liu(rows))
        >>> plan, weights = cities.plan, cities.log_parameters()
        >>> denoised = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]]).double().log()
        >>> hidden = torch.zeros(1, 2, dtype=torch.bool)
        >>> for kind in ("product", "copula"):
        ...     settings = codd.CouplingSettings(kind, step_sizes=(1.0,) + (0.5,) * 20)
        ...     joint = codd.couple(settings, plan, weights, denoised, hidden.long(), hidden)
        ...     print(kind, round(codd.marginal_error(joint, denoised).item(), 3))
        product 0.074
        copula 0.0
    """
    return marginal_distance(distribution.marginals(), log_probs, distribution.observed)
