"""Expected counts: how often each weight takes part in explaining the data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence


def flows(
    plan: Plan,
    parameters: Mapping[str, Tensor],
    evidence: Evidence,
    *,
    weights: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Expected counts of all weights: the gradient of the log-value for the log-weights.

    Args:
        plan: The compiled circuit.
        parameters: Shared log-weights by name.
        evidence: Evidence about B examples, of any kind.
        weights: (B,) weight of each example; default 1.

    Returns:
        Name -> expected counts of the parameter's shape, summed over examples, and the examples'
        (B,) log-values.

    Raises:
        EvidenceError: If an example is impossible under the parameters.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        value = forward(plan, leaves, evidence)
        dead = (value.detach() == -torch.inf).nonzero()[:, 0].tolist()
        if dead:
            raise EvidenceError(
                f"example {dead[0]} (of {len(dead)} such) has probability zero under the "
                f"parameters, so it has no expected counts; smooth them, or leave it out"
            )
        total = value.sum() if weights is None else (weights * value).sum()
        counts = torch.autograd.grad(total, list(leaves.values()))
    return dict(zip(leaves, counts, strict=True)), value.detach()


def maximise(counts: Mapping[str, Tensor], pseudocount: float) -> dict[str, Tensor]:
    """The M-step: log of each row of counts plus a pseudocount, normalised.

    Args:
        counts: Name -> expected counts.
        pseudocount: Count that each row gets in all, spread evenly: rows without data become
            uniform, and with a positive one no weight reaches zero.

    Returns:
        Name -> log-weights.
    """
    found = {}
    for name, count in counts.items():
        smoothed = count + pseudocount / count.shape[-1]
        empty = smoothed.sum(-1, keepdim=True) == 0
        found[name] = torch.where(empty, 1.0, smoothed).log().log_softmax(-1)
    return found
