"""Posterior marginals of variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, forward, prepare_for
from pcircuits.execute.eager import all_values
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.layers import log_sum
from pcircuits.execute.outward import messages
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import Weights, log_matmul_transposed
from pcircuits.queries.entries import Pairs, category_weights, has_shared_table
from pcircuits.queries.likelihood import require_possible


def marginals(plan: Plan, parameters: Parameters, evidence: Evidence) -> Tensor:
    """P(X_i = v | evidence) of every variable, all in one backward pass.

    They are the gradient of log Z with respect to the log-potentials (Darwiche, 2003).
    Differentiable where the parameters or potentials are.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; a variable's own evidence counts.

    Returns:
        (B, L, V); rows sum to 1, observed variables are one-hot.

    Raises:
        EvidenceError: If the evidence does not fit the circuit or is impossible.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])  # rain, wet grass
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> wet = pc.Evidence(torch.tensor([[0, 1]]), torch.tensor([[False, True]]))
        >>> pc.queries.marginals(model.plan, model.log_parameters(), wet).detach()[0]
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    found, log_z = marginals_and_log_value(plan, parameters, evidence)
    require_possible(log_z)
    return found


def marginals_and_log_value(
    plan: Plan, parameters: Parameters, evidence: Evidence
) -> tuple[Tensor, Tensor]:
    """As `marginals`, with (B,) log Z; rows of impossible examples are zero but where observed."""
    check_evidence(plan, evidence)
    prepared = prepare_for(plan, parameters, evidence)
    graph = torch.is_grad_enabled() and _needs_gradient(prepared, evidence)
    if not graph:
        prepared = prepared.detach()
    batch_size = joint_batch_size(prepared, evidence)
    shape = (batch_size, plan.num_variables, plan.num_categories)
    with torch.enable_grad():
        probe = _probe(prepared, evidence, shape, graph)
        log_z = forward(plan, prepared, replace(evidence, log_potentials=probe))
        found = None  # stays so where everything is observed and nothing depends on the probe
        if log_z.requires_grad:
            (found,) = torch.autograd.grad(
                log_z.sum(), probe, create_graph=graph, allow_unused=True
            )
        if found is None:
            found = torch.zeros_like(probe)
    if evidence.categories is not None:
        found = found.new_zeros(shape).scatter_add(2, evidence.categories, found)
    mask = evidence.mask()
    if mask is not None:
        assert evidence.values is not None
        values = torch.where(mask, evidence.values, 0).long()
        one_hot = torch.nn.functional.one_hot(values, plan.num_categories).to(found.dtype)
        found = torch.where(mask[..., None], one_hot, found)
    return found, log_z if graph else log_z.detach()


def _probe(
    prepared: PreparedParameters, evidence: Evidence, shape: tuple[int, ...], graph: bool
) -> Tensor:
    """The log-potentials, zero without any, as a tensor that a gradient can be taken for."""
    potentials = evidence.log_potentials
    if potentials is None:
        return _reference_tensor(prepared).new_zeros(shape).requires_grad_()
    own = (potentials if graph else potentials.detach()).to(prepared.dtype)
    return own if own.requires_grad else own.detach().requires_grad_()


