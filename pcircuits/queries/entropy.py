"""Entropy of the variables given evidence: exact where it can be, else between bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.bounds import category_bounds, upper_bound
from pcircuits.queries.decomposition import entropy_of, latent_decomposition
from pcircuits.queries.determinism import determinism_of
from pcircuits.queries.information import mutual_information
from pcircuits.queries.marginals import marginals
from pcircuits.queries.posterior import Posterior, posterior
from pcircuits.queries.sampling import sample

# Bounds that are this close, in nats, are the value.
_CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True, eq=False)
class Entropy:
    """Entropy of p(x | evidence) in nats, as well as it is known.

    Attributes:
        lower_bound: (B,) the entropy is at least this, up to rounding.
        upper_bound: (B,) and at most this.
        exact: (B,) bool, True = the bounds are the value itself.
        estimate: (B,) the value where exact, else a Monte Carlo estimate; None if some example is
            not exact and no samples were asked for.
        standard_error: (B,) of the estimate, zero where exact; None with it.

    Examples:
        A mixture is not deterministic: bounds, and an estimate if it is asked for.

        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> entropy = model.entropy(num_samples=1000)
        >>> bool(entropy.lower_bound <= entropy.estimate <= entropy.upper_bound), entropy.exact
        (True, tensor([False]))
        >>> bool(entropy.standard_error < 0.05)
        True
    """

    lower_bound: Tensor
    upper_bound: Tensor
    exact: Tensor
    estimate: Tensor | None
    standard_error: Tensor | None


def entropy(
    plan: Plan,
    parameters: Parameters,
    evidence: Evidence | None = None,
    *,
    num_samples: int = 0,
    pairwise: bool = False,
    generator: torch.Generator | None = None,
) -> Entropy:
    """Entropy of the variables given the evidence, H(x) = -E[log p(x | evidence)].

    With z the circuit's latent choices, H(x | z) and H(x, z) are exact in every circuit and bound
    it. In a deterministic circuit x decides z, so H(x) = H(x, z) (Vergari et al., "A compositional
    atlas of tractable circuit operations", NeurIPS 2021, section 4). Otherwise it is at least the
    entropy of any one variable and minus the log-probability of the most probable world, and at
    most the sum of the variables' entropies.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; default none.
        num_samples: Posterior samples of each example for a Monte Carlo estimate where the value
            is not exact; 0 for none.
        pairwise: Whether to lower the upper bound by the mutual information along the best tree
            of variables (Chow and Liu, 1968), for the price of `mutual_information`.
        generator: Source of randomness; default the global one.

    Returns:
        Bounds, which of them are exact, and an estimate. Differentiable in parameters and
        potentials, but for the estimate, whose samples would depend on them.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, or there is one sample only.

    Examples:
        >>> rows = torch.tensor([[0, 0], [1, 1], [1, 1], [0, 0]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))  # deterministic
        >>> entropy = pc.queries.entropy(model.plan, model.log_parameters())
        >>> entropy.estimate.detach(), entropy.exact  # ln 2
        (tensor([0.6931], dtype=torch.float64), tensor([True]))
    """
    if num_samples < 0 or num_samples == 1:
        raise EvidenceError(f"num_samples must be 0, or 2 and more; found {num_samples}")
    given = posterior(plan, parameters, evidence)
    latent, inputs, log_z = latent_decomposition(given)
    lower, upper = _bounds(given, latent, inputs, log_z, pairwise)
    exact = upper - lower <= _CLOSE[upper.dtype] * (1 + upper.abs())
    if determinism_of(plan, parameters).holds:
        lower = upper = latent + inputs
        exact = torch.ones_like(exact)
    if bool(exact.all()):
        return Entropy(upper, upper, exact, upper, torch.zeros_like(upper))
    lower = torch.where(exact, upper, lower)
    if not num_samples:
        return Entropy(lower, upper, exact, None, None)
    estimate, error = _estimate(given, log_z, num_samples, generator)
    estimate, error = torch.where(exact, upper, estimate), error.masked_fill(exact, 0.0)
    return Entropy(lower, upper, exact, estimate, error)


def _bounds(
    given: Posterior, latent: Tensor, inputs: Tensor, log_z: Tensor, pairwise: bool
) -> tuple[Tensor, Tensor]:
    """(B,) best lower and best upper bound that hold in every circuit."""
    single = entropy_of(marginals(given.plan, given.prepared, given.evidence()), 1)
    least_surprise = log_z.detach() - upper_bound(category_bounds(given))
    lower = torch.stack([inputs, single.amax(-1), least_surprise]).amax(0)
    together = single.sum(-1)
    if pairwise:
        information = mutual_information(given.plan, given.prepared, given.evidence())
        together = together - _heaviest_tree(information)
    return lower.clamp_min(0.0), torch.minimum(latent + inputs, together)


def _heaviest_tree(information: Tensor) -> Tensor:
    """(B,) largest sum of mutual information over the edges of a tree of all variables.

    Prim's algorithm, all examples at once.
    """
    batch, length, _ = information.shape
    rows = torch.arange(batch, device=information.device)
    outside = torch.ones(batch, length, dtype=torch.bool, device=information.device)
    outside[:, 0] = False
    link, total = information[:, 0], information.new_zeros(batch)
    for _ in range(length - 1):
        best = link.masked_fill(~outside, -1.0).argmax(-1)
        total = total + link[rows, best]
        outside[rows, best] = False
        link = torch.maximum(link, information[rows, best])
    return total


@torch.no_grad()
def _estimate(
    given: Posterior, log_z: Tensor, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Mean of -log p(x | evidence) over posterior samples, and its standard error, (B,) each."""
    prepared = given.prepared.detach()
    drawn = sample(given.plan, prepared, num_samples, given.evidence(), generator=generator)
    found = log_z[:, None] - replace(given, prepared=prepared).log_weights(drawn)
    return found.mean(1), found.std(1) / num_samples**0.5
