"""Derivatives of log Z with respect to everything it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.api import forward, prepare_for
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import joint_batch_size


@dataclass(frozen=True, eq=False)
class Gradients:
    """Derivatives of the sum over examples of log Z.

    Attributes:
        log_evidence: (B,) log Z; the derivatives of an impossible example are zero.
        parameters: Name -> derivatives in the shape of the given log-weights: how often each
            weight is expected to be used, added up over the examples that share it.
        log_potentials: Derivatives in the shape of the evidence's log-potentials, (B, L, V) where
            it has none: posterior marginals, zero where a variable is observed.
        latent_log_potentials: Node name -> (B, K) for the nodes that the evidence has latent
            potentials for: posterior probabilities of their units.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> model.set_probabilities({"input_0": torch.tensor([[0.25, 0.75]])})
        >>> gradients = model.gradients()
        >>> gradients.log_potentials  # posterior marginals
        tensor([[[0.2500, 0.7500]]])
        >>> gradients.parameters["input_0"]  # expected counts
        tensor([[0.2500, 0.7500]])
    """

    log_evidence: Tensor
    parameters: dict[str, Tensor]
    log_potentials: Tensor
    latent_log_potentials: dict[str, Tensor]


def gradients(
    plan: Plan, parameters: Mapping[str, Tensor], evidence: Evidence | None = None
) -> Gradients:
    """Derivatives of log Z, in one pass up and one down.

    The log-weights are taken as independent numbers: nothing is normalised here. To train, call
    `backward` on any query instead, which goes through whatever made the log-weights.

    Args:
        plan: The compiled circuit.
        parameters: Name -> log-weights, shared or per example; they are not changed.
        evidence: Evidence of any kind; default none.

    Returns:
        The derivatives, and log Z itself.

    Raises:
        EvidenceError: If the evidence does not fit the circuit.
        ParameterError: If the parameters do not.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(1, num_components=2, num_categories=2))
        >>> rows = pc.Evidence(torch.tensor([[0], [1], [1]]))
        >>> found = pc.queries.gradients(model.plan, model.log_parameters(), rows)
        >>> found.parameters["input_0"].sum(0)  # one row of category 0, two of category 1
        tensor([1., 2.])
    """
    evidence = evidence or Evidence()
    check_evidence(plan, evidence)
    weights = {name: _leaf(tensor) for name, tensor in parameters.items()}
    latent = {n: _leaf(tensor) for n, tensor in (evidence.latent_log_potentials or {}).items()}
    with torch.enable_grad():
        prepared = prepare_for(plan, weights, evidence)
        potentials = evidence.log_potentials
        if potentials is None:
            shape = (joint_batch_size(prepared, evidence), plan.num_variables, plan.num_categories)
            like = next(iter(prepared.weights.values())).log
            potentials = like.detach().new_zeros(shape)
        probe = _leaf(potentials)
        leaves = [*weights.values(), probe, *latent.values()]
        given = replace(evidence, log_potentials=probe, latent_log_potentials=latent or None)
        log_z = forward(plan, prepared, given)
        found: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if log_z.requires_grad:  # not where all is observed and there is no parameter
            found = torch.autograd.grad(log_z.sum(), leaves, allow_unused=True)
    filled = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found, strict=True)
    ]
    return Gradients(
        log_evidence=log_z.detach(),
        parameters=dict(zip(weights, filled, strict=False)),
        log_potentials=filled[len(weights)],
        latent_log_potentials=dict(zip(latent, filled[len(weights) + 1 :], strict=True)),
    )


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()
