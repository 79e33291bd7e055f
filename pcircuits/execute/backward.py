"""Exact gradient of the inner layers by hand, from what the forward pass left of each.

The gradient of a weight that many layers share (the transition of a chain) is added up by matrix
products that are large enough to be worth one and small enough to stay in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
)
from pcircuits.execute.layers import Read, Schedule, schedule_of
from pcircuits.execute.segments import node_index
from pcircuits.execute.weights import (
    AnyWeights,
    Step,
    Weights,
    contract,
    entry_chunks,
    exact_terms,
    outer,
)

# Rows (examples times folds) that one product over them needs to be bound by arithmetic.
_ROWS_AT_ONCE = 32


class WeightGradient:
    """Gradient of one table of weights, collected over the layers that share it."""

    def __init__(self, weights: AnyWeights) -> None:
        self._weights = weights
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._rows = 0
        self._linear: Tensor | None = None
        self._log: Tensor | None = None

    def add_pair(self, u: Tensor, e: Tensor) -> None:
        """Adds the gradient sum u[f, b, o] e[f, b, k] of the linear weights."""
        rows = u.shape[0] * u.shape[1]
        if self._linear is not None and self._linear.ndim == 2 and rows >= _ROWS_AT_ONCE:
            self._linear.addmm_(u.flatten(0, 1).T, e.flatten(0, 1))
            return
        self._pairs.append((u, e))
        self._rows += rows
        if self._rows >= _ROWS_AT_ONCE:
            self.multiply_pairs()

    def add_log(self, index: tuple[Tensor, ...] | None, gradient: Tensor) -> None:
        """Adds a gradient of the log-weights, of all or of the entries at `index`."""
        if self._log is None:
            self._log = torch.zeros_like(self._weights.log)
        if index is None:
            self._log += gradient
        else:
            self._log.index_put_(index, gradient, accumulate=True)

    def total(self) -> Tensor:
        """(G, A, O, K) gradient with respect to the log-weights."""
        self.multiply_pairs()
        if self._linear is not None:
            assert isinstance(self._weights, Weights)
            product = self._linear.mul_(self._weights.factor).view(self._weights.log.shape)
            return product if self._log is None else product.add_(self._log)
        return torch.zeros_like(self._weights.log) if self._log is None else self._log

    def multiply_pairs(self) -> None:
        """Multiplies the pairs that wait for more: what they hold may change afterwards."""
        if not self._pairs:
            return
        assert isinstance(self._weights, Weights)
        factor = self._weights.factor
        for u, e in _stacked(self._pairs, factor):
            if self._linear is None:
                self._linear = outer(u, e, factor)
            elif self._linear.ndim == 2:
                self._linear.addmm_(u.flatten(0, 1).T, e.flatten(0, 1))
            else:
                self._linear += outer(u, e, factor)
        self._pairs, self._rows = [], 0


def _stacked(pairs: list[tuple[Tensor, Tensor]], factor: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of several layers as one where an axis is summed over: the folds, or the examples."""
    axis = 0 if factor.ndim == 2 or factor.shape[0] == 1 else 1
    if len(pairs) == 1 or (axis == 1 and factor.shape[1] > 1):
        return pairs
    return [(torch.cat([u for u, _ in pairs], axis), torch.cat([e for _, e in pairs], axis))]


