"""Expected counts: how often each weight takes part in explaining the data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.parameters import row_totals


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
        parameters: Name -> log-weights of the declared shape, shared by all examples.
        evidence: Evidence about B examples, of any kind. With none at all the counts are those
            that the model itself expects of one example: the probability that a sample of it uses
            the weight, added up over tied nodes.
        weights: (B,) weight of each example; default 1.

    Returns:
        Name -> expected counts of the parameter's shape, summed over examples, and the examples'
        (B,) log-values.

    Raises:
        EvidenceError: If an example of weight other than zero is impossible under the parameters,
            or the weights' shape is wrong.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(1, num_components=2, num_categories=2))
        >>> rows = pc.Evidence(torch.tensor([[0], [1], [1]]))
        >>> counts, log_values = pc.flows(model.plan, model.log_parameters(), rows)
        >>> round(counts["weights"].sum().item(), 4)  # every row takes one component
        3.0
        >>> counts["input_0"].sum(0).detach()  # one row of category 0, two of category 1
        tensor([1., 2.])
    """
    if weights is not None and tuple(weights.shape) != (evidence.batch_size,):
        raise EvidenceError(
            f"weights have shape {tuple(weights.shape)}; expected ({evidence.batch_size},)"
        )
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        value = forward(plan, leaves, evidence)
    each = torch.ones_like(value) if weights is None else weights.to(value)
    dead = ((value.detach() == -torch.inf) & (each != 0)).nonzero()[:, 0].tolist()
    if dead:
        raise EvidenceError(
            f"example {dead[0]} (of {len(dead)} such) has probability zero under the "
            f"parameters, so it has no expected counts; smooth them, or leave it out"
        )
    counts = torch.autograd.grad(value, list(leaves.values()), each)
    return dict(zip(leaves, counts, strict=True)), value.detach()


def maximise(
    plan: Plan, counts: Mapping[str, Tensor], pseudocount: float, previous: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The M-step: log of each distribution of counts plus a pseudocount, normalised.

    A weight that is exactly zero stays zero, whatever the pseudocount: it is structure, such as a
    transition that must not happen. A positive pseudocount never lets another weight become zero.

    Args:
        plan: The compiled circuit.
        counts: Name -> expected counts.
        pseudocount: Count that each distribution gets in all, spread evenly over its non-zero
            weights.
        previous: Name -> log-weights that the counts were taken under.

    Returns:
        Name -> log-weights; distributions without any count stay as they were.
    """
    found = {}
    for name, count in counts.items():
        old = previous[name].detach()
        smoothed = count
        if pseudocount > 0:
            smoothed = count + pseudocount * _uniform(plan, name, old)
        totals = row_totals(plan, name, smoothed)
        found[name] = _logarithm(smoothed) - _logarithm(totals)
        if _least(totals) <= 0:
            found[name] = torch.where(totals == 0, old, found[name])
    return found


def _logarithm(numbers: Tensor) -> Tensor:
    if numbers.device.type != "cpu":
        return numbers.log()
    # Many counts are zero: PyTorch's logarithm takes thirty times as long where they are.
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(numbers.detach().numpy()))


def _least(numbers: Tensor) -> float:
    """Least number; -inf on a GPU, where a look at one would wait for all that is computed."""
    return float(numbers.detach().min()) if numbers.device.type == "cpu" else -math.inf


def log_prior(plan: Plan, parameters: Mapping[str, Tensor], pseudocount: float) -> Tensor:
    """What pseudocounts add to the log-likelihood of all rows: `maximise` climbs the sum of both.

    It is the log-density, up to a constant, of a Dirichlet prior on every distribution: the mean
    log-weight of its non-zero weights, times the pseudocount.

    Args:
        plan: The compiled circuit.
        parameters: Name -> normalised log-weights.
        pseudocount: Count of each distribution.

    Returns:
        Scalar in nats, differentiable.
    """
    terms = [
        (_uniform(plan, name, log) * log.masked_fill(log == -torch.inf, 0.0)).sum()
        for name, log in parameters.items()
    ]
    return pseudocount * torch.stack(terms).sum()


def _uniform(plan: Plan, name: str, log_weights: Tensor) -> Tensor:
    """One over the number of non-zero weights of each distribution; 0 where the weight is zero."""
    rows = plan.parameter_rows[name]
    if isinstance(rows, int) and _least(log_weights) > -math.inf:
        return log_weights.new_full((), 1 / rows)
    alive = (log_weights.detach() != -torch.inf).to(log_weights.dtype)
    return alive / row_totals(plan, name, alive)
