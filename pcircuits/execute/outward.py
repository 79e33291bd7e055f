"""Messages from the root down: what the rest of the circuit says of each unit.

The message of a unit is the derivative of the circuit's value with respect to the unit's, in log
space. Nothing is divided, so messages are exact also where the unit's own value is zero; that is
what leave-one-out predictives need and what gradients cannot give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    Operand,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
)
from pcircuits.execute.layers import gather, log_sum, sum_all
from pcircuits.execute.segments import node_index, segment_others
from pcircuits.execute.weights import AnyWeights, Weights, log_matmul_transposed


def messages(
    plan: Plan,
    values: Sequence[Tensor],
    offsets: Mapping[int, Tensor],
    weights: Mapping[int, AnyWeights],
) -> dict[int, Tensor]:
    """Downward log-messages to the input layers' units, by differentiable operations.

    Args:
        plan: The plan.
        values: Values of all layers.
        offsets: Inner layer -> latent log-potentials of its units.
        weights: Layer -> weights.

    Returns:
        Input layer -> (F, B, K) messages; -inf where the rest of the circuit allows nothing.
    """
    received: list[list[tuple[np.ndarray, Tensor]]] = [[] for _ in plan.layers]
    down: dict[int, Tensor] = {}
    for i in reversed(range(len(plan.layers))):
        layer = plan.layers[i]
        message = _received(values[i], received[i])
        if i in offsets:
            message = message + offsets[i]
        if isinstance(layer, InputLayer):
            down[i] = message
            continue
        children = [gather(values, operand) for operand in layer.operands]
        sent = _send(layer, children, message, weights.get(i))
        for operand, part in zip(layer.operands, sent, strict=True):
            for below, folds, own in _parts(operand, part):
                received[below].append((folds, own))
    return down


def _received(value: Tensor, parts: list[tuple[np.ndarray, Tensor]]) -> Tensor:
    """Adds up, in log space, what the readers of a layer sent to its folds."""
    if not parts:
        return torch.zeros_like(value)  # the root
    folds = np.concatenate([index for index, _ in parts])
    sent = parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in parts])
    every_fold, order = np.arange(value.shape[0]), np.argsort(folds)
    if np.array_equal(folds, every_fold):
        return sent
    if np.array_equal(folds[order], every_fold):
        return sent[torch.as_tensor(order, device=value.device)]
    return _scatter_log_sum(value, torch.as_tensor(folds, device=value.device), sent)


def _parts(operand: Operand, message: Tensor) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Splits the (F, B, K) message of an operand by the layers it was gathered from."""
    if operand.order is not None:
        message = message[torch.as_tensor(np.argsort(operand.order), device=message.device)]
    start = 0
    for source in operand.sources:
        yield source.layer, source.folds(), message[start : start + source.num_folds]
        start += source.num_folds


def _scatter_log_sum(value: Tensor, folds: Tensor, part: Tensor) -> Tensor:
    """Log-sum-exp of the rows of `part` that go to the same fold."""
    at = folds[:, None, None].expand_as(part)
    floor = torch.finfo(part.dtype).min
    top = part.new_full(value.shape, floor).scatter_reduce(0, at, part.detach(), "amax")
    total = torch.zeros_like(value).scatter_add(0, at, (part - top.gather(0, at)).exp())
    dead = total == 0
    return (torch.where(dead, 1.0, total).log() + top).masked_fill(dead, -torch.inf)


def _send(
    layer: InnerLayer,
    children: list[Tensor],
    message: Tensor,
    weights: AnyWeights | None,
) -> Sequence[Tensor]:
    match layer:
        case ProductLayer():
            return _to_factors(children, message)
        case KroneckerLayer():
            return _to_all_pairs(children, message)
        case SumLayer():
            assert isinstance(weights, Weights)
            return list(log_matmul_transposed(message, weights).split(list(layer.sizes), dim=-1))
        case MixingLayer():
            assert isinstance(weights, Weights)
            sent = message[..., None] + weights.log
            return [
                part if child.shape[-1] == layer.num_units else log_sum(part)[..., None]
                for part, child in zip(sent.unbind(-1), children, strict=True)
            ]
        case SegmentProductLayer():
            index = node_index(layer, message.device)
            return [message[index] + segment_others(children[0], layer)]
        case SegmentSumLayer():
            assert weights is not None
            return [message[node_index(layer, message.device)] + weights.log]


def _to_factors(children: list[Tensor], message: Tensor) -> list[Tensor]:
    """To each factor the message times the product of the others, by running products."""
    before, after = [message], [torch.zeros_like(message)]
    for child in children[:-1]:
        before.append(before[-1] + child)
    for child in children[:0:-1]:
        after.append(after[-1] + child)
    return [b + a for b, a in zip(before, reversed(after), strict=True)]


def _to_all_pairs(children: list[Tensor], message: Tensor) -> list[Tensor]:
    sizes = [child.shape[-1] for child in children]
    shaped = message.unflatten(-1, sizes)
    views = []
    for axis, child in enumerate(children):
        ones = [1] * len(sizes)
        ones[axis] = sizes[axis]
        views.append(child.reshape(*child.shape[:2], *ones))
    sent = []
    for axis in range(len(sizes)):
        others = sum_all([shaped, *(v for other, v in enumerate(views) if other != axis)])
        own_first = others.movedim(2 + axis, 2)
        sent.append(log_sum(own_first.reshape(*own_first.shape[:3], -1)))
    return sent
