"""Kernels of dense sums: values and gradients, on odd shapes, over poisoned memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from pcircuits.execute.triton.gradients import (
    Record,
    evenly_spaced,
    value_gradients,
    weight_gradient,
)
from pcircuits.execute.triton.launch import against_device, tiles_of
from pcircuits.execute.triton.sums import (
    LinearWeights,
    Sums,
    empty_sums,
    few_operands,
    log_sum_product,
)
from tests.support.poison import poisoned_memory
from tests.support.triton_aot import compile_all

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class Shape:
    """Sizes of one layer of sums; `left` and `right` of all pairs, else the width is `left`."""

    folds: int
    batch: int
    units: int
    left: int
    right: int = 0
    groups: int = 1
    examples: int = 1
    operands: int = 2

    @property
    def width(self) -> int:
        return self.left * max(1, self.right)


SHAPES = (
    Shape(1, 1, 5, 7, operands=1),
    Shape(3, 5, 17, 33),
    Shape(2, 19, 20, 70, groups=2, operands=3),
    Shape(2, 18, 70, 20),
    Shape(3, 4, 9, 11, groups=3, examples=4),
    Shape(2, 3, 5, 6, examples=3, operands=6),
    Shape(2, 5, 7, 3, 5, groups=2),
    Shape(1, 20, 18, 6, 19),
    Shape(2, 3, 4, 5, 6, groups=2, examples=3),
    Shape(1, 3, 3, 2, 70),
)


def _layer(shape: Shape, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Operands and log-weights: some zeros, a row without positive terms, and one that underflows.

    The largest unit of the last row outdoes all others, and some sums give it a weight of zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return 2 * torch.randn(size, generator=generator, dtype=torch.float64)

    sizes = [shape.left, shape.right] if shape.right else [shape.left] * shape.operands
    operands = [normal(shape.folds, shape.batch, size) for size in sizes]
    for operand in operands:
        operand[torch.rand(operand.shape, generator=generator) < 0.1] = -math.inf
    if shape.batch > 1:
        operands[0][0, 0] = -math.inf
    log = normal(shape.groups, shape.examples, shape.units, shape.width)
    log[torch.rand(log.shape, generator=generator) < 0.2] = -math.inf
    operands[0][-1, -1, 1] = 300.0 if dtype == torch.float32 else 3000.0
    columns = slice(shape.right, 2 * shape.right) if shape.right else slice(1, 2)
    if not shape.right:
        for operand in operands[1:]:
            operand[-1, -1, 1] = 0.0
    log[:, :, 1:3, columns] = -math.inf
    return [operand.to(DEVICE, dtype) for operand in operands], log.to(DEVICE, dtype)


def _reference(operands: list[Tensor], log: Tensor, *, pairs: bool) -> Tensor:
    """(F, B, O) by log-sum-exp of all terms, with zero gradients where it is -inf."""
    if pairs:
        x = (operands[0][..., :, None] + operands[1][..., None, :]).flatten(-2)
    else:
        x = sum(operands[1:], operands[0])
    terms = x[:, :, None, :] + log.expand(*x.shape[:2], -1, -1)
    dead = (terms == -math.inf).all(-1)
    return terms.masked_fill(dead[..., None], 0.0).logsumexp(-1).masked_fill(dead, -math.inf)


def _exact(operands: list[Tensor], log: Tensor, flow: Tensor, *, pairs: bool) -> list[Tensor]:
    """Value in float64, and gradients for the operands and the log-weights."""
    own = [tensor.detach().double().requires_grad_() for tensor in (*operands, log)]
    value = _reference(own[:-1], own[-1], pairs=pairs)
    loss = (value.masked_fill(value == -math.inf, 0.0) * flow.double()).sum()
    return [value.detach(), *torch.autograd.grad(loss, own)]


def _assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    bound = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


def _flow(value: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    flow = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    flow[torch.rand(flow.shape, generator=generator) < 0.2] = 0.0
    return flow.to(value.device, value.dtype).masked_fill(value == -math.inf, 0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: Shape, dtype: torch.dtype) -> None:
    operands, log = _layer(shape, dtype)
    pairs = shape.right > 0
    few = few_operands(operands, kronecker=pairs)
    with poisoned_memory():
        weights = LinearWeights.of(log)
        sums = log_sum_product(few, weights, kronecker=pairs)
        flow = _flow(sums.out)
        record = Record(few, pairs, sums.totals, sums.tops, flow)
        found = value_gradients(record, weights)
        of_log = weight_gradient([record], weights)
    value, *expected, expected_log = _exact(operands, log, flow, pairs=pairs)

    _assert_close(sums.out, value, dtype)
    for own, wanted in zip(found if pairs else found * len(operands), expected, strict=True):
        _assert_close(own, wanted, dtype)
    _assert_close(of_log, expected_log, dtype)
    assert bool(((sums.totals < 0) & (sums.totals > -math.inf)).any())


def test_a_sum_whose_largest_value_has_weight_zero_is_exact() -> None:
    x = torch.tensor([[[0.0, -170.0]]], device=DEVICE)
    log = torch.tensor([[[[-math.inf, -1.1]]]], device=DEVICE)
    weights = LinearWeights.of(log)
    sums = log_sum_product([x], weights)
    one = torch.ones_like(sums.out)
    (gradient,) = value_gradients(Record((x,), False, sums.totals, sums.tops, one), weights)

    torch.testing.assert_close(sums.out.item(), -171.1, rtol=1e-6, atol=0.0)
    assert gradient.flatten().tolist() == [0.0, 1.0]


def test_a_total_between_rows_that_float_cannot_hold_is_exact() -> None:
    x = torch.tensor([[[0.0, -500.0, -501.0]]], device=DEVICE)
    log = torch.tensor([[[[-math.inf, -1.0, -2.0], [0.0, 0.0, 0.0]]]], device=DEVICE)
    found = log_sum_product([x], LinearWeights.of(log)).out.flatten()

    expected = torch.tensor([-501.0 + math.log1p(math.exp(-2.0)), 0.0], device=DEVICE)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_what_has_no_positive_term_is_minus_infinity_and_has_gradient_zero() -> None:
    x = torch.full((1, 2, 3), -math.inf, device=DEVICE)
    x[0, 1, 0] = 0.0
    log = torch.zeros(1, 1, 2, 3, device=DEVICE)
    log[..., 0] = -math.inf
    weights = LinearWeights.of(log)
    sums = log_sum_product([x], weights)
    record = Record((x,), False, sums.totals, sums.tops, torch.ones_like(sums.out))

    assert bool((sums.out == -math.inf).all())
    assert not value_gradients(record, weights)[0].any()
    assert not weight_gradient([record], weights).any()


def test_a_transposed_table_goes_the_other_way() -> None:
    x, log = torch.randn(2, 5, 7, device=DEVICE), torch.randn(1, 1, 7, 9, device=DEVICE)
    found = log_sum_product([x], LinearWeights.of(log.transpose(-1, -2))).out
    expected = (x[..., :, None] + log[0, 0]).logsumexp(-2)

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_operands_may_have_any_strides() -> None:
    wide = torch.randn(9, 3, 4, device=DEVICE)
    operands = [wide.permute(2, 1, 0)[1:3], torch.randn(2, 1, 9, device=DEVICE).expand(2, 3, 9)]
    log = torch.randn(1, 1, 6, 9, device=DEVICE)
    found = log_sum_product(operands, LinearWeights.of(log)).out

    expected = _reference(operands, log, pairs=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_layers_of_a_chain_share_one_launch() -> None:
    weights = LinearWeights.of(torch.randn(1, 1, 5, 6, dtype=torch.float64, device=DEVICE))
    leaves = torch.randn(4, 3, 6, dtype=torch.float64, device=DEVICE)
    stack = empty_sums([leaves[:1]], weights, kronecker=False, layers=4)
    flows = torch.randn(4, 3, 5, dtype=torch.float64, device=DEVICE)
    records = []
    for step in range(4):
        sums = Sums(*(one[step] for one in stack))
        operands = (leaves[step : step + 1],)
        log_sum_product(operands, weights, sums=sums)
        flow = flows[step : step + 1]
        records.append(Record(operands, False, sums.totals, sums.tops, flow))
    apart = [record._replace(flow=record.flow.clone()) for record in records]

    assert [len(run) for run in evenly_spaced(records)] == [4]
    assert [len(run) for run in evenly_spaced(apart)] == [1, 1, 1, 1]
    together = weight_gradient(records[::-1], weights)
    torch.testing.assert_close(together, weight_gradient(apart, weights), rtol=1e-12, atol=1e-12)


def test_uneven_spacing_ends_a_launch() -> None:
    memory = torch.zeros(10, 1, 1, 1)
    records = [Record((memory[i],), False, memory[i], memory[i], memory[i]) for i in (0, 1, 2, 5)]

    assert [len(run) for run in evenly_spaced(records)] == [3, 1]


def test_tiles_fill_the_device_before_they_grow() -> None:
    tiles = tiles_of(1, 64, 1024, 1024, each=False, dtype=torch.float32)
    folded = tiles_of(16, 256, 256, 256, each=False, dtype=torch.float32)

    assert (tiles.rows, tiles.columns) == (64, 16)
    assert (folded.rows, folded.columns) == (64, 64)
    assert tiles_of(1, 3, 5, 5, each=True, dtype=torch.float32).rows == 1


def test_other_devices_are_refused() -> None:
    assert "meta" in (against_device(torch.device("meta")) or "")


def test_kernels_of_real_sizes_compile_without_spills() -> None:
    found = compile_all("tests.support.triton_sum_specs")
    for name, resources in found.items():
        print(f"{name:40s} {resources}")

    assert {name: own.spills for name, own in found.items() if own.spills} == {}
    assert all(own.shared <= 227 * 1024 for own in found.values())
    shared = {name: own for name, own in found.items() if "per example" not in name}
    assert all(own.tensor_core for own in shared.values())
