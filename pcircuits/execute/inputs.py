"""Values of input layers under every kind of evidence, as ordinary differentiable operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute.backward import WeightGradient, dense_gradient
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.listed import listed_sums
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import (
    Step,
    Weights,
    log_matmul,
    log_product,
)

# Observed values are read from a transposed copy of the table when they are more than this share
# of its columns, and else from the columns themselves: a large table is never copied for few reads.
_COPY_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Observation:
    """Evidence laid out for the input layers.

    Attributes:
        values: (L, B) values, 0 where not observed; None if nothing is observed.
        observed: (L, B) bool; None if everything is observed.
        log_potentials: (L, B, V), or (L, B, k) with `categories`; None without soft evidence.
        categories: (L, B, k) or None.
        batch_size: B.
    """

    values: Tensor | None
    observed: Tensor | None
    log_potentials: Tensor | None
    categories: Tensor | None
    batch_size: int


@dataclass(frozen=True, eq=False)
class Reading:
    """How the values of an input layer come from one tensor.

    Attributes:
        source: (F, B, K) log-values, or with `values` the layer's (G, 1, K, V) log-weights.
        values: (F, B) observed categories; None where the source holds the values themselves.
        weights: The weights whose logarithms are the source; None without `values`.
        often: Whether a copy of the whole table costs no more than the values.
    """

    source: Tensor
    values: Tensor | None = None
    weights: Weights | None = None
    often: bool = False

    @property
    def batch_size(self) -> int:
        """Number of examples B."""
        return (self.source if self.values is None else self.values).shape[1]

    @property
    def num_rows(self) -> int:
        """Number of folds times number of examples."""
        shape = (self.source if self.values is None else self.values).shape
        return shape[0] * shape[1]

    def log(self, source: Tensor) -> Tensor:
        """(F, B, K) log-values as a differentiable function of the source."""
        return source if self.values is None else _observed_values(Weights(source), self.values)


def observe(evidence: Evidence, batch_size: int, dtype: torch.dtype) -> Observation:
    """Lays evidence out for the input layers; asks once whether all or none is observed."""
    mask, values, observed = evidence.observed, None, None
    if evidence.values is not None and mask is None:
        values = _whole(evidence.values).T
    elif evidence.values is not None and mask is not None and bool(mask.any()):
        values = _whole(torch.where(mask, evidence.values, 0)).T
        observed = None if bool(mask.all()) else mask.T
    potentials, categories = evidence.log_potentials, evidence.categories
    soft = values is None or observed is not None
    return Observation(
        values=values,
        observed=observed,
        log_potentials=potentials.to(dtype).transpose(0, 1)
        if potentials is not None and soft
        else None,
        categories=categories.long().transpose(0, 1) if categories is not None and soft else None,
        batch_size=batch_size,
    )


def _whole(values: Tensor) -> Tensor:
    # Even an operation that does nothing takes its time.
    return values if values.dtype == torch.long else values.long()


def leaf_values(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence, latent: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """Input layer -> (F, B, K) log-values, with their latent potentials."""
    readings = leaf_readings(plan, prepared, evidence, latent, tables=False)
    return {i: reading.source for i, reading in readings.items()}


def leaf_readings(
    plan: Plan,
    prepared: PreparedParameters,
    evidence: Evidence,
    latent: Mapping[int, Tensor],
    *,
    tables: bool,
) -> dict[int, Reading]:
    """Input layer -> how its values are read.

    Args:
        plan: The plan.
        prepared: The parameters.
        evidence: The evidence.
        latent: Layer -> (F, B, K) latent log-potentials.
        tables: Whether layers whose variables are all observed are to be read from their tables.
    """
    observation = observe(evidence, joint_batch_size(prepared, evidence), prepared.dtype)
    readings: dict[int, Reading] = {}
    for i in plan.input_layers:
        layer, own = plan.layers[i], prepared.weights[i]
        assert isinstance(layer, InputLayer) and isinstance(own, Weights)
        if tables and i not in latent and _is_all_observed(own, observation):
            readings[i] = _table_reading(plan, layer, own, observation)
            continue
        value = input_values(plan, layer, own, observation)
        readings[i] = Reading(value + latent[i] if i in latent else value)
    return readings


def _is_all_observed(weights: Weights, observation: Observation) -> bool:
    complete = observation.values is not None and observation.observed is None
    return complete and weights.log.shape[1] == 1


def _table_reading(
    plan: Plan, layer: InputLayer, weights: Weights, observation: Observation
) -> Reading:
    assert observation.values is not None
    index = _variables(plan, layer, weights.log.device)
    values = observation.values if isinstance(index, slice) else observation.values[index]
    groups, _, _, categories = weights.log.shape
    often = values.numel() > _COPY_SHARE * groups * categories
    return Reading(weights.log, values, weights, often)


def joint_batch_size(prepared: PreparedParameters, evidence: Evidence) -> int:
    """Number of examples that evidence and parameters speak of."""
    return max(prepared.batch_size or 1, evidence.batch_size)


def latent_potentials(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence
) -> dict[int, Tensor]:
    """Layer -> (F, B, K) latent log-potentials, zero for nodes that have none."""
    batch_size = joint_batch_size(prepared, evidence)
    by_layer: dict[int, dict[int, Tensor]] = {}
    for name, potentials in (evidence.latent_log_potentials or {}).items():
        layer, fold = plan.places[name]
        by_layer.setdefault(layer, {})[fold] = potentials.to(prepared.dtype)
    stacked = {}
    for layer, folds in by_layer.items():
        some = next(iter(folds.values()))
        zero = some.new_zeros(()).expand(batch_size, some.shape[1])
        stacked[layer] = torch.stack([folds.get(f, zero) for f in range(plan.num_folds[layer])])
    return stacked


def input_values(
    plan: Plan, layer: InputLayer, weights: Weights, observation: Observation
) -> Tensor:
    """(F, B, K) log-values of an input layer.

    An observed variable reads its category's column, one with potentials takes the log of their
    weighted sum (paper appendix D of arXiv 2603.00045), a missing one the log of the row sums.
    """
    index = _variables(plan, layer, weights.log.device)
    if observation.values is None:
        return _unobserved_values(layer, weights, observation, index)
    values = observation.values[index]
    hard = _observed_values(weights, values)
    if observation.observed is None:
        return hard
    observed = observation.observed[index]
    if _has_shared_table(weights) and observation.log_potentials is not None:
        return _fill_soft_rows(layer, weights, observation, index, hard, ~observed)
    soft = _unobserved_values(layer, weights, observation, index)
    return torch.where(observed[..., None], hard, soft)


def _variables(plan: Plan, layer: InputLayer, device: torch.device) -> Tensor | slice:
    if layer.in_order and len(layer.variables) == plan.num_variables:
        return slice(None)
    return torch.as_tensor(layer.variables, device=device)


def _has_shared_table(weights: Weights) -> bool:
    return weights.log.shape[:2] == (1, 1)


def _observed_values(weights: Weights, values: Tensor) -> Tensor:
    groups, examples, units, categories = weights.log.shape
    folds, batch = values.shape
    if examples > 1:
        at = values[:, :, None, None].expand(folds, batch, units, 1)
        return weights.log.expand(folds, -1, -1, -1).gather(3, at)[..., 0]
    if groups > 1 and units == 1:
        return weights.log[:, 0, 0].gather(1, values)[..., None]
    if groups > 1:
        offsets = torch.arange(folds, device=values.device)[:, None] * categories
        columns = weights.log.squeeze(1).transpose(1, 2).reshape(groups * categories, units)
        return columns.index_select(0, (values + offsets).reshape(-1)).view(folds, batch, units)
    # Squeezed, not indexed: the gradient of an index fills a whole table with zeros first.
    table, flat = weights.log.squeeze((0, 1)), values.reshape(-1)
    if flat.numel() > _COPY_SHARE * categories:
        rows = table.T.contiguous().index_select(0, flat)
    else:
        rows = table.index_select(1, flat).T
    return rows.reshape(folds, batch, units)


def _unobserved_values(
    layer: InputLayer, weights: Weights, observation: Observation, index: Tensor | slice
) -> Tensor:
    if observation.log_potentials is None:
        folds, batch = len(layer.variables), observation.batch_size
        return weights.log_row_sums.expand(folds, batch, layer.num_units)
    # Not sliced where nothing is cut off: the gradient of a slice fills and copies all of it.
    every = isinstance(index, slice)
    potentials = observation.log_potentials if every else observation.log_potentials[index]
    if observation.categories is not None:
        return _listed_values(weights, potentials, observation.categories[index])
    if potentials.shape[-1] > layer.num_categories:
        potentials = potentials[..., : layer.num_categories]
    return _weighted_sums(potentials, weights)


def _fill_soft_rows(
    layer: InputLayer,
    weights: Weights,
    observation: Observation,
    index: Tensor | slice,
    hard: Tensor,
    soft: Tensor,
) -> Tensor:
    """Computes soft evidence only where it is needed: with one table, rows are independent."""
    assert observation.log_potentials is not None
    rows = observation.log_potentials[index][soft][None]
    if rows.shape[1] == 0:
        return hard  # other layers have the unobserved variables
    if observation.categories is None:
        filled = _weighted_sums(rows[..., : layer.num_categories], weights)
    else:
        filled = _listed_values(weights, rows, observation.categories[index][soft][None])
    return hard.index_put((soft,), filled[0])


def _weighted_sums(potentials: Tensor, weights: Weights) -> Tensor:
    """`log_matmul`, whose gradient for the potentials is found from what the sums left."""
    if torch.is_grad_enabled() and potentials.requires_grad:
        value: Tensor = _WeightedSums.apply(weights, potentials, weights.log)
        return value
    return log_matmul(potentials, weights)


class _WeightedSums(torch.autograd.Function):
    """Sums over all categories; nothing as large as the potentials is kept but one table."""

    @staticmethod
    def forward(ctx: Any, weights: Weights, potentials: Tensor, log: Tensor) -> Tensor:
        ctx.weights = Weights(log.detach()) if log.requires_grad else weights
        value, step = log_product(potentials.detach(), ctx.weights, bounded=False)
        ctx.save_for_backward(potentials, log, *(part for part in step if part is not None))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        potentials, log, *step = ctx.saved_tensors
        if torch.is_grad_enabled():
            value = log_matmul(potentials, Weights(log))
            wanted = [tensor for tensor in (potentials, log) if tensor.requires_grad]
            found = iter(torch.autograd.grad(value, wanted, gradients, create_graph=True))
            return (None, *(next(found) if t.requires_grad else None for t in (potentials, log)))
        collector = WeightGradient(ctx.weights) if ctx.needs_input_grad[2] else None
        gradient = dense_gradient(Step(*step), gradients[0], ctx.weights, collector)
        return None, gradient, None if collector is None else collector.total()


def _listed_values(weights: Weights, potentials: Tensor, categories: Tensor) -> Tensor:
    """log(sum_j exp(potentials[f, b, j]) w[.., k, categories[f, b, j]]), (F, B, K)."""
    # A circuit may have variables of fewer categories than the list names: theirs do not exist.
    exists = categories < weights.log.shape[-1]
    potentials = potentials.masked_fill(~exists, -torch.inf)
    categories = categories * exists
    if _has_shared_table(weights):
        return listed_sums(weights, potentials, categories)
    folds, batch, listed = categories.shape
    log = weights.log.expand(folds, batch, -1, -1)
    at = categories[:, :, None, :].expand(folds, batch, log.shape[2], listed)
    # (F, B, 1, j) against (F, B, K, j): each row has its own columns.
    columns = Weights(log.gather(3, at))
    return log_matmul(potentials, columns)
