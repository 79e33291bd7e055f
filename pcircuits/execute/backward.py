"""Exact gradient of the inner layers by hand, from nothing but their values.

Shifted exponentials are recomputed instead of stored, and the gradient of a weight that many layers
share (the transition of a chain) is one matrix product over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    Operand,
    Plan,
    ProductLayer,
    SumLayer,
)
from pcircuits.execute.layers import concatenate, gather, inner_value, mixing_terms
from pcircuits.execute.weights import (
    Weights,
    contract,
    entry_chunks,
    exact_terms,
    log_floor,
    outer,
    shifted_exp,
)


@dataclass
class WeightGradient:
    """Gradient of one `Weights`, collected over the layers that share it."""

    weights: Weights
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    log: Tensor | None = None

    def add_log(self, index: tuple[Tensor, ...] | None, gradient: Tensor) -> None:
        """Adds a gradient of the log-weights, of all or of the rows at `index`."""
        if self.log is None:
            self.log = torch.zeros_like(self.weights.log)
        if index is None:
            self.log += gradient
        else:
            self.log.index_put_(index, gradient, accumulate=True)

    def total(self) -> Tensor:
        """(G, A, O, K) gradient with respect to the log-weights."""
        if self.pairs:
            u = torch.cat([u for u, _ in self.pairs])
            e = torch.cat([e for _, e in self.pairs])
            product = outer(u, e, self.weights.linear).mul_(self.weights.linear)
            self.log = product if self.log is None else self.log.add_(product)
        return torch.zeros_like(self.weights.log) if self.log is None else self.log


class ValueGradients:
    """Gradients with respect to layer values, added up in place only where the buffer is ours."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = values
        self._gradients: list[Tensor | None] = [None] * len(values)
        self._owned = [False] * len(values)

    def pop(self, layer: int) -> Tensor:
        """Takes the gradient of a layer, which nothing above will add to any more."""
        gradient, self._gradients[layer] = self._gradients[layer], None
        assert gradient is not None, "every layer but the root's is read by a later one"
        return gradient

    def add(self, operand: Operand, gradient: Tensor) -> None:
        """Adds (F, B, K) gradients of an operand to the layers it was gathered from."""
        if operand.order is not None:
            back = np.argsort(operand.order)
            gradient = gradient[torch.as_tensor(back, device=gradient.device)]
        start = 0
        for source in operand.sources:
            part = gradient[start : start + source.num_folds]
            start += source.num_folds
            self._add(source.layer, source.index, part)

    def _add(self, layer: int, index: object, part: Tensor) -> None:
        existing, value = self._gradients[layer], self._values[layer]
        if existing is None and part.shape == value.shape and isinstance(index, slice):
            self._gradients[layer] = part
            return
        if existing is None:
            existing = torch.zeros_like(value)
        elif not self._owned[layer]:
            existing = existing.clone()
        self._gradients[layer], self._owned[layer] = existing, True
        if isinstance(index, slice):
            existing[index] += part
        else:
            existing.index_add_(0, torch.as_tensor(index, device=part.device), part)


