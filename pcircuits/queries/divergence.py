"""Cross-entropy and Kullback-Leibler divergence of two circuits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError, StructureError
from pcircuits.execute.api import Parameters, forward
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.decomposition import latent_decomposition
from pcircuits.queries.determinism import determinism_of
from pcircuits.queries.likelihood import require_possible
from pcircuits.queries.pairs import expected_log
from pcircuits.queries.posterior import Posterior, posterior
from pcircuits.queries.sampling import sample
from pcircuits.validate import compatible

# Mass of p outside the support of q that is not told from rounding.
_OUTSIDE = 1e-12


@dataclass(frozen=True, eq=False)
class Divergence:
    """A divergence in nats, exact or estimated.

    Attributes:
        value: (B,) the value; +inf where p has worlds that are impossible under q.
        standard_error: (B,) of the estimate; zero where exact.
        exact: Whether it is the value itself.

    Examples:
        >>> fair = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> fair.set_probabilities({"input_0": torch.tensor([[0.5, 0.5]])})
        >>> biased = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> biased.set_probabilities({"input_0": torch.tensor([[0.25, 0.75]])})
        >>> divergence = fair.kl_divergence(biased)
        >>> divergence.value.detach(), divergence.exact  # (ln 2 + ln(2/3)) / 2
        (tensor([0.1438], dtype=torch.float64), True)
    """

    value: Tensor
    standard_error: Tensor
    exact: bool


def cross_entropy(
    plan: Plan,
    parameters: Parameters,
    other_plan: Plan,
    other_parameters: Parameters,
    evidence: Evidence | None = None,
    other_evidence: Evidence | None = None,
    *,
    num_samples: int = 0,
    generator: torch.Generator | None = None,
) -> Divergence:
    """Cross-entropy -E_p[log q(x)] of two circuits p and q of the same variables.

    Exact if the circuits are compatible and q is deterministic (Vergari et al., "A compositional
    atlas of tractable circuit operations", NeurIPS 2021, theorem 4.2), in time proportional to the
    product of their sizes. Otherwise it is estimated, if samples were asked for.

    Args:
        plan: The compiled circuit of p.
        parameters: Its log-weights by name.
        other_plan: The compiled circuit of q.
        other_parameters: Its log-weights by name.
        evidence: Evidence of any kind that p is conditioned on; default none.
        other_evidence: The same for q.
        num_samples: Samples of p for an estimate where the value cannot be had; 0 for none.
        generator: Source of randomness; default the global one.

    Returns:
        The cross-entropy in nats, computed in float64; it is infinite where more than 1e-12 of p
        lies outside the support of q. Differentiable, where exact, in both circuits' parameters
        and potentials.

    Raises:
        EvidenceError: If evidence does not fit or is impossible, or a number is out of range.
        StructureError: If the circuits' variables differ, or a property is missing and no samples
            were asked for; the message says which property and why.
        ParameterError: If the parameters do not fit.

    Examples:
        >>> coin = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> coin.set_probabilities({"input_0": torch.tensor([[0.25, 0.75]])})
        >>> weights = coin.log_parameters()
        >>> found = pc.queries.cross_entropy(coin.plan, weights, coin.plan, weights)
        >>> found.value.detach()  # of a model with itself: its entropy
        tensor([0.5623], dtype=torch.float64)
    """
    p, q = _posteriors(plan, parameters, evidence, other_plan, other_parameters, other_evidence)
    missing = _missing(plan, other_plan, other_parameters)
    if not missing:
        found = _exact_cross_entropy(p.double(), q.double())
        return Divergence(found, torch.zeros_like(found), exact=True)
    _check_samples(missing, num_samples, "cross-entropy")
    _, log_q = _sampled(p, q, num_samples, generator)
    return _estimate(-log_q)


def kl_divergence(
    plan: Plan,
    parameters: Parameters,
    other_plan: Plan,
    other_parameters: Parameters,
    evidence: Evidence | None = None,
    other_evidence: Evidence | None = None,
    *,
    num_samples: int = 0,
    generator: torch.Generator | None = None,
) -> Divergence:
    """Kullback-Leibler divergence E_p[log p(x) - log q(x)] of two circuits of the same variables.

    Exact if the circuits are compatible and both are deterministic, as in `cross_entropy`, whose
    remarks hold here too. Otherwise it is estimated, if samples were asked for.

    Args:
        plan: The compiled circuit of p.
        parameters: Its log-weights by name.
        other_plan: The compiled circuit of q.
        other_parameters: Its log-weights by name.
        evidence: Evidence of any kind that p is conditioned on; default none.
        other_evidence: The same for q.
        num_samples: Samples of p for an estimate where the value cannot be had; 0 for none.
        generator: Source of randomness; default the global one.

    Returns:
        The divergence in nats; not negative where exact.

    Raises:
        EvidenceError: If evidence does not fit or is impossible, or a number is out of range.
        StructureError: If the circuits' variables differ, or a property is missing and no samples
            were asked for; the message says which property and why.
        ParameterError: If the parameters do not fit.

    Examples:
        From a fair coin to one that shows heads three times of four:

        >>> plan = pc.compile_circuit(pc.families.factorized(1, num_categories=2))
        >>> fair = {"input_0": torch.tensor([[0.5, 0.5]]).log()}
        >>> biased = {"input_0": torch.tensor([[0.25, 0.75]]).log()}
        >>> pc.queries.kl_divergence(plan, fair, plan, biased).value
        tensor([0.1438], dtype=torch.float64)
        >>> pc.queries.kl_divergence(plan, fair, plan, fair).value.abs()
        tensor([0.], dtype=torch.float64)
    """
    p, q = _posteriors(plan, parameters, evidence, other_plan, other_parameters, other_evidence)
    missing = _missing(plan, other_plan, other_parameters)
    if not determinism_of(plan, parameters).holds:
        missing.append(_not_deterministic("first", plan, parameters))
    if not missing:
        latent, inputs, _ = latent_decomposition(p.double())
        crossed = _exact_cross_entropy(p.double(), q.double())
        found = (crossed - latent - inputs).clamp_min(0.0)
        return Divergence(found, torch.zeros_like(found), exact=True)
    _check_samples(missing, num_samples, "Kullback-Leibler divergence")
    log_p, log_q = _sampled(p, q, num_samples, generator)
    return _estimate(log_p - log_q)


def _posteriors(
    plan: Plan,
    parameters: Parameters,
    evidence: Evidence | None,
    other_plan: Plan,
    other_parameters: Parameters,
    other_evidence: Evidence | None,
) -> tuple[Posterior, Posterior]:
    if plan.circuit.categories != other_plan.circuit.categories:
        raise StructureError(
            f"the circuits must have the same variables; found categories "
            f"{plan.circuit.categories[:8]} and {other_plan.circuit.categories[:8]}"
        )
    p = posterior(plan, parameters, evidence)
    q = posterior(other_plan, other_parameters, other_evidence)
    sizes = (p.batch_size, q.batch_size)
    if 1 not in sizes and len(set(sizes)) > 1:
        raise EvidenceError(f"the circuits are given for {sizes[0]} and {sizes[1]} examples")
    return p, q


def _missing(plan: Plan, other_plan: Plan, other_parameters: Parameters) -> list[str]:
    """Why the cross-entropy is not exact, one sentence for each property that is missing."""
    missing = []
    answer = compatible(plan.circuit, other_plan.circuit)
    if not answer:
        missing.append(answer.reason)
    if not determinism_of(other_plan, other_parameters).holds:
        missing.append(_not_deterministic("second", other_plan, other_parameters))
    return missing


def _not_deterministic(which: str, plan: Plan, parameters: Parameters) -> str:
    found = determinism_of(plan, parameters)
    why = found.overlap if found.overlap is not None else "undecided within the limit"
    return f"the {which} circuit is not known to be deterministic: {why}"


def _check_samples(missing: list[str], num_samples: int, what: str) -> None:
    if num_samples == 0:
        raise StructureError(
            f"the {what} has no exact value here: {'; '.join(missing)}. Ask for num_samples to "
            f"have it estimated"
        )
    if num_samples < 2:
        raise EvidenceError(f"num_samples must be 0, or 2 and more; found {num_samples}")


def _exact_cross_entropy(p: Posterior, q: Posterior) -> Tensor:
    log_z = [forward(side.plan, side.prepared, side.evidence()) for side in (p, q)]
    for value in log_z:
        require_possible(value)
    log_mass, mean = expected_log(p, q)
    # Rounding differs between the two ways to p's mass, in proportion to their logarithm.
    slack = _OUTSIDE * (1 + log_z[0].detach().abs())
    outside = log_mass.detach() < log_z[0].detach() - slack
    return (log_z[1] - mean).masked_fill(outside, torch.inf)


@torch.no_grad()
def _sampled(
    p: Posterior, q: Posterior, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """(B, N) log p(x | evidence) and log q(x | evidence) of samples of p."""
    batch = max(p.batch_size, q.batch_size)
    rows = torch.arange(batch, device=p.log_potentials.device)
    p, q = p.take(rows % p.batch_size), q.take(rows % q.batch_size)
    drawn = sample(p.plan, p.prepared, num_samples, p.evidence(), generator=generator)
    logs = []
    for side in (p, q):
        log_z = forward(side.plan, side.prepared, side.evidence())
        require_possible(log_z)
        logs.append(side.log_weights(drawn) - log_z[:, None])
    return logs[0], logs[1]


def _estimate(terms: Tensor) -> Divergence:
    """Mean of (B, N) terms and its standard error; infinite terms make an infinite mean."""
    infinite = torch.isinf(terms).any(1)
    kept = terms.masked_fill(infinite[:, None], 0.0)
    error = kept.std(1) / terms.shape[1] ** 0.5
    value = kept.mean(1).masked_fill(infinite, torch.inf)
    return Divergence(value, error, exact=False)
