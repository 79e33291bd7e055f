"""Certified upper bounds on the weight of the most probable assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer
from pcircuits.execute.inputs import latent_potentials
from pcircuits.execute.layers import evaluate, log_sum
from pcircuits.execute.outward import messages
from pcircuits.execute.weights import Weights, log_matmul_transposed
from pcircuits.queries.max_product import input_maxima
from pcircuits.queries.posterior import Posterior


@torch.no_grad()
def category_bounds(given: Posterior) -> Tensor:
    """For every variable and category a bound on all assignments that have it.

    Every input takes its largest value, every sum sums: no input can be larger at any assignment
    and the circuit is monotone in them. That circuit's derivatives with respect to the inputs of
    one variable give the same bound with that variable set to each of its categories, all of them
    in one pass up and one down.

    Returns:
        (B, L, V); entry (i, a) is at least log p(x) plus the evidence's factors for every x with
        x_i = a; -inf where there is none. The largest of any row bounds all assignments.
    """
    plan, weights = given.plan, given.prepared.weights
    leaves, _ = input_maxima(given)
    latent = latent_potentials(plan, given.prepared, given.evidence())
    inner = {i: value for i, value in latent.items() if i not in leaves}
    values = evaluate(plan, leaves, inner, weights, keep_all=True)
    down = messages(plan, [values[i] for i in range(len(plan.layers))], latent, weights)
    rows: list[list[Tensor]] = [[] for _ in range(plan.num_variables)]
    for i, message in down.items():
        layer, own = plan.layers[i], weights[i]
        assert isinstance(layer, InputLayer) and isinstance(own, Weights)
        through = log_matmul_transposed(message, own)
        missing = plan.num_categories - layer.num_categories
        through = torch.nn.functional.pad(through, (0, missing), value=-torch.inf)
        for variable, row in zip(layer.variables.tolist(), through, strict=True):
            rows[variable].append(row)
    joined = [log_sum(torch.stack(parts, -1)) for parts in rows]
    return torch.stack(joined, dim=1) + given.log_potentials


def upper_bound(bounds: Tensor) -> Tensor:
    """(B,) the best bound on all assignments that (B, L, V) `category_bounds` give."""
    return bounds.amax(-1).amin(-1)
