"""What a pass has to do, counted from the plan, and what the machine can do, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import pcircuits as pc
from benchmarks.measure import wait_for
from benchmarks.suite import BACKWARD, EM, FORWARD, MARGINALS, Work

# Multiples of the forward pass. A backward pass is two products of the size of each forward one;
# all marginals are one more.
_OPERATIONS = {FORWARD: 1, BACKWARD: 3, EM: 3, MARGINALS: 2}
_BYTES = {FORWARD: 1, BACKWARD: 3, EM: 3, MARGINALS: 2}


@dataclass(frozen=True)
class Demand:
    """Floating-point operations and bytes of one pass; README.md has the formulas."""

    operations: int
    bytes: int


@dataclass(frozen=True)
class Ceilings:
    """The most that was measured.

    Attributes:
        operations_per_second: Of a large float32 matrix product, which a GPU may round to TF32.
        bytes_per_second: Of a large copy, read and written.
    """

    operations_per_second: float
    bytes_per_second: float

    def share(self, demand: Demand, seconds: float) -> float:
        """The time that the ceilings allow at best over the time taken."""
        compute = demand.operations / self.operations_per_second
        memory = demand.bytes / self.bytes_per_second
        return max(compute, memory) / seconds


def demand_of(work: Work, pass_: str) -> Demand | None:
    """What a pass needs; None where it depends on what is drawn (sampling)."""
    if pass_ not in _OPERATIONS:
        return None
    cost = work.plan.cost()
    batch, soft = work.case.batch_size, work.evidence.log_potentials is not None
    listed = work.case.evidence == "listed"
    operations = cost.operations
    shapes = work.plan.parameter_shapes
    tables = {
        name: 4 * torch.Size(shapes[name]).numel()
        for node, name in work.plan.circuit.parameter_names.items()
        if isinstance(node, pc.Input)
    }
    weights = cost.parameter_bytes - sum(tables.values())
    units = sum(node.num_units for node in work.plan.circuit.inputs)
    if listed:
        operations += (work.case.listed - 1) * units
        read = 4 * units * work.case.listed * batch
    elif soft:
        operations = cost.soft_operations
        read = sum(tables.values()) + 4 * batch * work.plan.num_variables * work.plan.num_categories
    else:
        read = 4 * units * batch
    forward = weights + read + 2 * cost.value_bytes * batch
    return Demand(2 * operations * batch * _OPERATIONS[pass_], forward * _BYTES[pass_])


def measure_ceilings(device: torch.device) -> Ceilings:
    """The best of a few large matrix products and of a few large copies."""
    size, length = (8192, 1 << 30) if device.type == "cuda" else (2048, 1 << 26)
    matrix = torch.rand(size, size, device=device)
    product = torch.empty_like(matrix)
    source = torch.zeros(length, device=device)
    target = torch.empty_like(source)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    multiply = _best(lambda: torch.matmul(matrix, matrix, out=product), device)
    torch.set_float32_matmul_precision(before)
    copy = _best(lambda: target.copy_(source), device)
    return Ceilings(2 * size**3 / multiply, 2 * 4 * length / copy)


def _best(call: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(5):
        wait_for(device)
        start = time.perf_counter()
        call()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
