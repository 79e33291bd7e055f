"""Values of inner layers from the values of the layers below, as differentiable operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    KroneckerLayer,
    Layer,
    MixingLayer,
    Operand,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    Source,
    SumLayer,
)
from pcircuits.execute.segments import segment_log_sum, segment_sum
from pcircuits.execute.weights import (
    AnyWeights,
    EdgeWeights,
    Step,
    Weights,
    log_product,
    shifted_exp,
)


class Read(NamedTuple):
    """One operand of a layer, ready to be read.

    Attributes:
        layer: The layer it comes from; -1 if its folds are not evenly spaced ones of one layer.
        folds: Which of its folds; None for all.
        operand: The operand.
    """

    layer: int
    folds: slice | None
    operand: Operand


@dataclass(frozen=True, eq=False)
class Schedule:
    """What does not depend on values, found once for each plan.

    Attributes:
        reads: Layer -> its operands.
        finished: Layer -> the earlier ones that it is the last to read.
        folds: Layer -> its number of folds F.
        once: Layer -> whether each of its folds is read exactly once.
    """

    reads: tuple[tuple[Read, ...], ...]
    finished: tuple[tuple[int, ...], ...]
    folds: tuple[int, ...]
    once: tuple[bool, ...]


_SCHEDULES: WeakKeyDictionary[Plan, Schedule] = WeakKeyDictionary()


def schedule_of(plan: Plan) -> Schedule:
    """The schedule of a plan."""
    found = _SCHEDULES.get(plan)
    if found is None:
        found = _SCHEDULES[plan] = _schedule(plan)
    return found


def _schedule(plan: Plan) -> Schedule:
    folds, last, counts = plan.num_folds, dict[int, int](), [0] * len(plan.layers)
    reads = []
    for i, layer in enumerate(plan.layers):
        operands = _operands(layer)
        reads.append(tuple(_read(operand, folds) for operand in operands))
        for source in (source for operand in operands for source in operand.sources):
            last[source.layer] = i
            counts[source.layer] += source.num_folds
    finished: list[list[int]] = [[] for _ in plan.layers]
    for i, reader in last.items():
        finished[reader].append(i)
    # Every fold is read by some layer, so as many reads as folds are one each.
    once = tuple(count == own for count, own in zip(counts, folds, strict=True))
    return Schedule(tuple(reads), tuple(map(tuple, finished)), folds, once)


def _operands(layer: Layer) -> tuple[Operand, ...]:
    """What a layer reads to be evaluated: of a mixing layer in groups each child once."""
    if isinstance(layer, InputLayer):
        return ()
    return layer.group_operands if isinstance(layer, MixingLayer) else layer.operands


def _read(operand: Operand, folds: Sequence[int]) -> Read:
    source = operand.sources[0]
    if len(operand.sources) > 1 or operand.order is not None or not isinstance(source.index, slice):
        return Read(-1, None, operand)
    # Evenly spaced folds, as many as there are, are all of them in order.
    return Read(
        source.layer, None if source.num_folds == folds[source.layer] else source.index, operand
    )


def evaluate(
    plan: Plan,
    leaves: Mapping[int, Tensor],
    offsets: Mapping[int, Tensor],
    weights: Mapping[int, AnyWeights],
    keep_all: bool,
    steps: dict[int, Step] | None = None,
    *,
    bounded: bool = False,
) -> dict[int, Tensor]:
    """Log-values of layers, bottom up.

    Args:
        plan: The plan.
        leaves: Input layer -> (F, B, K) log-values, latent potentials already added.
        offsets: Inner layer -> (F, B, K) latent log-potentials of its units.
        weights: Sum or mixing layer -> its weights.
        keep_all: Whether to return the values of all layers, not those of the root's alone.
        steps: Filled, if given, with what the gradient needs of every sum and mixing layer.
        bounded: Whether all weights of sum layers are bounded, so that none of them is checked;
            then the root is NaN if somewhere all of a row was -inf.

    Returns:
        Layer -> (F, B, K) log-values; of the last one, which holds the root, (1, B, 1).
    """
    schedule = schedule_of(plan)
    values: dict[int, Tensor] = {}
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer):
            values[i] = leaves[i]
            continue
        children = [_fetch(values, read) for read in schedule.reads[i]]
        values[i], step = _inner_value(layer, children, weights.get(i), bounded)
        if steps is not None and step is not None:
            steps[i] = step
        if i in offsets:
            values[i] = values[i] + offsets[i]
        if not keep_all:
            for done in schedule.finished[i]:
                del values[done]
    return values


def _inner_value(
    layer: InnerLayer, children: Sequence[Tensor], weights: AnyWeights | None, bounded: bool
) -> tuple[Tensor, Step | None]:
    match layer:
        case SumLayer():
            assert isinstance(weights, Weights)
            return log_product(concatenate(children), weights, bounded=bounded)
        case ProductLayer():
            return sum_all(children), None
        case KroneckerLayer():
            return kronecker(children), None
        case MixingLayer():
            assert isinstance(weights, Weights)
            if layer.group_size > 1:
                return _mix_groups(layer, children, weights, bounded)
            return _mix(mixing_terms(layer, children, weights))
        case SegmentProductLayer():
            return segment_sum(children[0], layer), None
        case SegmentSumLayer():
            assert isinstance(weights, EdgeWeights)
            return segment_log_sum(children[0] + weights.log, layer)


def _fetch(values: Mapping[int, Tensor], read: Read) -> Tensor:
    layer, folds, operand = read
    if layer < 0:
        return gather(values, operand)
    return values[layer] if folds is None else values[layer][folds]


def gather(values: Sequence[Tensor] | Mapping[int, Tensor], operand: Operand) -> Tensor:
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
    shape = (*children[0].shape[:2], layer.num_units)
    return torch.stack([child.expand(shape) for child in children], dim=-1) + weights.log


def _mix_groups(
    layer: MixingLayer, children: Sequence[Tensor], weights: Weights, bounded: bool
) -> tuple[Tensor, Step]:
    """Mixtures of the same children as one matrix product for each unit."""
    groups, batch = children[0].shape[:2]
    shape = (groups, batch, layer.num_units)
    stacked = torch.stack([child.expand(shape) for child in children])  # (C, G, B, K)
    x = stacked.permute(1, 3, 2, 0).flatten(0, 1)  # (G * K, B, C)
    grouped = weights.grouped(groups * layer.group_size, layer.group_size)
    value, step = log_product(x, grouped, bounded=bounded)
    shaped = value.unflatten(0, (groups, -1))  # (G, K, B, H)
    return shaped.permute(0, 3, 2, 1).flatten(0, 1), step


def log_sum(terms: Tensor) -> Tensor:
    """Log-sum-exp of the last axis whose gradient is zero, not NaN, where all terms are -inf."""
    return _mix(terms)[0]


def _mix(terms: Tensor) -> tuple[Tensor, Step]:
    """`log_sum` with what its gradient needs."""
    e, top = shifted_exp(terms)
    total = e.sum(-1)
    dead = total == 0
    log = torch.where(dead, 1.0, total).log() + top[..., 0]
    return log.masked_fill(dead, -torch.inf), Step(e, total)


def _take(value: Tensor, source: Source) -> Tensor:
    if isinstance(source.index, slice):
        return value[source.index]
    return value[torch.as_tensor(source.index, device=value.device)]
