"""What evaluation on a device needs of a plan besides its layers: found once, asked for often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import (
    KroneckerLayer,
    Operand,
    Plan,
    ProductLayer,
    Source,
    SumLayer,
)
from pcircuits.execute.layers import Read, Schedule, schedule_of


@dataclass(frozen=True, eq=False)
class DeviceSchedule:
    """A plan's schedule, with product layers inside the sums that alone read them.

    Attributes:
        schedule: The schedule.
        below: Sum layer -> the product layer that its kernel computes, where all it reads is that
            layer and nothing else reads it.
        indices: (device, id of an array of the plan) -> the array on the device.
    """

    schedule: Schedule
    below: Mapping[int, int]
    indices: dict[tuple[torch.device, int], Tensor] = field(default_factory=dict)

    def index(self, array: np.ndarray, device: torch.device) -> Tensor:
        """An array of the plan on a device: copied there once, for that stops the device."""
        key = (device, id(array))
        if key not in self.indices:
            self.indices[key] = torch.as_tensor(array, device=device)
        return self.indices[key]

    def fetch(self, values: Mapping[int, Tensor], read: Read) -> Tensor:
        """(F, B, K) values that a layer reads: a view wherever the folds are evenly spaced."""
        layer, folds, operand = read
        if layer >= 0:
            return values[layer] if folds is None else values[layer][folds]
        parts = [self._take(values[source.layer], source) for source in operand.sources]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined if operand.order is None else joined[self._order(operand, joined.device)]

    def _order(self, operand: Operand, device: torch.device) -> Tensor:
        assert operand.order is not None
        return self.index(operand.order, device)

    def _take(self, value: Tensor, source: Source) -> Tensor:
        if isinstance(source.index, slice):
            return value[source.index]
        return value.index_select(0, self.index(source.index, value.device))


_SCHEDULES: WeakKeyDictionary[Plan, DeviceSchedule] = WeakKeyDictionary()


def device_schedule(plan: Plan) -> DeviceSchedule:
    """The schedule of a plan for evaluation on a device."""
    found = _SCHEDULES.get(plan)
    if found is None:
        schedule = schedule_of(plan)
        found = _SCHEDULES[plan] = DeviceSchedule(schedule, _products_below(plan, schedule))
    return found


def _products_below(plan: Plan, schedule: Schedule) -> dict[int, int]:
    readers: dict[int, int] = {}
    for reads in schedule.reads:
        for child in {source.layer for read in reads for source in read.operand.sources}:
            readers[child] = readers.get(child, 0) + 1
    below = {}
    for i, layer in enumerate(plan.layers):
        if not isinstance(layer, SumLayer) or len(layer.operands) != 1:
            continue
        (read,) = schedule.reads[i]
        if read.layer >= 0 and read.folds is None and readers[read.layer] == 1:
            product = plan.layers[read.layer]
            pair = isinstance(product, KroneckerLayer) and len(product.operands) == 2
            if pair or isinstance(product, ProductLayer):
                below[i] = read.layer
    return below


class Gradients:
    """Gradients with respect to layer values, on their way down.

    Where a layer's folds are read once each, a kernel writes right to their place (`target`).
    """

    def __init__(self, schedule: DeviceSchedule, root: Tensor) -> None:
        self._schedule = schedule
        self._gradients = {len(schedule.schedule.folds) - 1: root}

    def pop(self, layer: int) -> Tensor:
        """Takes the gradient of a layer, which nothing above will add to any more."""
        return self._gradients.pop(layer)

    def target(self, reads: Sequence[Read], shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Where the gradient of one of some operands of a shape belongs; None if nowhere yet."""
        for layer, folds, _ in reads:
            if layer >= 0 and folds is not None and self._schedule.schedule.once[layer]:
                return self._total(layer, shape, like)[folds]
        return None

    def add(self, read: Read, gradient: Tensor) -> None:
        """Adds (F, B, K) gradients of an operand to the layers it was read from."""
        layer, folds, operand = read
        if layer >= 0:
            self._add(layer, folds, gradient)
            return
        device = gradient.device
        if operand.order is not None:
            gradient = torch.empty_like(gradient).index_copy_(
                0, self._schedule.index(operand.order, device), gradient
            )
        start = 0
        for source in operand.sources:
            self._add(source.layer, source.index, gradient[start : start + source.num_folds])
            start += source.num_folds

    def _total(self, layer: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        total = self._gradients.get(layer)
        if total is None:
            whole = (self._schedule.schedule.folds[layer], *shape[1:])
            once = self._schedule.schedule.once[layer]
            total = like.new_empty(whole) if once else like.new_zeros(whole)
            self._gradients[layer] = total
        return total

    def _add(self, layer: int, folds: slice | np.ndarray | None, part: Tensor) -> None:
        once = self._schedule.schedule.once[layer]
        if folds is None and once:
            self._gradients[layer] = part
            return
        total = self._total(layer, part.shape, part)
        if folds is None or isinstance(folds, slice):
            own = total if folds is None else total[folds]
            if not once:
                own.add_(part)
            elif own.data_ptr() != part.data_ptr():
                own.copy_(part)
        else:
            at = self._schedule.index(folds, part.device)
            total.index_copy_(0, at, part) if once else total.index_add_(0, at, part)
