"""Conditional distributions of several variables together, as whole tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, forward
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.likelihood import require_possible
from pcircuits.queries.posterior import BATCH_BYTES, Posterior, posterior

# Entries of a table for one example; a table is exponential in its variables.
_LARGEST_TABLE = 1 << 22


def joint_marginal(
    plan: Plan, parameters: Parameters, evidence: Evidence | None, variables: Sequence[int]
) -> Tensor:
    """P(X_i = a, X_j = b, ... | evidence) of a few variables, as a full table.

    The circuit is evaluated once for every assignment of the variables, many in one batch. The
    evidence about the variables themselves counts: an observed one has probability only at its
    value, potentials multiply. Differentiable where parameters or potentials are.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; default none.
        variables: Different variables i, j, ..., at least one.

    Returns:
        (B, V_i, V_j, ...), each table summing to 1, an axis for each variable in the given order.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, a variable is unknown or
            named twice, or the table would have more than 4 million entries an example.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> pc.queries.joint_marginal(model.plan, model.log_parameters(), None, [0, 1]).detach()[0]
        tensor([[0.5000, 0.2500],
                [0.0000, 0.2500]], dtype=torch.float64)
    """
    names = check_variables(plan, variables)
    given = posterior(plan, parameters, evidence)
    log, sizes = log_table(given, names), [plan.circuit.categories[name] for name in names]
    require_possible(log.amax(-1))
    return log.softmax(-1).view(-1, *sizes)


def conditional(
    plan: Plan,
    parameters: Parameters,
    evidence: Evidence | None,
    target: Sequence[int],
    given: Sequence[int] = (),
) -> Tensor:
    """P(target | given, evidence): a distribution of the targets for every value of the given.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; default none.
        target: Variables whose distribution is asked for, at least one.
        given: Variables that are conditioned on, in addition to the evidence.

    Returns:
        (B, axes of the given, axes of the targets); tables over the targets sum to 1, and are
        zero where the values of the given are impossible.

    Raises:
        EvidenceError: As `joint_marginal`.

    Examples:
        Rain and wet grass on four days:

        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> table = pc.queries.conditional(
        ...     model.plan, model.log_parameters(), None, target=[1], given=[0]
        ... )
        >>> table.detach()[0]  # P(wet | no rain), P(wet | rain)
        tensor([[0.6667, 0.3333],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    joint = joint_marginal(plan, parameters, evidence, [*given, *target])
    axes = tuple(range(1 + len(given), joint.ndim))
    total = joint.sum(axes, keepdim=True)
    possible = total > 0
    return torch.where(possible, joint / torch.where(possible, total, 1.0), 0.0)


def log_conditional(
    plan: Plan,
    parameters: Parameters,
    values: Tensor,
    queried: Tensor,
    evidence: Evidence | None = None,
) -> Tensor:
    """Log p(queried values | evidence), all other variables summed out.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        values: (B, L) integers; where not queried they are irrelevant.
        queried: (B, L) bool, True = the value is asked about.
        evidence: Evidence of any kind about the same B examples; default none.

    Returns:
        (B,) log-probabilities in nats; -inf where values contradict the evidence.

    Raises:
        EvidenceError: If shapes do not fit or the evidence itself is impossible.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> wet = pc.Evidence(torch.tensor([[0, 1]]), torch.tensor([[False, True]]))
        >>> about_rain = torch.tensor([[True, False]])
        >>> log_probability = pc.queries.log_conditional(
        ...     model.plan, model.log_parameters(), torch.tensor([[1, 1]]), about_rain, wet
        ... )
        >>> log_probability.exp().detach()  # P(rain | wet)
        tensor([0.5000], dtype=torch.float64)
    """
    asked = posterior(plan, parameters, Evidence(values, queried))
    known = posterior(plan, parameters, evidence)
    batch_sizes = {asked.batch_size, known.batch_size}
    if len(batch_sizes) > 1 and 1 not in batch_sizes:
        raise EvidenceError(
            f"values are about {asked.batch_size} examples, the evidence about {known.batch_size}"
        )
    log_z = forward(plan, known.prepared, known.evidence())
    require_possible(log_z)
    factors = asked.log_potentials.masked_fill(~queried[..., None], 0.0)
    latent = {n: tensor.expand(max(batch_sizes), -1) for n, tensor in known.latent.items()}
    both = replace(known, log_potentials=known.log_potentials + factors, latent=latent)
    return forward(plan, both.prepared, both.evidence()) - log_z


def check_variables(plan: Plan, variables: Sequence[int]) -> list[int]:
    """The variables as a list of different ones of the circuit, few enough for a table.

    Raises:
        EvidenceError: If they are not.
    """
    names = [int(variable) for variable in variables]
    length = plan.num_variables
    if not names or len(set(names)) < len(names) or not all(0 <= name < length for name in names):
        raise EvidenceError(f"expected different variables of 0 .. {length - 1}; found {names}")
    size = math.prod(plan.circuit.categories[name] for name in names)
    if size > _LARGEST_TABLE:
        raise EvidenceError(
            f"a table of variables {names} has {size:,} entries an example; expected at most "
            f"{_LARGEST_TABLE:,}"
        )
    return names


def log_table(given: Posterior, variables: Sequence[int]) -> Tensor:
    """(B, N) log of the evidence's weight together with each assignment of some variables.

    Assignments are in the order of `itertools.product`: the last variable changes fastest.
    """
    parts = []
    for values in assignments(given.plan, variables, given.log_potentials.device):
        rows, log = restrict(given, variables, values)
        found = forward(given.plan, rows.prepared, rows.evidence())
        parts.append(found.view(given.batch_size, -1) + log)
    return torch.cat(parts, dim=1)


def assignments(plan: Plan, variables: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """(n, number of variables) all assignments of some variables, in parts of one batch each."""
    sizes = [plan.circuit.categories[variable] for variable in variables]
    total = math.prod(sizes)
    cost = plan.cost().value_bytes + 4 * plan.num_variables * plan.num_categories
    at_once = max(1, BATCH_BYTES // (4 * cost))
    for start in range(0, total, at_once):
        index = torch.arange(start, min(start + at_once, total), device=device)
        yield torch.stack(torch.unravel_index(index, sizes), dim=-1)


def restrict(
    given: Posterior, variables: Sequence[int], values: Tensor
) -> tuple[Posterior, Tensor]:
    """Sets variables to each of n assignments (n, number of variables).

    Returns:
        B * n examples, all assignments of an example together, and (B, n) the log-factors that
        the evidence has for the assignments: the examples themselves do not hold them.
    """
    batch, number = given.batch_size, len(values)
    rows = given.take(torch.arange(batch, device=values.device).repeat_interleave(number))
    at = torch.as_tensor(variables, device=values.device)
    one_hot = torch.zeros_like(given.log_potentials[0, 0]).expand(number, len(variables), -1)
    hard = torch.full_like(one_hot, -torch.inf).scatter(2, values[..., None], 0.0)
    own = given.log_potentials[:, at]  # (B, n variables, V)
    factors = (
        own[:, None]
        .expand(-1, number, -1, -1)
        .gather(3, values[None, ..., None].expand(batch, -1, -1, 1))
    )
    potentials = rows.log_potentials.index_copy(1, at, hard.repeat(batch, 1, 1))
    return replace(rows, log_potentials=potentials), factors[..., 0].sum(-1)
