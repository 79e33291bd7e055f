"""Values of input layers on the device, differentiable, for every kind of evidence.

Which positions are observed is not asked: every row is computed in each form that may be needed,
rows of the other form are skipped inside the kernels, and the results are selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.layers import log_sum
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.triton.inputs_dense import Leaves, dense_values
from pcircuits.execute.triton.inputs_gradients import potential_gradient, scaled
from pcircuits.execute.triton.inputs_listed import listed_values
from pcircuits.execute.triton.table_gradients import table_gradient
from pcircuits.execute.triton.tables import Table, table_of
from pcircuits.execute.weights import Weights


def leaf_values(
    plan: Plan,
    prepared: PreparedParameters,
    evidence: Evidence,
    latent: Mapping[int, Tensor],
    *,
    precision: str = "tf32x3",
) -> dict[int, Tensor]:
    """As `execute.inputs.leaf_values`, computed by kernels without asking the device anything.

    Args:
        plan: The plan.
        prepared: Its parameters in float32.
        evidence: Checked evidence on the parameters' device.
        latent: Layer -> (F, B, K) latent log-potentials.
        precision: One of `tables.PRECISIONS`.

    Returns:
        Input layer -> (F, B, K) float32 log-values, differentiable once in log-weights, potentials
        and latent potentials.

    Raises:
        BackendError: If the parameters are not float32 or the precision is unknown.
    """
    batch_size = joint_batch_size(prepared, evidence)
    leaves: dict[int, Tensor] = {}
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer):
            own = prepared.weights[i]
            assert isinstance(own, Weights)
            value = _layer_values(plan, layer, own, evidence, batch_size, precision)
            leaves[i] = value + latent[i] if i in latent else value
    return leaves


def _layer_values(
    plan: Plan,
    layer: InputLayer,
    weights: Weights,
    evidence: Evidence,
    batch_size: int,
    precision: str,
) -> Tensor:
    """(F, B, K) log-values of one input layer."""
    log, folds = weights.log, len(layer.variables)
    shape = (folds, batch_size, layer.num_units)
    observed = evidence.mask()
    if observed is not None:
        observed = _of(plan, layer, observed).expand(shape[:2])
        assert evidence.values is not None
        values = _of(plan, layer, evidence.values).long().expand(shape[:2])
        hard = hard_values(log, torch.where(observed, values, 0))
        if evidence.observed is None:
            return hard
    if evidence.log_potentials is not None:
        soft = _soft_values(plan, layer, weights, evidence, observed, shape, precision)
    elif torch.is_grad_enabled() and log.requires_grad:
        soft = log_sum(log).expand(shape)
    else:
        soft = table_of(weights, precision).log_row_sums.view(log.shape[:3]).expand(shape)
    return soft if observed is None else torch.where(observed[..., None], hard, soft)


def _of(plan: Plan, layer: InputLayer, tensor: Tensor) -> Tensor:
    """(F, B, ...) what a (B, L, ...) tensor says of the layer's variables."""
    moved = tensor.transpose(0, 1)
    if layer.variables.tolist() == list(range(plan.num_variables)):
        return moved
    return moved[torch.as_tensor(layer.variables, device=tensor.device)]


def hard_values(log: Tensor, values: Tensor) -> Tensor:
    """(F, B, K) columns of (G, A, K, V) log-weights at (F, B) values."""
    folds, batch = values.shape
    groups, examples, units, _ = log.shape
    if groups == examples == 1:
        return log[0, 0].index_select(1, values.reshape(-1)).T.reshape(folds, batch, units)
    at = values[:, :, None, None].expand(folds, batch, units, 1)
    return log.expand(folds, batch, -1, -1).gather(3, at)[..., 0]


def _soft_values(
    plan: Plan,
    layer: InputLayer,
    weights: Weights,
    evidence: Evidence,
    observed: Tensor | None,
    shape: tuple[int, int, int],
    precision: str,
) -> Tensor:
    """(F, B, K) values under potentials; rows that are observed are -inf."""
    assert evidence.log_potentials is not None
    potentials = _of(plan, layer, evidence.log_potentials)
    potentials = potentials.expand(*shape[:2], -1)
    categories = None
    if evidence.categories is None:
        potentials = potentials[..., : layer.num_categories]
    else:
        categories = _of(plan, layer, evidence.categories).long().expand(*shape[:2], -1)
        categories = rows_of(categories, weights.log.shape).contiguous()
    active = None if observed is None else rows_of(~observed, weights.log.shape)
    rows = rows_of(potentials, weights.log.shape)
    table = table_of(weights, precision)
    found: Tensor = _SoftValues.apply(weights.log, rows, table, categories, active)
    return from_rows(found, shape, weights.log.shape)


def rows_of(tensor: Tensor, shape: torch.Size) -> Tensor:
    """(F, B, ...) rows grouped by the (G, A, K, V) table that serves them: (G * A, R, ...)."""
    groups, examples = shape[:2]
    if groups == 1 and examples == 1:
        # Example by example where it lies so in memory: then nothing is copied.
        return tensor.transpose(0, 1).flatten(0, 1)[None]
    if groups == 1:
        return tensor.transpose(0, 1)
    return tensor if examples == 1 else tensor.flatten(0, 1)[:, None]


def from_rows(rows: Tensor, shape: tuple[int, int, int], table: torch.Size) -> Tensor:
    """The inverse of `rows_of`."""
    folds, batch, units = shape
    if table[0] == 1:
        return rows.reshape(batch, folds, units).transpose(0, 1)
    return rows.reshape(folds, batch, units)


class _SoftValues(torch.autograd.Function):
    """Values (G * A, R, K) of rows with potentials; the backward pass recomputes every term."""

    @staticmethod
    def forward(
        ctx: Any,
        log: Tensor,
        potentials: Tensor,
        table: Table,
        categories: Tensor | None,
        active: Tensor | None,
    ) -> Tensor:
        if categories is None:
            leaves = dense_values(table, potentials, active)
        else:
            leaves = listed_values(table, potentials, categories, active)
        ctx.table, ctx.shape = table, log.shape
        ctx.save_for_backward(potentials, categories, *leaves)
        return leaves.value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        potentials, categories, *kept = ctx.saved_tensors
        leaves = Leaves(*kept)
        own = scaled(leaves, gradient)
        of_log = of_potentials = None
        if ctx.needs_input_grad[0]:
            of_log = table_gradient(ctx.table, potentials, leaves, own, categories)
            of_log = of_log.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            found = potential_gradient(ctx.table, potentials, leaves, own, categories)
            of_potentials = found.to(potentials.dtype)
        return of_log, of_potentials, None, None, None