class ValueGradients:
    """Gradients with respect to layer values, on their way down."""

    def __init__(self, schedule: Schedule, root: Tensor) -> None:
        self._folds, self._once = schedule.folds, schedule.once
        self._gradients = {len(schedule.folds) - 1: root}

    def pop(self, layer: int) -> Tensor:
        """Takes the gradient of a layer, which nothing above will add to any more."""
        return self._gradients.pop(layer)

    def add(self, read: Read, gradient: Tensor) -> None:
        """Adds (F, B, K) gradients of an operand to the layers it was read from."""
        layer, folds, operand = read
        if layer >= 0:
            self._add(layer, folds, gradient)
            return
        if operand.order is not None:
            back = np.argsort(operand.order)
            gradient = gradient[torch.as_tensor(back, device=gradient.device)]
        start = 0
        for source in operand.sources:
            self._add(source.layer, source.index, gradient[start : start + source.num_folds])
            start += source.num_folds

    def _add(self, layer: int, folds: slice | np.ndarray | None, part: Tensor) -> None:
        once = self._once[layer]
        if folds is None and once:
            self._gradients[layer] = part
            return
        total = self._gradients.get(layer)
        if total is None:
            shape = (self._folds[layer], *part.shape[1:])
            total = part.new_empty(shape) if once else part.new_zeros(shape)
            self._gradients[layer] = total
        if folds is None or isinstance(folds, slice):
            own = total if folds is None else total[folds]
            own.copy_(part) if once else own.add_(part)
        else:
            at = torch.as_tensor(folds, device=part.device)
            total.index_copy_(0, at, part) if once else total.index_add_(0, at, part)


