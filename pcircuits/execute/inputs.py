"""Values of input layers under every kind of evidence, as ordinary differentiable operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import Weights, log_matmul, shifted_exp

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


def observe(evidence: Evidence, batch_size: int, dtype: torch.dtype) -> Observation:
    """Lays evidence out for the input layers; asks once whether all or none is observed."""
    mask = evidence.mask()
    values = observed = None
    if evidence.values is not None and evidence.observed is None:
        values = evidence.values.long().T
    elif evidence.values is not None and mask is not None and bool(mask.any()):
        values = torch.where(mask, evidence.values, 0).long().T
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


def leaf_values(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence, latent: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """Input layer -> (F, B, K) log-values, with their latent potentials."""
    batch_size = joint_batch_size(prepared, evidence)
    observation = observe(evidence, batch_size, prepared.dtype)
    leaves: dict[int, Tensor] = {}
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer):
            own = prepared.weights[i]
            assert isinstance(own, Weights)
            value = input_values(plan, layer, own, observation)
            leaves[i] = value + latent[i] if i in latent else value
    return leaves


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
    if layer.variables.tolist() == list(range(plan.num_variables)):
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
    potentials = observation.log_potentials[index]
    if observation.categories is None:
        return log_matmul(potentials[..., : layer.num_categories], weights)
    return _listed_values(weights, potentials, observation.categories[index])


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
        filled = log_matmul(rows[..., : layer.num_categories], weights)
    else:
        filled = _listed_values(weights, rows, observation.categories[index][soft][None])
    return hard.index_put((soft,), filled[0])


def _listed_values(weights: Weights, potentials: Tensor, categories: Tensor) -> Tensor:
    """log(sum_j exp(potentials[f, b, j]) w[.., k, categories[f, b, j]]), (F, B, K)."""
    # A circuit may have variables of fewer categories than the list names: theirs do not exist.
    exists = categories < weights.log.shape[-1]
    potentials = potentials.masked_fill(~exists, -torch.inf)
    categories = categories * exists
    if _has_shared_table(weights) and not (torch.is_grad_enabled() and weights.log.requires_grad):
        return _listed_by_bags(weights, potentials, categories)
    folds, batch, listed = categories.shape
    log = weights.log.expand(folds, batch, -1, -1)
    at = categories[:, :, None, :].expand(folds, batch, log.shape[2], listed)
    # (F, B, 1, j) against (F, B, K, j): each row has its own columns.
    columns = Weights(log.gather(3, at))
    return log_matmul(potentials, columns)


def _listed_by_bags(weights: Weights, potentials: Tensor, categories: Tensor) -> Tensor:
    """As above for one shared table, without a copy of the listed columns."""
    folds, batch, listed = categories.shape
    e, top = shifted_exp(potentials.reshape(folds * batch, listed))
    total: Tensor = _ListedTotals.apply(
        e, weights.columns, categories.reshape(folds * batch, listed)
    )
    low = total.detach().amin(-1) <= weights.floor
    out = total.masked_fill(low[:, None], 1.0).log() + top
    if weights.shift is not None:
        out = out + weights.shift[0, 0]
    lost = low.nonzero()[:, 0]
    if len(lost):
        # Underflow is possible in these rows: redo them by gathering their columns.
        log = weights.log[0, 0][:, categories.reshape(-1, listed)[lost]].transpose(0, 1)
        rows = log_matmul(potentials.reshape(1, -1, listed)[:, lost], Weights(log[None]))
        out = out.index_put((lost,), rows[0])
    return out.view(folds, batch, -1)


class _ListedTotals(torch.autograd.Function):
    """sum_j e[n, j] columns[categories[n, j]], (N, K), for columns that are no one's result.

    As `embedding_bag`, which it calls, but differentiable twice.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, columns: Tensor, categories: Tensor) -> Tensor:
        with torch.enable_grad():
            ctx.e = e.detach().requires_grad_()
            ctx.total = torch.nn.functional.embedding_bag(
                categories, columns, per_sample_weights=ctx.e, mode="sum"
            )
        ctx.save_for_backward(columns, categories)
        total: Tensor = ctx.total.detach()
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        columns, categories = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (columns[categories] @ gradient[..., None])[..., 0], None, None
        (found,) = torch.autograd.grad(ctx.total, ctx.e, gradient, retain_graph=True)
        return found, None, None
