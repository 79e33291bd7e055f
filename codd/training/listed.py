"""The coupled likelihood where the denoiser's output is known for listed categories only.

Categories that are not listed are ruled out, so with the true token listed the likelihood is that
of the coupling of a slightly sharper denoiser; `omitted_mass` says how much sharper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import pcircuits as pc
from codd.coupling.couplings import LARGEST_LOG_POTENTIAL, CouplingSettings
from codd.errors import CouplingError
from codd.training.cache import CachedBatch


def listed_log_prob(
    settings: CouplingSettings,
    plan: pc.Plan,
    parameters: Mapping[str, Tensor],
    batch: CachedBatch,
    latent: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Log-probability of the masked tokens of cached windows given their visible ones.

    Args:
        settings: The coupling.
        plan: The circuit over W variables.
        parameters: Its log-weights by name, shared or per window.
        batch: What the denoiser said of B windows.
        latent: Node name -> (B, K) log-potentials over latent units.

    Returns:
        (B,) nats, differentiable in parameters and latent potentials.

    Raises:
        CouplingError: If the circuit contradicts the visible tokens.
    """
    if settings.kind == "factorised":
        return _taken(batch, batch.log_probs)
    prepared = pc.prepare(plan, parameters)
    potentials = batch.log_probs
    try:
        if settings.kind == "copula":
            potentials = _fitted(settings, plan, parameters, batch, latent)
        evidence = _evidence(batch, potentials, latent)
        log_partition = pc.forward(plan, prepared, evidence)
    except pc.errors.EvidenceError as error:
        raise CouplingError(f"the circuit contradicts the visible tokens: {error}") from error
    complete = pc.Evidence(batch.tokens, latent_log_potentials=latent)
    joint = pc.forward(plan, prepared, complete)
    return joint + _taken(batch, potentials) - log_partition


def omitted_mass(batch: CachedBatch) -> Tensor:
    """(B,) the most probability that a window's unlisted tokens have under the denoiser.

    The sum over the masked positions of what is not listed there bounds the probability that the
    factorised output leaves the listed categories at one of them; it never exceeds 1.
    """
    each = batch.log_omitted.exp().masked_fill(~batch.masked, 0.0)
    return each.sum(-1).clamp(max=1.0)


def _fitted(
    settings: CouplingSettings,
    plan: pc.Plan,
    parameters: Mapping[str, Tensor],
    batch: CachedBatch,
    latent: Mapping[str, Tensor] | None,
) -> Tensor:
    """The potentials of `couplings.fit_copula` at the listed categories."""
    target = potentials = batch.log_probs
    ruled_out = target == -torch.inf
    finite = target.masked_fill(ruled_out, 0.0)
    evidence = pc.Evidence(batch.tokens, ~batch.masked, latent_log_potentials=latent)
    for size in settings.step_sizes:
        # What reaches over all categories is computed anew for the gradient, not kept.
        predicted = checkpoint(
            _predicted,
            plan,
            parameters,
            evidence,
            batch.categories,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        fitted = finite - predicted
        before = potentials.masked_fill(ruled_out, 0.0)
        moved = (1 - size) * before + size * fitted.clamp(max=LARGEST_LOG_POTENTIAL)
        potentials = moved.masked_fill(ruled_out, -torch.inf)
        evidence = _evidence(batch, potentials, latent)
    return potentials


def _predicted(
    plan: pc.Plan, parameters: Mapping[str, Tensor], evidence: pc.Evidence, categories: Tensor
) -> Tensor:
    """(B, W, J) what the circuit predicts of the listed categories from all other positions."""
    return pc.queries.log_leave_one_out(plan, parameters, evidence).gather(2, categories)


def _evidence(
    batch: CachedBatch, potentials: Tensor, latent: Mapping[str, Tensor] | None
) -> pc.Evidence:
    return pc.Evidence(batch.tokens, ~batch.masked, potentials, latent, batch.categories)


def _taken(batch: CachedBatch, potentials: Tensor) -> Tensor:
    """(B,) sum of the potentials of the true tokens at the masked positions."""
    at = (batch.categories == batch.tokens[..., None]).to(torch.uint8).argmax(-1, keepdim=True)
    return potentials.gather(-1, at)[..., 0].masked_fill(~batch.masked, 0.0).sum(-1)