def inner_gradients(
    plan: Plan,
    steps: Mapping[int, Step],
    weights: Mapping[int, AnyWeights],
    gradient: Tensor,
    kept: frozenset[int],
    wanted: frozenset[int],
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients of the root's value.

    Args:
        plan: The plan.
        steps: Sum or mixing layer -> what the forward pass left for it.
        weights: Sum or mixing layer -> its weights; layers may share one object.
        gradient: (B,) gradient with respect to the root's value.
        kept: Layers whose values' gradients are asked for.
        wanted: Layers whose weights' gradients are asked for.

    Returns:
        Layer -> gradient of its (F, B, K) values, and `id(weights)` -> gradient of the
        log-weights, summed over the layers that share them.
    """
    schedule = schedule_of(plan)
    gradients = ValueGradients(schedule, gradient.view(1, -1, 1))
    flows: dict[int, Tensor] = {}
    collected = {id(weights[i]): WeightGradient(weights[i]) for i in wanted}
    collectors = {i: collected[id(weights[i])] for i in wanted}
    for i in reversed(range(len(plan.layers))):
        layer, flow = plan.layers[i], gradients.pop(i)
        if i in kept:
            flows[i] = flow
        if isinstance(layer, InputLayer):
            continue
        parts = _child_gradients(layer, flow, steps.get(i), weights.get(i), collectors.get(i))
        for read, part in zip(schedule.reads[i], parts, strict=True):
            gradients.add(read, part)
    return flows, {key: collector.total() for key, collector in collected.items()}


def _child_gradients(
    layer: InnerLayer,
    flow: Tensor,
    step: Step | None,
    weights: AnyWeights | None,
    collector: WeightGradient | None,
) -> Sequence[Tensor]:
    """Gradients of the values of a layer's operands."""
    match layer:
        case SumLayer():
            assert isinstance(weights, Weights) and step is not None
            return _sum_gradients(layer, step, flow, weights, collector)
        case ProductLayer():
            return [flow] * len(layer.operands)
        case KroneckerLayer():
            return _kronecker_gradients(layer.sizes, flow)
        case MixingLayer():
            assert isinstance(weights, Weights) and step is not None
            if layer.group_size > 1:
                return _group_gradients(layer, step, flow, weights, collector)
            return _mixing_gradients(layer, step, flow, weights, collector)
        case SegmentProductLayer():
            return [flow[node_index(layer, flow.device)]]
        case SegmentSumLayer():
            assert weights is not None and step is not None
            return [_segment_gradient(layer, step, flow, weights, collector)]


def _kronecker_gradients(sizes: Sequence[int], flow: Tensor) -> list[Tensor]:
    shaped = flow.unflatten(-1, list(sizes))
    axes = range(2, 2 + len(sizes))
    return [shaped.sum([a for a in axes if a != own]) if len(sizes) > 1 else shaped for own in axes]


def _sum_gradients(
    layer: SumLayer, step: Step, flow: Tensor, weights: Weights, collector: WeightGradient | None
) -> Sequence[Tensor]:
    gradient = dense_gradient(step, flow, weights, collector)
    return [gradient] if len(layer.sizes) == 1 else gradient.split(list(layer.sizes), dim=-1)


def dense_gradient(
    step: Step, flow: Tensor, weights: Weights, collector: WeightGradient | None
) -> Tensor:
    """(F, B, K) gradient of what dense sums read; that of their weights goes to the collector."""
    # Dividing by the very totals of the forward pass conserves the flow: an exponential of the
    # values would carry their rounding errors, small beside thousands of nats and not beside one.
    if step.low is None:
        u = flow / step.totals
    else:
        u = flow.masked_fill(step.low, 0.0) / step.totals.masked_fill(step.low, 1.0)
    gradient = contract(u, weights.transposed).mul_(step.exponentials)
    if collector is not None:
        collector.add_pair(u, step.exponentials)
    if step.low is not None:
        _add_exact(gradient, step, flow, weights, collector)
    return gradient


def _add_exact(
    gradient: Tensor,
    step: Step,
    flow: Tensor,
    weights: Weights,
    collector: WeightGradient | None,
) -> None:
    """Adds, in place, the gradients of the entries that the forward pass computed on their own."""
    _, _, low, x, out = step
    assert low is not None and x is not None and out is not None
    redo = (low & (out > -torch.inf) & (flow != 0)).nonzero(as_tuple=True)
    for at in entry_chunks(redo, x.shape[-1]):
        share = (exact_terms(x, weights.log, at) - out[at][:, None]).exp() * flow[at][:, None]
        gradient.index_put_(at[:2], share, accumulate=True)
        if collector is not None:
            groups, examples = weights.log.shape[:2]
            collector.add_log((at[0] % groups, at[1] % examples, at[2]), share)


def _group_gradients(
    layer: MixingLayer,
    step: Step,
    flow: Tensor,
    weights: Weights,
    collector: WeightGradient | None,
) -> list[Tensor]:
    folds, size = len(flow), layer.group_size
    grouped = weights.grouped(folds, size)
    shaped = flow.unflatten(0, (-1, size)).permute(0, 3, 2, 1).flatten(0, 1)  # (G * K, B, H)
    own = None if collector is None else WeightGradient(grouped)
    gradient = dense_gradient(step, shaped, grouped, own)  # (G * K, B, C)
    if collector is not None and own is not None:
        log = own.total().unflatten(0, (-1, layer.num_units)).permute(0, 3, 2, 1, 4).flatten(0, 1)
        collector.add_log(None, log if len(weights.log) > 1 else log.sum(0, keepdim=True))
    parts = gradient.unflatten(0, (-1, layer.num_units)).permute(3, 0, 2, 1)  # (C, G, B, K)
    return [
        part if units == layer.num_units else part.sum(-1, keepdim=True)
        for part, units in zip(parts, layer.sizes, strict=True)
    ]


def _segment_gradient(
    layer: SegmentSumLayer,
    step: Step,
    flow: Tensor,
    weights: AnyWeights,
    collector: WeightGradient | None,
) -> Tensor:
    share = step.exponentials * _scale(step, flow)[node_index(layer, flow.device)]
    if collector is not None:
        shared = weights.log.shape[1] == 1
        collector.add_log(None, share.sum(1, keepdim=True) if shared else share)
    return share


def _scale(step: Step, flow: Tensor) -> Tensor:
    """Flow over totals; zero where a total is."""
    dead = step.totals == 0
    return flow.masked_fill(dead, 0.0) / step.totals.masked_fill(dead, 1.0)


def _mixing_gradients(
    layer: MixingLayer,
    step: Step,
    flow: Tensor,
    weights: Weights,
    collector: WeightGradient | None,
) -> list[Tensor]:
    share = step.exponentials * _scale(step, flow)[..., None]
    if collector is not None:
        groups, examples = weights.log.shape[:2]
        total = share if groups > 1 else share.sum(0, keepdim=True)
        collector.add_log(None, total if examples > 1 else total.sum(1, keepdim=True))
    return [
        part if size == layer.num_units else part.sum(-1, keepdim=True)
        for part, size in zip(share.unbind(-1), layer.sizes, strict=True)
    ]
