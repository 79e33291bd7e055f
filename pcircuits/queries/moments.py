"""Mean and covariance of functions that add up over the variables.

For f(x) = sum_i f_i(x_i) the function log E[exp(t f(x))] is a log Z: that of potentials t f_i(x_i)
on top of the evidence. Its derivatives at t = 0 are the cumulants of f (Darwiche, 2003, section
5.2, takes the first), so a covariance needs one more backward pass for each function, not a pass
for each pair of variables.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.marginals import marginals
from pcircuits.queries.posterior import Posterior, posterior


def expectation(
    plan: Plan, parameters: Parameters, functions: Tensor, evidence: Evidence | None = None
) -> Tensor:
    """E[f(x) | evidence] of f(x) = sum_i functions[i, x_i].

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        functions: (L, V) one function, or (F, L, V) many; finite. The entries of categories that
            a variable does not have are irrelevant.
        evidence: Evidence of any kind; default none.

    Returns:
        (B,), or (B, F) for many functions. Differentiable in parameters, potentials, functions.

    Raises:
        EvidenceError: If the functions or the evidence do not fit, or the evidence is impossible.

    Examples:
        How many of two throws are heads:

        >>> rows = torch.tensor([[0, 0], [1, 1], [1, 1], [1, 0]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> heads = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
        >>> found = pc.queries.expectation(model.plan, model.log_parameters(), heads)
        >>> found.detach()  # five heads in four rows
        tensor([1.2500], dtype=torch.float64)
    """
    given = posterior(plan, parameters, evidence)
    tables = _tables(given, functions)
    single = marginals(plan, given.prepared, given.evidence())
    found = torch.einsum("blv,flv->bf", single, tables)
    return found[:, 0] if functions.ndim == 2 else found


def covariance(
    plan: Plan, parameters: Parameters, functions: Tensor, evidence: Evidence | None = None
) -> Tensor:
    """Covariances of additive functions given the evidence.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        functions: (F, L, V) finite; see `expectation`.
        evidence: Evidence of any kind; default none.

    Returns:
        (B, F, F), symmetric. Differentiable in parameters, potentials and functions.

    Raises:
        EvidenceError: If the functions or the evidence do not fit, or the evidence is impossible.

    Examples:
        Two variables that are equal; one function is the first's value, another the second's:

        >>> rows = torch.tensor([[0, 0], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> functions = torch.zeros(2, 2, 2, dtype=torch.float64)
        >>> functions[0, 0, 1] = functions[1, 1, 1] = 1.0
        >>> found = pc.queries.covariance(model.plan, model.log_parameters(), functions)
        >>> found.detach()[0]  # a fair coin's variance is 1/4
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]], dtype=torch.float64)
    """
    given = posterior(plan, parameters, evidence)
    tables = _tables(given, functions)
    tensors = [w.log for w in given.prepared.weights.values()]
    tensors += [given.log_potentials, tables, *given.latent.values()]
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    with torch.enable_grad():
        found = _second_derivatives(given, tables, graph)
    symmetric = (found + found.transpose(1, 2)) / 2
    return symmetric if graph else symmetric.detach()


def variance(
    plan: Plan, parameters: Parameters, functions: Tensor, evidence: Evidence | None = None
) -> Tensor:
    """Var[f(x) | evidence] of f(x) = sum_i functions[i, x_i].

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        functions: (L, V) one function, or (F, L, V) many; see `expectation`.
        evidence: Evidence of any kind; default none.

    Returns:
        (B,), or (B, F) for many functions; not negative.

    Raises:
        EvidenceError: If the functions or the evidence do not fit, or the evidence is impossible.

    Examples:
        The number of heads of two coins that always agree, and of two that never do:

        >>> heads = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
        >>> for rows in ([[0, 0], [1, 1]], [[0, 1], [1, 0]]):
        ...     model = pc.CircuitModel.of(pc.chow_liu(torch.tensor(rows), pseudocount=0))
        ...     print(pc.queries.variance(model.plan, model.log_parameters(), heads).detach())
        tensor([1.], dtype=torch.float64)
        tensor([0.], dtype=torch.float64)
    """
    if functions.ndim == 2:
        return covariance(plan, parameters, functions[None], evidence)[:, 0, 0].clamp_min(0.0)
    # One function at a time: pairs of different ones are not asked for.
    parts = [variance(plan, parameters, function, evidence) for function in functions]
    return torch.stack(parts, dim=1)


def _tables(given: Posterior, functions: Tensor) -> Tensor:
    """(F, L, V) functions, zero at categories that do not exist."""
    shape = tuple(given.log_potentials.shape[1:])
    if functions.ndim not in (2, 3) or tuple(functions.shape[-2:]) != shape or not len(functions):
        raise EvidenceError(
            f"functions must have shape {shape} or (F, *{shape}); found {tuple(functions.shape)}"
        )
    tables = functions.to(given.log_potentials.dtype).view(-1, *shape)
    sizes = torch.tensor(given.plan.circuit.categories, device=tables.device)
    missing = torch.arange(shape[1], device=tables.device) >= sizes[:, None]
    tables = tables.masked_fill(missing, 0.0)
    if not bool(torch.isfinite(tables.detach()).all()):
        where = (~torch.isfinite(tables.detach())).nonzero()[0].tolist()
        raise EvidenceError(f"functions hold {float(tables[tuple(where)])} at {where}")
    return tables


def _second_derivatives(given: Posterior, tables: Tensor, graph: bool) -> Tensor:
    """(B, F, F) second derivatives of log Z under potentials t f."""
    scale = tables.new_zeros(given.batch_size, len(tables), requires_grad=True)
    tilted = given.log_potentials + torch.einsum("bf,flv->blv", scale, tables)
    single = marginals(given.plan, given.prepared, replace(given, log_potentials=tilted).evidence())
    # A constant changes no covariance, and without it no digits are lost to cancellation.
    centre = torch.einsum("blv,flv->bfl", single.detach(), tables.detach())
    centred = tables - centre[..., None]  # (B, F, L, V)
    means = torch.einsum("blv,bflv->fb", single, centred)
    if not means.requires_grad:
        return torch.einsum("bf,bg->bfg", scale, scale).detach()  # everything is observed
    rows = [
        torch.autograd.grad(mean.sum(), scale, create_graph=graph, retain_graph=True)[0]
        for mean in means
    ]
    return torch.stack(rows, dim=1)