def leave_one_out(plan: Plan, parameters: Parameters, evidence: Evidence) -> Tensor:
    """P(X_i = v | evidence about all the other variables), for every variable.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; a variable's own value or potentials do not count for it.

    Returns:
        (B, L, V); rows sum to 1.

    Raises:
        EvidenceError: If the evidence does not fit the circuit, or leaves a variable no value.

    Examples:
        The prediction of each variable from the others; the second is always wet if it rains:

        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> rain = pc.Evidence(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
        >>> pc.queries.leave_one_out(model.plan, model.log_parameters(), rain).detach()[0]
        tensor([[0.7500, 0.2500],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    return log_leave_one_out(plan, parameters, evidence).exp()


def log_leave_one_out(
    plan: Plan, parameters: Parameters, evidence: Evidence, categories: Tensor | None = None
) -> Tensor:
    """Logarithm of `leave_one_out`: the downward messages through the input tables.

    Differentiable where the parameters or potentials are.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind.
        categories: (B, L, k) integers, the categories that are asked for; default all. Of a table
            that all variables share only the listed columns are read.

    Returns:
        (B, L, V), or (B, L, k) of the listed categories; normalised over all V.

    Raises:
        EvidenceError: As `leave_one_out`.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> rain = pc.Evidence(torch.tensor([[1, 1]]))
        >>> yes = torch.ones(1, 2, 1, dtype=torch.long)  # only category 1 is asked for
        >>> found = pc.queries.log_leave_one_out(model.plan, model.log_parameters(), rain, yes)
        >>> found.exp().detach()[0]  # P(rain | wet), P(wet | rain)
        tensor([[0.5000],
                [1.0000]], dtype=torch.float64)
    """
    check_evidence(plan, evidence)
    prepared = prepare_for(plan, parameters, evidence)
    listed = None if categories is None else categories.long().transpose(0, 1)
    if listed is not None:
        _take_columns(plan, prepared)
    values, latent = all_values(plan, prepared, evidence)
    through: list[tuple[np.ndarray, Tensor]] = []
    totals: list[tuple[np.ndarray, Tensor]] = []
    for i, message in messages(plan, values, latent, prepared.weights).items():
        layer, own = plan.layers[i], prepared.weights[i]
        assert isinstance(layer, InputLayer) and isinstance(own, Weights)
        through.append((layer.variables, _through(plan, layer, own, message, listed)))
        totals.append((layer.variables, log_sum(message + own.log_row_sums)))
    length = plan.num_variables
    return _normalised(_by_variable(through, length), _by_variable(totals, length))


def _take_columns(plan: Plan, prepared: PreparedParameters) -> None:
    """Has tables that all share laid out by columns, from which then also row sums are taken."""
    for i in plan.input_layers:
        own = prepared.weights[i]
        if isinstance(own, Weights) and has_shared_table(own):
            _ = own.columns


def _through(
    plan: Plan, layer: InputLayer, weights: Weights, message: Tensor, listed: Tensor | None
) -> Tensor:
    """(F, B, V or k) what messages (F, B, K) to inputs say of the categories."""
    if listed is None:
        found = log_matmul_transposed(message, weights)
        missing = plan.num_categories - layer.num_categories
        padded: Tensor = torch.nn.functional.pad(found, (0, missing), value=-torch.inf)
        return padded
    folds, batch = message.shape[:2]
    asked = listed[torch.as_tensor(layer.variables, device=listed.device)]
    pairs = Pairs(
        np.arange(folds).repeat(batch),
        np.tile(np.arange(batch), folds),
        message.flatten(0, 1),
        asked.flatten(0, 1),
    )
    return category_weights(layer, weights, pairs).view(folds, batch, -1)


def _by_variable(parts: Sequence[tuple[np.ndarray, Tensor]], length: int) -> Tensor:
    """(B, L, ...) of (F, B, ...) for the variables of each layer's inputs; several add up."""
    variables, found = parts[0]
    if len(parts) == 1 and len(variables) == length:
        order = torch.as_tensor(variables.argsort(), device=found.device)
        return found[order].transpose(0, 1)
    rows: list[list[Tensor]] = [[] for _ in range(length)]
    for variables, found in parts:
        for variable, row in zip(variables.tolist(), found, strict=True):
            rows[variable].append(row)
    return torch.stack(
        [own[0] if len(own) == 1 else log_sum(torch.stack(own, -1)) for own in rows], dim=1
    )


def _normalised(log: Tensor, total: Tensor) -> Tensor:
    dead = (total.detach() == -torch.inf).nonzero()
    if len(dead):
        row, variable = dead[0].tolist()
        raise EvidenceError(
            f"the evidence of example {row} about the variables other than {variable} has "
            f"probability zero, so nothing can be said of variable {variable} given it"
        )
    return log - total[..., None]


def _reference_tensor(prepared: PreparedParameters) -> Tensor:
    return next(iter(prepared.weights.values())).log


def _needs_gradient(prepared: PreparedParameters, evidence: Evidence) -> bool:
    tensors = [w.log for w in prepared.weights.values()]
    tensors += [t for t in (evidence.log_potentials,) if t is not None]
    tensors += list((evidence.latent_log_potentials or {}).values())
    return any(tensor.requires_grad for tensor in tensors)
