"""A circuit with maxima in place of sums: its value, and the assignment that attains it.

Every layer is evaluated as in the sum-product executor but for `max` where it sums. Autograd then
does the decoding: the gradient of a maximum is one at the term that attains it and zero elsewhere,
so the gradient of the root with respect to the inputs marks one unit for each variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
)
from pcircuits.execute.inputs import latent_potentials
from pcircuits.execute.layers import concatenate, gather, kronecker, mixing_terms, sum_all
from pcircuits.execute.segments import node_index, segment_maximum, segment_sum
from pcircuits.execute.weights import AnyWeights, Weights
from pcircuits.queries.posterior import Posterior

# Terms that are laid out at once: bounds the memory of a maximum over a large table.
_TERMS = 1 << 24


@torch.no_grad()
def input_maxima(given: Posterior) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Each input unit's largest value over the categories, and the category that attains it.

    Returns:
        Input layer -> (F, B, K) log-values, latent potentials included, and (F, B, K) categories.
    """
    latent = latent_potentials(given.plan, given.prepared, given.evidence())
    values, categories = {}, {}
    for i in given.plan.input_layers:
        layer, own = given.plan.layers[i], given.prepared.weights[i]
        assert isinstance(layer, InputLayer) and isinstance(own, Weights)
        variables = torch.as_tensor(layer.variables, device=given.log_potentials.device)
        factors = given.log_potentials[:, variables, : layer.num_categories].transpose(0, 1)
        best, categories[i] = max_matmul(factors, own.log)
        values[i] = best + latent[i] if i in latent else best
    return values, categories


def max_matmul(x: Tensor, log: Tensor) -> tuple[Tensor, Tensor]:
    """Largest of x[f, b, k] + log[f, b, o, k] over k, and which.

    Args:
        x: (F, B, K).
        log: (1 or F, 1 or B, O, K).

    Returns:
        (F, B, O) maxima and (F, B, O) indices of the first that attains each.
    """
    rows = max(1, _TERMS // max(1, x.numel()))
    found = [(x[:, :, None] + part).max(-1) for part in log.split(rows, dim=2)]
    return torch.cat([v for v, _ in found], -1), torch.cat([i for _, i in found], -1)


def max_product(given: Posterior) -> tuple[Tensor, Tensor]:
    """The largest value of one assignment together with one latent choice, and that assignment.

    Returns:
        (B,) the maximum over (x, z) of log p(x, z) plus the evidence's factors, and (B, L) x.
    """
    leaves, categories = input_maxima(given)
    with torch.enable_grad():
        probes = {i: value.requires_grad_() for i, value in leaves.items()}
        root = max_value(given, probes)
        active = torch.autograd.grad(root.sum(), list(probes.values()))
    chosen = categories[next(iter(categories))].new_zeros(given.plan.num_variables, len(root))
    for i, marks in zip(probes, active, strict=True):
        layer = given.plan.layers[i]
        assert isinstance(layer, InputLayer)
        mark, unit = marks.max(-1)  # (F, B)
        category = categories[i].gather(2, unit[..., None])[..., 0] * (mark > 0)
        variables = torch.as_tensor(layer.variables, device=root.device)[:, None]
        chosen = chosen.scatter_reduce(0, variables.expand_as(category), category, "amax")
    return root.detach(), chosen.T


def max_value(given: Posterior, leaves: Mapping[int, Tensor]) -> Tensor:
    """(B,) value of the circuit with a maximum in place of every sum, differentiable.

    Args:
        given: The circuit and its evidence; only latent potentials of inner nodes are read.
        leaves: Input layer -> (F, B, K) log-values.
    """
    plan, weights = given.plan, given.prepared.weights
    latent = latent_potentials(plan, given.prepared, given.evidence())
    values: list[Tensor] = []
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer):
            values.append(leaves[i])
            continue
        children = [gather(values, operand) for operand in layer.operands]
        value = _inner_value(layer, children, weights.get(i))
        values.append(value + latent[i] if i in latent else value)
    return values[-1][0, :, 0]


def _inner_value(
    layer: InnerLayer, children: Sequence[Tensor], weights: AnyWeights | None
) -> Tensor:
    match layer:
        case ProductLayer():
            return sum_all(children)
        case KroneckerLayer():
            return kronecker(children)
        case SegmentProductLayer():
            return segment_sum(children[0], layer)
        case SumLayer():
            assert weights is not None
            return max_matmul(concatenate(children), weights.log)[0]
        case MixingLayer():
            assert isinstance(weights, Weights)
            return mixing_terms(layer, children, weights).max(-1).values
        case SegmentSumLayer():
            assert weights is not None
            return _segment_first_maximum(children[0] + weights.log, layer)


def _segment_first_maximum(terms: Tensor, layer: SegmentSumLayer) -> Tensor:
    """(F, B, K) largest of each node's terms; the gradient goes to the first that attains it."""
    index = node_index(layer, terms.device)
    best = segment_maximum(terms.detach(), layer)
    place = torch.arange(len(index), device=terms.device)[:, None, None].expand_as(terms)
    attained = place.where(terms.detach() == best[index], len(index))
    at = index[:, None, None].expand_as(terms)
    first = attained.new_full(best.shape, len(index)).scatter_reduce(0, at, attained, "amin")
    return terms.gather(0, first)
