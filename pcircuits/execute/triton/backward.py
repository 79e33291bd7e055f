"""Exact gradient of all inner layers on a device, top down, from what the way up has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Layer,
    MixingLayer,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
)
from pcircuits.execute.layers import Read, mixing_terms
from pcircuits.execute.segments import node_index
from pcircuits.execute.triton.forward import Kept, products_below
from pcircuits.execute.triton.gradients import Record, value_gradients, weight_gradient
from pcircuits.execute.triton.schedule import Gradients, device_schedule
from pcircuits.execute.triton.sums import linear_weights
from pcircuits.execute.weights import AnyWeights, EdgeWeights, Weights


class WeightGradients:
    """Gradients of log-weights, collected over the layers that share them."""

    def __init__(self, weights: Mapping[int, AnyWeights], wanted: frozenset[int]) -> None:
        self._weights = {id(weights[i]): weights[i] for i in wanted}
        self._records: dict[int, list[Record]] = {}
        self._found: dict[int, Tensor] = {}

    def wants(self, weights: AnyWeights | None) -> bool:
        """Whether the gradient of these weights is asked for."""
        return id(weights) in self._weights

    def record(self, weights: Weights, record: Record) -> None:
        """Remembers a layer of sums."""
        self._records.setdefault(id(weights), []).append(record)

    def add(self, weights: AnyWeights, gradient: Tensor) -> None:
        """Adds a gradient in the shape of the log-weights."""
        known = self._found.get(id(weights))
        self._found[id(weights)] = gradient if known is None else known + gradient

    def totals(self) -> dict[int, Tensor]:
        """`id(weights)` -> gradient of the log-weights."""
        for key, records in self._records.items():
            own = self._weights[key]
            assert isinstance(own, Weights)
            self.add(own, weight_gradient(records, linear_weights(own)))
        return {
            key: self._found[key] if key in self._found else torch.zeros_like(own.log)
            for key, own in self._weights.items()
        }


def inner_gradients(
    plan: Plan,
    weights: Mapping[int, AnyWeights],
    kept: Mapping[int, Kept],
    gradient: Tensor,
    given: frozenset[int],
    wanted: frozenset[int],
    offsets: Mapping[int, Tensor],
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients of the root's value.

    Args:
        plan: The plan.
        weights: Layer -> its weights; layers may share one object.
        kept: Layer -> what the way up has kept.
        gradient: (B,) gradient with respect to the root's value.
        given: Layers whose values' gradients are asked for.
        wanted: Layers whose weights' gradients are asked for.
        offsets: As on the way up.

    Returns:
        Layer -> gradient of its (F, B, K) values, and `id(weights)` -> gradient of the
        log-weights, summed over the layers that share them.
    """
    schedule = device_schedule(plan)
    below = products_below(plan, schedule, offsets)
    inside = frozenset(below.values())
    gradients = Gradients(schedule, gradient.view(1, -1, 1))
    collected = WeightGradients(weights, wanted)
    flows: dict[int, Tensor] = {}
    for i in reversed(range(len(plan.layers))):
        if i in inside:
            continue
        layer, flow = plan.layers[i], gradients.pop(i)
        if i in given:
            flows[i] = flow
        if isinstance(layer, InputLayer):
            continue
        reads = schedule.schedule.reads[below.get(i, i)]
        if isinstance(layer, SumLayer):
            own = weights[i]
            assert isinstance(own, Weights)
            totals, tops = kept[i].sums
            record = Record(kept[i].operands, kept[i].kronecker, totals, tops, flow)
            if collected.wants(own):
                collected.record(own, record)
            parts = _sum_gradients(layer, record, own, gradients, reads)
        else:
            parts = _child_gradients(layer, kept[i], flow, weights.get(i), collected)
        if below.get(i) in given:
            flows[below[i]] = parts[0]
        for read, part in zip(reads, parts, strict=True):
            gradients.add(read, part)
    return flows, collected.totals()


def _sum_gradients(
    layer: SumLayer,
    record: Record,
    weights: Weights,
    gradients: Gradients,
    reads: Sequence[Read],
) -> Sequence[Tensor]:
    """Gradients of the operands of a sum, or of the product inside it, which are `reads`."""
    own = linear_weights(weights)
    if record.kronecker:
        return value_gradients(record, own)
    if len(layer.sizes) > 1:
        (gradient,) = value_gradients(record, own)
        return list(gradient.split(list(layer.sizes), dim=-1))
    shape = (*record.flow.shape[:2], layer.sizes[0])
    target = gradients.target(reads, shape, record.flow)
    return value_gradients(record, own, target=target) * len(reads)


