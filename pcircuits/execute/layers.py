"""Values of inner layers from the values of the layers below, as differentiable operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    Operand,
    Plan,
    ProductLayer,
    Source,
    SumLayer,
)
from pcircuits.execute.weights import Weights, log_matmul

InnerLayer = ProductLayer | KroneckerLayer | SumLayer | MixingLayer


def inner_values(
    plan: Plan,
    leaves: Mapping[int, Tensor],
    offsets: Mapping[int, Tensor],
    weights: Mapping[int, Weights],
) -> list[Tensor]:
    """Log-values of all layers, bottom up.

    Args:
        plan: The plan.
        leaves: Input layer -> (F, B, K) log-values, latent potentials already added.
        offsets: Inner layer -> (F, B, K) latent log-potentials of its units.
        weights: Sum or mixing layer -> its weights.

    Returns:
        One (F, B, K) tensor a layer; the last one holds the root as (1, B, 1).
    """
    values: list[Tensor] = []
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer):
            values.append(leaves[i])
            continue
        children = [gather(values, operand) for operand in layer.operands]
        out = inner_value(layer, children, weights.get(i))
        values.append(out + offsets[i] if i in offsets else out)
    return values


def inner_value(layer: InnerLayer, children: Sequence[Tensor], weights: Weights | None) -> Tensor:
    """(F, B, K) log-values of one layer from those of its operands."""
    match layer:
        case ProductLayer():
            return sum_all(children)
        case KroneckerLayer():
            return kronecker(children)
        case SumLayer():
            assert weights is not None
            return log_matmul(concatenate(children), weights)
        case MixingLayer():
            assert weights is not None
            return log_sum(mixing_terms(layer, children, weights))


def gather(values: Sequence[Tensor], operand: Operand) -> Tensor:
    """The (F, B, K) values that an operand names: a view wherever the folds are evenly spaced."""
    parts = [_take(values[source.layer], source) for source in operand.sources]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    if operand.order is None:
        return joined
    return joined[torch.as_tensor(operand.order, device=joined.device)]


def concatenate(children: Sequence[Tensor]) -> Tensor:
    """Joins operands along their units."""
    return children[0] if len(children) == 1 else torch.cat(list(children), dim=-1)


def sum_all(terms: Sequence[Tensor]) -> Tensor:
    """Sum of tensors of one shape; the log of a product."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def kronecker(children: Sequence[Tensor]) -> Tensor:
    """Log of all products of one unit of each child, the last child's index fastest."""
    total = children[0]
    for child in children[1:]:
        total = (total[..., :, None] + child[..., None, :]).flatten(-2)
    return total


def mixing_terms(layer: MixingLayer, children: Sequence[Tensor], weights: Weights) -> Tensor:
    """(F, B, K, C) log-terms of a mixing layer: child value plus its log-weight."""
    shape = children[0].shape[:2] + (layer.num_units,)
    return torch.stack([child.expand(shape) for child in children], dim=-1) + weights.log


def log_sum(terms: Tensor) -> Tensor:
    """Log-sum-exp of the last axis whose gradient is zero, not NaN, where all terms are -inf."""
    top = terms.detach().amax(-1).clamp_min(torch.finfo(terms.dtype).min)
    total = (terms - top[..., None]).exp().sum(-1)
    dead = total == 0
    return (torch.where(dead, 1.0, total).log() + top).masked_fill(dead, -torch.inf)


def _take(value: Tensor, source: Source) -> Tensor:
    if isinstance(source.index, slice):
        return value[source.index]
    return value[torch.as_tensor(source.index, device=value.device)]
