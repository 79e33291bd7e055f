"""Exact dependencies between variables."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.api import Parameters
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.marginals import marginals, pairwise_marginals


def mutual_information(
    plan: Plan, parameters: Parameters, evidence: Evidence | None = None
) -> Tensor:
    """Mutual information of every pair of variables given the evidence.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; default none.

    Returns:
        (B, L, L) in nats, symmetric, with the entropy of each variable on the diagonal; zero for
        observed variables.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible.
    """
    evidence = evidence or Evidence()
    single = marginals(plan, parameters, evidence).detach()
    length = plan.num_variables
    mask = evidence.mask()
    # A variable that every example observes tells nothing: its pairs need no pass.
    free = [i for i in range(length) if mask is None or not bool(mask[:, i].all())]
    information = single.new_zeros(single.shape[0], length, length)
    entropy = torch.special.entr(single).sum(-1)
    information.diagonal(dim1=1, dim2=2).copy_(entropy)
    for place, i in enumerate(free):
        others = free[place + 1 :]
        if not others:
            break
        joint = pairwise_marginals(plan, parameters, evidence, [(i, j) for j in others])
        joint_entropy = torch.special.entr(joint).sum((-1, -2))
        shared = entropy[:, i, None] + entropy[:, others] - joint_entropy
        information[:, i, others] = information[:, others, i] = shared.clamp_min(0.0)
    return information
