"""Products in log space: when they are computed a second time, and what their weights are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pcircuits.execute import weights as module
from pcircuits.execute.listed import listed_products
from pcircuits.execute.weights import (
    EdgeWeights,
    Weights,
    contract,
    entry_chunks,
    exact_terms,
    floor_of,
    log_matmul,
    log_matmul_transposed,
    log_product,
    outer,
)

OFF = -math.inf


@pytest.fixture
def redone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of entries that are computed a second time, call by call."""
    calls: list[int] = []
    exact = module._exact

    def counted(x: Tensor, log: Tensor, at: tuple[Tensor, ...]) -> Tensor:
        calls.append(len(at[0]))
        return exact(x, log, at)

    monkeypatch.setattr(module, "_exact", counted)
    return calls


@pytest.mark.parametrize(
    ("dtype", "graph", "floor"),
    [
        (torch.float32, False, 1e-25),
        (torch.float32, True, 1e-17),
        (torch.float64, False, 1e-280),
        (torch.float64, True, 1e-150),
    ],
)
def test_only_totals_below_the_floor_are_computed_again(
    dtype: torch.dtype, graph: bool, floor: float, redone: list[int]
) -> None:
    """The largest value has weight zero, so that the total is what is left of the second."""
    log = torch.tensor([[[[OFF, 0.0], [0.0, 0.0], [OFF, OFF]]]], dtype=dtype)
    for factor, again in ((10.0, []), (0.1, [1])):
        second = math.log(floor * factor)
        x = torch.tensor([[[0.0, second]]], dtype=dtype, requires_grad=graph)
        found = log_matmul(x, Weights(log))
        assert found[0, 0].tolist() == pytest.approx([second, 0.0, OFF], rel=1e-6)
        assert redone == again
        redone.clear()
    total = torch.ones((), dtype=dtype, requires_grad=graph)
    assert floor_of(total) == floor
    assert Weights(log).floor == floor_of(total.detach())


def test_rows_are_shifted_where_their_maxima_are_far_from_zero() -> None:
    def shift(*rows: list[float]) -> list[float] | None:
        found = Weights(torch.tensor([[rows]])).shift
        return None if found is None else found[0, 0].tolist()

    assert shift([-29.5, 29.5]) is None
    assert shift([-30.5, -31.0], [0.0, 1.0]) == [-30.5, 1.0]
    assert shift([30.5, 0.0], [OFF, OFF]) == [30.5, 0.0]
    assert shift([30.0, 0.0]) == [30.0]
    # Only maxima count.
    assert shift([-40.0, 0.0], [OFF, 29.5]) is None
    assert Weights(torch.zeros(1, 1, 0, 3)).shift is None


def test_bounded_weights_are_those_that_no_sum_can_lose() -> None:
    def bounded(least: float, dtype: torch.dtype) -> bool:
        return Weights(torch.tensor([[[[least, 0.0]]]], dtype=dtype)).bounded

    assert bounded(-57.0, torch.float32) and not bounded(-58.0, torch.float32)
    assert bounded(-644.0, torch.float64) and not bounded(-645.0, torch.float64)
    assert not Weights(torch.tensor([[[[-40.0, -40.0]]]])).bounded
    assert EdgeWeights(torch.zeros(2, 1, 1)).bounded


def test_entries_are_computed_again_in_parts() -> None:
    at = tuple(torch.arange(10) for _ in range(3))
    assert [len(part[0]) for part in entry_chunks(at, 2**20)] == [4, 4, 2]
    assert [len(part[0]) for part in entry_chunks(at, 2**23)] == [1] * 10
    assert [len(part[0]) for part in entry_chunks(at, 0)] == [10]
    parts = entry_chunks(at, 2**20)
    assert all(len(part) == 3 for part in parts)
    assert torch.equal(torch.cat([part[1] for part in parts]), at[1])
    x, log = torch.arange(24.0).view(2, 3, 4), 100 * torch.arange(16.0).view(2, 1, 2, 4)
    terms = exact_terms(x, log, (torch.tensor([1, 0]), torch.tensor([2, 0]), torch.tensor([1, 0])))
    assert terms.tolist() == [[1220.0, 1321.0, 1422.0, 1523.0], [0.0, 101.0, 202.0, 303.0]]


SHAPES = [(1, 1), (3, 1), (1, 4), (3, 4)]