def _child_gradients(
    layer: Layer,
    kept: Kept,
    flow: Tensor,
    weights: AnyWeights | None,
    collected: WeightGradients,
) -> Sequence[Tensor]:
    """Gradients of the operands of a layer that is not a dense sum."""
    match layer:
        case ProductLayer():
            return [flow] * len(layer.operands)
        case KroneckerLayer():
            return _kronecker_gradients(layer.sizes, flow)
        case MixingLayer():
            assert isinstance(weights, Weights)
            if layer.group_size > 1:
                return _group_gradients(layer, kept, flow, weights, collected)
            return _mixing_gradients(layer, kept, flow, weights, collected)
        case SegmentProductLayer():
            return [flow.index_select(0, node_index(layer, flow.device))]
        case SegmentSumLayer():
            assert isinstance(weights, EdgeWeights)
            return [_segment_gradient(layer, kept, flow, weights, collected)]
        case _:
            raise AssertionError("dense sums and inputs have functions of their own")


def _kronecker_gradients(sizes: Sequence[int], flow: Tensor) -> list[Tensor]:
    shaped = flow.unflatten(-1, list(sizes))
    axes = range(2, 2 + len(sizes))
    return [shaped.sum([a for a in axes if a != own]) if len(sizes) > 1 else shaped for own in axes]


def _group_gradients(
    layer: MixingLayer,
    kept: Kept,
    flow: Tensor,
    weights: Weights,
    collected: WeightGradients,
) -> list[Tensor]:
    size = layer.group_size
    own = linear_weights(weights.grouped(len(flow), size))
    shaped = flow.unflatten(0, (-1, size)).permute(0, 3, 2, 1).flatten(0, 1)  # (G * K, B, H)
    totals, tops = kept.sums
    record = Record(kept.operands, False, totals, tops, shaped)
    (gradient,) = value_gradients(record, own)  # (G * K, B, C)
    if collected.wants(weights):
        found = weight_gradient([record], own)
        log = found.unflatten(0, (-1, layer.num_units)).permute(0, 3, 2, 1, 4).flatten(0, 1)
        collected.add(weights, log if len(weights.log) > 1 else log.sum(0, keepdim=True))
    parts = gradient.unflatten(0, (-1, layer.num_units)).permute(3, 0, 2, 1)  # (C, G, B, K)
    return _narrowed(parts.unbind(), layer.sizes, layer.num_units)


def _mixing_gradients(
    layer: MixingLayer,
    kept: Kept,
    flow: Tensor,
    weights: Weights,
    collected: WeightGradients,
) -> list[Tensor]:
    # Shares of the terms anew: to keep them would take as much memory as all children.
    terms = mixing_terms(layer, kept.operands, weights)
    top = terms.amax(-1, keepdim=True).clamp_min_(torch.finfo(terms.dtype).min)
    e = (terms - top).exp_()
    total = e.sum(-1)
    share = e.mul_((flow / total.clamp_min_(torch.finfo(total.dtype).tiny))[..., None])
    if collected.wants(weights):
        groups, examples = weights.log.shape[:2]
        found = share if groups > 1 else share.sum(0, keepdim=True)
        collected.add(weights, found if examples > 1 else found.sum(1, keepdim=True))
    return _narrowed(share.unbind(-1), layer.sizes, layer.num_units)


def _narrowed(parts: Sequence[Tensor], sizes: Sequence[int], units: int) -> list[Tensor]:
    """Gradients of operands of K units or of one, which every unit reads."""
    return [
        part if size == units else part.sum(-1, keepdim=True)
        for part, size in zip(parts, sizes, strict=True)
    ]


def _segment_gradient(
    layer: SegmentSumLayer,
    kept: Kept,
    flow: Tensor,
    weights: EdgeWeights,
    collected: WeightGradients,
) -> Tensor:
    e, total = kept.sums
    scale = flow / total.clamp_min(torch.finfo(total.dtype).tiny)
    share = e * scale.index_select(0, node_index(layer, flow.device))
    if collected.wants(weights):
        shared = weights.log.shape[1] == 1
        collected.add(weights, share.sum(1, keepdim=True) if shared else share)
    return share
