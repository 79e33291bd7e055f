"""Improves assignments one variable at a time, many of them at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.execute.evidence import Evidence
from pcircuits.queries.marginals import log_leave_one_out
from pcircuits.queries.posterior import Posterior

# A change must gain this many nats, more than rounding could pretend, so that climbing ends.
GAIN = {torch.float32: 1e-4, torch.float64: 1e-10}


@torch.no_grad()
def climb(given: Posterior, values: Tensor, *, max_steps: int) -> Tensor:
    """Takes, for each assignment, the best change of one variable until none is left.

    One pass up and one down gives p(x_i = v, the others as they are) for all i and v.

    Args:
        given: The circuit and its evidence, an example for each assignment.
        values: (B, L) assignments of positive weight.
        max_steps: Most changes of one assignment.

    Returns:
        (B, L) assignments that no change of one variable improves, or that took all the steps.
    """
    values = values.clone()
    active = torch.arange(len(values), device=values.device)
    for _ in range(max_steps):
        gain, change = _best_change(given.take(active), values[active])
        better = gain > GAIN[gain.dtype]
        active, change = active[better], change[better]
        if len(active) == 0:
            break
        categories = given.plan.num_categories
        values[active, change // categories] = change % categories
    return values


def _best_change(given: Posterior, values: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) gain in nats of the best change of one variable, and (B,) its place in (L, V)."""
    around = Evidence(values, latent_log_potentials=given.latent or None)
    score = log_leave_one_out(given.plan, given.prepared, around) + given.log_potentials
    gains = score - score.gather(2, values[..., None])
    found = gains.flatten(1).max(-1)
    return found.values, found.indices