@pytest.mark.parametrize("groups, examples", SHAPES)
@pytest.mark.parametrize("by_example", [False, True])
def test_products_of_every_layout_are_sums(groups: int, examples: int, by_example: bool) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, generator=random, dtype=torch.float64)
    if by_example:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    weights = Weights(torch.randn(groups, examples, 2, 5, generator=random, dtype=torch.float64))
    table = weights.log.exp().expand(3, 4, 2, 5)

    torch.testing.assert_close(weights.linear, weights.log.exp())
    product = contract(x, weights.factor)
    torch.testing.assert_close(product, torch.einsum("fbk,fbok->fbo", x, table))
    expected = torch.einsum("fbk,fbok->fbo", x.exp(), table).log()
    torch.testing.assert_close(log_matmul(x, weights), expected)
    bounded, step = log_product(x, weights, bounded=True)
    torch.testing.assert_close(bounded, expected)
    torch.testing.assert_close(step.totals.log() + x.amax(-1, keepdim=True), expected)
    up = torch.randn(3, 4, 2, generator=random, dtype=torch.float64)
    down = torch.einsum("fbo,fbok->fbk", up.exp(), table).log()
    torch.testing.assert_close(log_matmul_transposed(up, weights), down)
    each = up[..., None] * x[:, :, None]
    shared = tuple(axis for axis, size in enumerate((groups, examples)) if size == 1)
    gradient = each.sum(shared, keepdim=True) if shared else each
    torch.testing.assert_close(outer(up, x, weights.factor), gradient.view_as(weights.factor))
    torch.testing.assert_close(
        weights.log_row_sums, weights.log.exp().sum(-1).log(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("first", ["nothing", "linear", "columns"])
def test_row_sums_are_the_same_whatever_is_at_hand(first: str) -> None:
    log = torch.tensor([[[[-40.0, -41.0], [0.0, 1.0], [OFF, OFF]]]], dtype=torch.float64)
    weights = Weights(log)
    if first != "nothing":
        getattr(weights, first)
    expected = [math.log(math.exp(-40) + math.exp(-41)), math.log(1 + math.e), OFF]
    assert weights.log_row_sums[0, 0].tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(weights.columns, weights.linear[0, 0].T)
    assert weights.columns.is_contiguous()


def test_mixtures_in_groups_are_dense_sums() -> None:
    log = torch.arange(24.0).view(4, 1, 2, 3)  # four folds, two units, three operands
    found = Weights(log).grouped(4, 2).log

    assert found.shape == (4, 1, 2, 3)  # unit by unit of two groups, to the two folds of each
    for group in range(2):
        for unit in range(2):
            for fold in range(2):
                row = found[2 * group + unit, 0, fold]
                assert torch.equal(row, log[2 * group + fold, 0, unit])


def test_weights_without_their_graph_are_themselves_or_detached() -> None:
    for kind, shape in ((Weights, (1, 1, 2, 2)), (EdgeWeights, (2, 1, 2))):
        plain = kind(torch.zeros(shape))
        assert plain.detached() is plain
        learned = kind(torch.zeros(shape, requires_grad=True))
        assert not learned.detached().log.requires_grad
    learned = Weights(torch.tensor([[[[1.0, 3.0]]]], requires_grad=True))
    assert learned.extremes == (1.0, 3.0) == learned.detached().extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_listed_products_that_underflow_are_redone_entry_by_entry(dtype: torch.dtype) -> None:
    """Where what a message says is likely is impossible by the weights, and the other way round."""
    far = -80.0 if dtype == torch.float32 else -720.0
    log = torch.tensor([[0.0, far, -1.0, -torch.inf], [far, 0.0, -2.0, -torch.inf]], dtype=dtype)
    messages = torch.tensor([[0.0, far], [far, 0.0], [-3.0, -0.5]], dtype=dtype).requires_grad_()
    categories = torch.tensor([[1, 0, 3, 2], [0, 1, 3, 2], [0, 3, 1, 1]])
    found = listed_products(Weights(log[None, None]), messages, categories)
    wide = messages.detach().double().requires_grad_()
    terms = wide[:, None] + log.double().T[categories]
    expected = terms.logsumexp(-1)
    assert found.dtype == dtype and int(expected.isneginf().sum()) == 3
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    alive = ~expected.isneginf()
    found[alive].sum().backward()
    terms[alive].logsumexp(-1).sum().backward()
    assert messages.grad is not None and wide.grad is not None
    torch.testing.assert_close(messages.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)