def inner_gradients(
    plan: Plan,
    values: Sequence[Tensor],
    weights: Mapping[int, Weights],
    gradient: Tensor,
    offset_layers: frozenset[int],
    kept: frozenset[int],
    wanted: frozenset[int],
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients of the root's value.

    Args:
        plan: The plan.
        values: Values of all layers.
        weights: Sum or mixing layer -> its weights; layers may share one object.
        gradient: (B,) gradient with respect to the root's value.
        offset_layers: Layers whose values include latent potentials.
        kept: Layers whose values' gradients are asked for.
        wanted: Layers whose weights' gradients are asked for.

    Returns:
        Layer -> gradient of its (F, B, K) values, and `id(weights)` -> gradient of the
        log-weights, summed over the layers that share them.
    """
    gradients = ValueGradients(values)
    flows: dict[int, Tensor] = {}
    collected: dict[int, WeightGradient] = {}
    for i in reversed(range(len(plan.layers))):
        layer = plan.layers[i]
        flow = gradients.pop(i) if i < len(plan.layers) - 1 else gradient.view(1, -1, 1)
        if i in kept:
            flows[i] = flow
        if isinstance(layer, InputLayer):
            continue
        children = [gather(values, operand) for operand in layer.operands]
        collector = None
        if i in wanted:
            collector = collected.setdefault(id(weights[i]), WeightGradient(weights[i]))
        # Cheaper than keeping a second copy of the few values that carry latent potentials.
        own = inner_value(layer, children, weights.get(i)) if i in offset_layers else values[i]
        parts = _child_gradients(layer, children, own, flow, weights.get(i), collector)
        for operand, part in zip(layer.operands, parts, strict=True):
            gradients.add(operand, part)
    return flows, {key: collector.total() for key, collector in collected.items()}


def _child_gradients(
    layer: ProductLayer | KroneckerLayer | SumLayer | MixingLayer,
    children: list[Tensor],
    out: Tensor,
    flow: Tensor,
    weights: Weights | None,
    collector: WeightGradient | None,
) -> Sequence[Tensor]:
    match layer:
        case ProductLayer():
            return [flow] * len(children)
        case KroneckerLayer():
            return _kronecker_gradients(children, flow)
        case SumLayer():
            assert weights is not None
            return _sum_gradient(concatenate(children), out, flow, weights, collector).split(
                list(layer.sizes), dim=-1
            )
        case MixingLayer():
            assert weights is not None
            return _mixing_gradients(layer, children, out, flow, weights, collector)


def _kronecker_gradients(children: list[Tensor], flow: Tensor) -> list[Tensor]:
    sizes = [child.shape[-1] for child in children]
    shaped = flow.unflatten(-1, sizes)
    axes = range(2, 2 + len(sizes))
    return [shaped.sum([a for a in axes if a != own]) if len(sizes) > 1 else shaped for own in axes]


def _sum_gradient(
    x: Tensor, out: Tensor, flow: Tensor, weights: Weights, collector: WeightGradient | None
) -> Tensor:
    e, top = shifted_exp(x)
    ratio = (top if weights.shift is None else top + weights.shift) - out
    limit = -log_floor(x.dtype)
    if float(ratio.amax()) < limit:
        u = ratio.exp_().mul_(flow)
        gradient = contract_transposed(u, weights.linear).mul_(e)
        _conserve(gradient, u, flow.sum(-1, keepdim=True))
        if collector is not None:
            collector.pairs.append((u, e))
        return gradient
    # Some totals underflowed or are zero: those take their own terms, as in the forward pass.
    low = ratio >= limit
    kept = flow.masked_fill(low, 0.0)
    u = torch.where(low, 0.0, ratio).exp_().mul_(kept)
    gradient = contract_transposed(u, weights.linear).mul_(e)
    _conserve(gradient, u, kept.sum(-1, keepdim=True))
    if collector is not None:
        collector.pairs.append((u, e))
    redo = (low & (out > -torch.inf) & (flow != 0)).nonzero(as_tuple=True)
    for at in entry_chunks(redo, x.shape[-1]):
        share = (exact_terms(x, weights.log, at) - out[at][:, None]).exp() * flow[at][:, None]
        gradient.index_put_(at[:2], share, accumulate=True)
        if collector is not None:
            groups, examples = weights.log.shape[:2]
            collector.add_log((at[0] % groups, at[1] % examples, at[2]), share)
    return gradient


def _conserve(gradient: Tensor, u: Tensor, flow: Tensor) -> None:
    """Scales what a layer passes down, in place, to exactly what it got, example by example.

    Log-values of thousands of nats carry rounding errors that are small beside them and not beside
    one; without this they multiply from layer to layer.
    """
    total = gradient.sum(-1, keepdim=True)
    scale = torch.where(total == 0, 1.0, flow / total)
    gradient.mul_(scale)
    u.mul_(scale)


def contract_transposed(u: Tensor, linear: Tensor) -> Tensor:
    """sum_o u[f, b, o] w[g, a, o, k]; returns (F, B, K)."""
    return contract(u, linear.transpose(-1, -2))


def _mixing_gradients(
    layer: MixingLayer,
    children: list[Tensor],
    out: Tensor,
    flow: Tensor,
    weights: Weights,
    collector: WeightGradient | None,
) -> list[Tensor]:
    dead = out == -torch.inf
    terms = mixing_terms(layer, children, weights) - out.masked_fill(dead, 0.0)[..., None]
    share = terms.exp_() * flow.masked_fill(dead, 0.0)[..., None]
    if collector is not None:
        groups, examples = weights.log.shape[:2]
        total = share if groups > 1 else share.sum(0, keepdim=True)
        collector.add_log(None, total if examples > 1 else total.sum(1, keepdim=True))
    return [
        part if child.shape[-1] == layer.num_units else part.sum(-1, keepdim=True)
        for part, child in zip(share.unbind(-1), children, strict=True)
    ]
