"""The most probable assignment given evidence, with a certified bound on what was not found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.bounds import category_bounds, upper_bound
from pcircuits.queries.branch_and_bound import branch_and_bound
from pcircuits.queries.determinism import determinism_of
from pcircuits.queries.local_search import GAIN, climb
from pcircuits.queries.marginals import marginals_and_log_value
from pcircuits.queries.max_product import max_product
from pcircuits.queries.posterior import Posterior, posterior
from pcircuits.queries.sampling import sample

METHODS = ("max_product", "local_search", "branch_and_bound")


@dataclass(frozen=True, eq=False)
class MapResult:
    """Probable assignments, and how far from the most probable ones they can be.

    Attributes:
        values: (B, L) assignments; observed values are kept. Of an impossible example they are
            some assignment that agrees with what is observed.
        log_probability: (B,) log p(values) plus the log-potentials of the values that are not
            observed: the assignment's own weight, summed over all latent choices. Subtract
            `log_evidence` for the log-probability given the evidence. -inf if impossible.
        upper_bound: (B,) no assignment's `log_probability` is larger, up to rounding.
        exact: (B,) bool, True = no assignment is more probable.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(3, num_components=2, num_categories=2))
        >>> best = model.map(method="branch_and_bound")
        >>> worlds = torch.cartesian_prod(*[torch.arange(2)] * 3)
        >>> likeliest = worlds[model.log_likelihood(worlds).argmax()]
        >>> torch.equal(best.values[0], likeliest), best.exact
        (True, tensor([True]))
    """

    values: Tensor
    log_probability: Tensor
    upper_bound: Tensor
    exact: Tensor


def map(
    plan: Plan,
    parameters: Parameters,
    evidence: Evidence | None = None,
    *,
    method: str = "local_search",
    restarts: int = 0,
    max_steps: int = 1000,
    node_limit: int = 10_000,
    generator: torch.Generator | None = None,
) -> MapResult:
    """Finds argmax over x of p(x, evidence), summed over latent choices, as well as asked for.

    In a deterministic circuit the max-product pass alone is exact (Choi, Vergari and Van den
    Broeck, "Probabilistic Circuits", 2020, section 6). Else it maximises over x and the latent
    choices together, which is another problem; finding the best x is NP-hard, so the best
    assignment found is weighed exactly and comes with an upper bound, and `exact` says where the
    two meet.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; default none.
        method: "max_product" takes the maximum over x and latent choices together.
            "local_search" starts from that, from each variable's most probable category and from
            `restarts` posterior samples, and changes one variable at a time while that helps.
            "branch_and_bound" goes on to search all assignments; for small circuits.
        restarts: Posterior samples to start the local search from.
        max_steps: Most changes of one start of the local search.
        node_limit: Most partial assignments that branch and bound visits for one example.
        generator: Source of randomness of the restarts; default the global one.

    Returns:
        The assignments, with bounds. `log_probability` is differentiable in parameters and
        potentials, the assignment kept.

    Raises:
        EvidenceError: If the evidence does not fit the circuit, there is no such method, or a
            number is out of range.

    Examples:
        The most probable day, and the most probable one of rain:

        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> pc.queries.map(model.plan, model.log_parameters()).values
        tensor([[0, 0]])
        >>> rain = pc.Evidence(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
        >>> best = pc.queries.map(model.plan, model.log_parameters(), rain)
        >>> best.values, best.exact
        (tensor([[1, 1]]), tensor([True]))
    """
    if method not in METHODS or restarts < 0 or max_steps < 0 or node_limit < 1:
        raise EvidenceError(
            f"expected a method of {METHODS}, restarts >= 0, max_steps >= 0 and node_limit >= 1; "
            f"found {method!r}, {restarts}, {max_steps}, {node_limit}"
        )
    given = posterior(plan, parameters, evidence)
    fixed = _detached(given)
    _, values = max_product(fixed)
    deterministic = bool(determinism_of(plan, parameters).holds)
    if not deterministic and method != "max_product":
        values = _searched(fixed, values, restarts, max_steps, generator)
    weight = given.log_weight(values)
    found = weight.detach()
    bound = found if deterministic else upper_bound(category_bounds(fixed))
    if method == "branch_and_bound" and not deterministic:
        values, bound = _complete(fixed, values, found, bound, node_limit)
        weight = given.log_weight(values)
        found = weight.detach()
    return MapResult(values, weight, torch.maximum(bound, found), _meets(found, bound))


def _detached(given: Posterior) -> Posterior:
    return replace(
        given,
        prepared=given.prepared.detach(),
        log_potentials=given.log_potentials.detach(),
        latent={name: tensor.detach() for name, tensor in given.latent.items()},
    )


def _meets(value: Tensor, bound: Tensor) -> Tensor:
    """(B,) whether a value attains its bound up to rounding."""
    slack = GAIN[value.dtype] * value.abs().clamp(min=1.0)
    return (bound == value) | (bound <= value + slack)


@torch.no_grad()
def _searched(
    given: Posterior,
    values: Tensor,
    restarts: int,
    max_steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """(B, L) the best of what climbing from several starts finds."""
    evidence = given.evidence()
    single, log_z = marginals_and_log_value(given.plan, given.prepared, evidence)
    possible = (log_z > -torch.inf).nonzero()[:, 0]
    if len(possible) == 0:
        return values
    rows = given.take(possible)
    starts = [values[possible][:, None], single[possible].argmax(-1)[:, None]]
    if restarts:
        drawn = sample(given.plan, rows.prepared, restarts, rows.evidence(), generator=generator)
        starts.append(drawn.view(len(possible), restarts, -1))
    joined = torch.cat(starts, dim=1)
    best = values.clone()
    best[possible] = _best_climb(rows, joined, max_steps)
    return best


def _best_climb(rows: Posterior, starts: Tensor, max_steps: int) -> Tensor:
    """(B, L) the most probable end of climbs from (B, S, L) starts."""
    batch, number, length = starts.shape
    index = torch.arange(batch, device=starts.device).repeat_interleave(number)
    spread, flat = rows.take(index), starts.reshape(batch * number, length)
    usable = (spread.log_weight(flat) > -torch.inf).nonzero()[:, 0]
    flat[usable] = climb(spread.take(usable), flat[usable], max_steps=max_steps)
    place = spread.log_weight(flat).view(batch, number).argmax(-1)
    ends = flat.view(batch, number, length)
    return ends[torch.arange(batch, device=ends.device), place]


def _complete(
    given: Posterior, values: Tensor, found: Tensor, bound: Tensor, node_limit: int
) -> tuple[Tensor, Tensor]:
    """Values and bounds after branch and bound on the examples that are still open."""
    rows = (~_meets(found, bound)).nonzero()[:, 0]
    values, bound = values.clone(), bound.clone()
    if len(rows):
        values[rows], own = branch_and_bound(
            given.take(rows), values[rows], found[rows], node_limit=node_limit
        )
        bound[rows] = torch.minimum(bound[rows], own)
    return values, bound
