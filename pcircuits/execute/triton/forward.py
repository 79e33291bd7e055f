"""Values of all inner layers on a device, bottom up, and what their gradient needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

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
from pcircuits.execute.layers import concatenate, kronecker, log_sum, mixing_terms, sum_all
from pcircuits.execute.segments import segment_log_sum, segment_sum
from pcircuits.execute.triton.schedule import DeviceSchedule, device_schedule
from pcircuits.execute.triton.sums import (
    LinearWeights,
    Sums,
    empty_sums,
    few_operands,
    linear_weights,
    log_sum_product,
)
from pcircuits.execute.weights import AnyWeights, EdgeWeights, Weights


@dataclass(frozen=True)
class Kept:
    """What the gradient of one layer needs.

    Attributes:
        operands: What its kernel read; of layers without one, its children.
        kronecker: Whether a sum's kernel read all pairs.
        sums: Totals and row maxima of a sum; of others nothing.
    """

    operands: tuple[Tensor, ...] = ()
    kronecker: bool = False
    sums: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (*self.operands, *self.sums)

    @property
    def layout(self) -> tuple[int, bool, int]:
        """Number of operands, whether they are pairs, number of sums."""
        return len(self.operands), self.kronecker, len(self.sums)

    @classmethod
    def of(cls, layout: tuple[int, bool, int], tensors: Iterator[Tensor]) -> Kept:
        """Takes as many tensors as the layout says."""
        operands, kronecker, sums = layout
        return cls(tuple(islice(tensors, operands)), kronecker, tuple(islice(tensors, sums)))


class Stack:
    """Sums of layers that share their weights, one layer after the other in the same memory."""

    def __init__(self, size: int) -> None:
        self._size, self._used = size, 0
        self._sums: Sums | None = None

    def next(self, operands: Sequence[Tensor], weights: LinearWeights, *, kronecker: bool) -> Sums:
        """Where the next layer's go."""
        if self._sums is None:
            self._sums = empty_sums(operands, weights, kronecker=kronecker, layers=self._size)
        self._used += 1
        return Sums(*(one[self._used - 1] for one in self._sums))


def root_value(
    plan: Plan,
    weights: Mapping[int, AnyWeights],
    leaves: Mapping[int, Tensor],
    offsets: Mapping[int, Tensor],
    kept: dict[int, Kept] | None = None,
) -> Tensor:
    """Evaluates all inner layers without asking the device for anything.

    Args:
        plan: The plan.
        weights: Layer -> its weights, for layers of sums and mixtures.
        leaves: Input layer -> (F, B, K) log-values, latent potentials already added.
        offsets: Inner layer -> (F, B, K) latent log-potentials of its units.
        kept: Filled, if given, with what the gradient of every layer needs.

    Returns:
        (B,) log-values of the root.
    """
    schedule = device_schedule(plan)
    below = products_below(plan, schedule, offsets)
    inside = frozenset(below.values())
    stacks = {} if kept is None else _stacks(plan, weights, below)
    values = dict(leaves)
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, InputLayer) or i in inside:
            continue
        operands = _operands(schedule, below.get(i, i), values)
        if i in below and below[i] in offsets:
            operands.append(offsets[below[i]])
        pairs = i in below and isinstance(plan.layers[below[i]], KroneckerLayer)
        values[i], found = _value(layer, operands, weights.get(i), pairs, stacks.get(i))
        if kept is not None:
            kept[i] = found
        if i in offsets:
            values[i] = values[i] + offsets[i]
        for reader in {i, below.get(i, i)}:
            for done in schedule.schedule.finished[reader]:
                values.pop(done, None)
    return values[len(plan.layers) - 1][0, :, 0]


def products_below(
    plan: Plan, schedule: DeviceSchedule, offsets: Mapping[int, Tensor]
) -> dict[int, int]:
    """Sum layer -> the product layer that its kernel computes.

    Latent potentials of an elementwise product are one more operand; all pairs have no such place.
    """
    return {
        i: product
        for i, product in schedule.below.items()
        if product not in offsets or isinstance(plan.layers[product], ProductLayer)
    }


def _operands(schedule: DeviceSchedule, layer: int, values: Mapping[int, Tensor]) -> list[Tensor]:
    return [schedule.fetch(values, read) for read in schedule.schedule.reads[layer]]


def _stacks(
    plan: Plan, weights: Mapping[int, AnyWeights], below: Mapping[int, int]
) -> dict[int, Stack]:
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, SumLayer):
            pairs = i in below and isinstance(plan.layers[below[i]], KroneckerLayer)
            alike.setdefault((id(weights[i]), plan.num_folds[i], pairs), []).append(i)
    stacks: dict[int, Stack] = {}
    for layers in alike.values():
        if len(layers) > 1:
            stacks.update(dict.fromkeys(layers, Stack(len(layers))))
    return stacks


def _value(
    layer: Layer,
    operands: Sequence[Tensor],
    weights: AnyWeights | None,
    pairs: bool,
    stack: Stack | None,
) -> tuple[Tensor, Kept]:
    match layer:
        case SumLayer():
            assert isinstance(weights, Weights)
            read = operands if len(layer.operands) == 1 else [concatenate(operands)]
            return _sum(read, linear_weights(weights), pairs, stack)
        case ProductLayer():
            return sum_all(operands), Kept()
        case KroneckerLayer():
            return kronecker(operands), Kept()
        case MixingLayer():
            assert isinstance(weights, Weights)
            if layer.group_size > 1:
                return _mix_groups(layer, operands, weights)
            return log_sum(mixing_terms(layer, operands, weights)), Kept(tuple(operands))
        case SegmentProductLayer():
            return segment_sum(operands[0], layer), Kept()
        case SegmentSumLayer():
            assert isinstance(weights, EdgeWeights)
            value, step = segment_log_sum(operands[0] + weights.log, layer)
            return value, Kept((), False, (step.exponentials, step.totals))
        case _:
            raise AssertionError("input layers have values already")


def _sum(
    operands: Sequence[Tensor], weights: LinearWeights, pairs: bool, stack: Stack | None
) -> tuple[Tensor, Kept]:
    few = few_operands(operands, kronecker=pairs)
    sums = None if stack is None else stack.next(few, weights, kronecker=pairs)
    found = log_sum_product(few, weights, kronecker=pairs, sums=sums)
    return found.out, Kept(few, pairs, (found.totals, found.tops))


def _mix_groups(
    layer: MixingLayer, operands: Sequence[Tensor], weights: Weights
) -> tuple[Tensor, Kept]:
    """Mixtures of the same children as dense sums, one for each unit."""
    x = grouped_terms(layer, operands)
    groups = operands[0].shape[0]
    own = linear_weights(weights.grouped(groups * layer.group_size, layer.group_size))
    value, kept = _sum([x], own, False, None)
    shaped = value.unflatten(0, (groups, -1))  # (G, K, B, H)
    return shaped.permute(0, 3, 2, 1).flatten(0, 1), kept


def grouped_terms(layer: MixingLayer, operands: Sequence[Tensor]) -> Tensor:
    """(G * K, B, C) what mixtures in groups read, unit by unit."""
    groups, batch = operands[0].shape[:2]
    shape = (groups, batch, layer.num_units)
    stacked = torch.stack([operand.expand(shape) for operand in operands])  # (C, G, B, K)
    return stacked.permute(1, 3, 2, 0).flatten(0, 1)
