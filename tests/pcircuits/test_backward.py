"""Gradients of shared weights as they are collected, and what a plan's layers read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.compile.plan import MixingLayer, num_folds
from pcircuits.execute.backward import ValueGradients, WeightGradient
from pcircuits.execute.layers import Read, Schedule, schedule_of
from pcircuits.execute.weights import Weights


def pair(rows: int, seed: int, folds: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(folds, rows, size, generator=random, dtype=torch.float64) for size in (2, 3)
    )


def test_products_wait_until_they_are_32_rows() -> None:
    weights = Weights(torch.randn(1, 1, 2, 3, dtype=torch.float64))
    collector = WeightGradient(weights)
    sizes = (20, 11, 1, 31, 32, 33)
    pairs = [pair(1, folds, folds=folds) for folds in sizes]
    waiting = []
    for u, e in pairs:
        collector.add_pair(u, e)
        waiting.append(len(collector._pairs))
    # 31 rows wait, 32 are multiplied; later so many are added at once.
    assert waiting == [1, 2, 0, 1, 1, 1]
    expected = sum(torch.einsum("fbo,fbk->ok", u, e) for u, e in pairs) * weights.log[0, 0].exp()
    torch.testing.assert_close(collector.total()[0, 0], expected)


@pytest.mark.parametrize("groups, examples", [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_gradients_of_all_readers_add_up(groups: int, examples: int) -> None:
    random = torch.Generator().manual_seed(0)
    log = torch.randn(groups, examples, 2, 3, generator=random, dtype=torch.float64)
    weights, pairs = Weights(log), [pair(3, seed, folds=2) for seed in range(14)]
    collector = WeightGradient(weights)
    expected = torch.zeros(2, 3, 2, 3, dtype=torch.float64)
    for u, e in pairs:
        collector.add_pair(u, e)
        expected += u[..., None] * e[:, :, None]
    shared = [axis for axis, size in enumerate((groups, examples)) if size == 1]
    expected = (expected.sum(shared, keepdim=True) if shared else expected) * log.exp()
    own = torch.randn(log.shape, generator=random, dtype=torch.float64)
    at = (torch.tensor([0, 0]), torch.tensor([0, 0]), torch.tensor([1, 1]))
    collector.add_log(None, own)
    collector.add_log(at, torch.ones(2, 3, dtype=torch.float64))
    expected = expected + own
    expected[0, 0, 1] += 2.0
    torch.testing.assert_close(collector.total(), expected)


def test_weights_that_nobody_used_have_no_gradient() -> None:
    assert not WeightGradient(Weights(torch.ones(1, 1, 2, 2))).total().any()
    only = WeightGradient(Weights(torch.ones(1, 1, 2, 2)))
    only.add_log(None, torch.full((1, 1, 2, 2), 3.0))
    assert (only.total() == 3.0).all()


def crossed() -> pc.Plan:
    """Two products of one layer whose factors come from two layers, in opposite order."""
    x, y = (
        [pc.Input(i, num_units=2, num_categories=2, name=f"{name}{i}") for i in (0, 1)]
        for name in "xy"
    )
    mixed = [pc.Sum(own, num_units=2) for own in y]
    products = [pc.Product(x[0], mixed[1]), pc.Product(mixed[0], x[1])]
    return pc.compile_circuit(pc.Circuit(pc.Sum(*products, pc.Product(*x), num_units=1)))


def test_a_schedule_says_who_reads_what_and_when_it_is_done() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=2))
    found = schedule_of(plan)
    # Layers: inputs, sum, product, sum, product, root.
    assert found.folds == (3, 1, 1, 1, 1, 1)
    assert found.once == (True, True, True, True, True, False)  # nobody reads the root
    assert [set(own) for own in found.finished] == [set(), set(), {1}, {2}, {0, 3}, {4}]
    reads = [[(read.layer, read.folds) for read in own] for own in found.reads]
    assert reads[0] == []
    assert reads[1] == [(0, slice(2, 3, 1))]
    assert sorted(reads[2], key=str) == [(0, slice(1, 2, 1)), (1, None)]
    assert reads[5] == [(4, None)]
    assert schedule_of(plan) is found
    twice = schedule_of(crossed())
    spread = [read for own in twice.reads for read in own if read.layer < 0]
    assert spread and all(read.folds is None for read in spread)


@pytest.mark.parametrize("once", [True, False])
def test_gradients_go_where_values_came_from(once: bool) -> None:
    plan = crossed()
    made = schedule_of(plan)
    folds, count = made.folds, 2
    times = (once, *made.once[1:])
    gradients = ValueGradients(
        Schedule(made.reads, made.finished, folds, times), torch.ones(1, count, 1)
    )
    assert gradients.pop(len(folds) - 1).shape == (1, count, 1)
    every = torch.arange(float(folds[0]))[:, None, None].expand(-1, count, 2).clone()
    read = Read(0, None, None)  # type: ignore[arg-type]
    gradients.add(read, every)
    if not once:
        part = torch.ones(2, count, 2)
        gradients.add(Read(0, slice(1, 4, 2), None), part)  # type: ignore[arg-type]
        every = every.index_add(0, torch.tensor([1, 3]), part)
    torch.testing.assert_close(gradients.pop(0), every)


def test_gradients_of_permuted_operands_go_back() -> None:
    from pcircuits.compile.folding import operand

    places = [(1, 1), (0, 2), (1, 0), (0, 0)]
    own = operand(places)
    schedule = Schedule(((),) * 3, ((),) * 3, (3, 2, 1), (False, True, True))
    gradients = ValueGradients(schedule, torch.zeros(1, 1, 1))
    part = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(4, 1, 1)
    gradients.add(Read(-1, None, own), part)
    gradients.add(Read(-1, None, operand([(0, 2), (0, 0)])), part[:2])
    assert gradients.pop(1).flatten().tolist() == [30.0, 10.0]
    assert gradients.pop(0).flatten().tolist() == [40.0 + 20.0, 0.0, 20.0 + 10.0]
    assert own.order is not None


@pytest.mark.parametrize("folds", [1, 2, 3])
def test_the_gradient_of_tied_mixtures_is_the_sum_of_the_untied(folds: int) -> None:
    """Unit by unit mixtures of one layer that share their weights."""

    def gradients(tied: bool) -> list[Tensor]:
        mixtures = []
        for i in range(folds):
            parts = [pc.Input(i, num_units=2, num_categories=3, name=f"{n}{i}") for n in "xy"]
            name = "w" if tied else f"w{i}"
            mixtures.append(pc.Sum(*parts, num_units=2, mixing=True, parameter=name))
        product = mixtures[0] if folds == 1 else pc.Product(*mixtures)
        plan = pc.compile_circuit(pc.Circuit(pc.Sum(product, num_units=1, name="root")))
        random = torch.Generator().manual_seed(3)
        own = {
            name: torch.randn(shape, generator=random, dtype=torch.float64)
            for name, shape in plan.circuit.parameter_shapes.items()
            if not name.startswith("w")
        }
        shared = torch.randn(2, 2, generator=random, dtype=torch.float64)
        weights = [shared.clone().requires_grad_() for _ in range(1 if tied else folds)]
        names = ["w"] if tied else [f"w{i}" for i in range(folds)]
        rows = pc.Evidence(torch.tensor([[0, 2, 1], [1, 1, 0]])[:, :folds])
        every = {**own, **dict(zip(names, weights, strict=True))}
        pc.forward(plan, every, rows, impl="eager").sum().backward()
        return [weight.grad for weight in weights if weight.grad is not None]

    (tied,), untied = gradients(True), gradients(False)
    assert len(untied) == folds and bool(tied.abs().min() > 0)
    torch.testing.assert_close(tied, torch.stack(untied).sum(0))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_gradients_of_mixtures_over_the_same_children(groups: int) -> None:
    """Two mixtures read each pair of parts; they are evaluated together, all pairs at once."""
    mixed = []
    for i in range(groups):
        parts = [pc.Input(i, num_units=3, num_categories=4, name=f"{n}{i}") for n in "xy"]
        mixed += [pc.Sum(*parts, num_units=3, mixing=True, name=f"{n}{i}") for n in "ab"]
    branches = [pc.Product(*own) if groups > 1 else own[0] for own in (mixed[0::2], mixed[1::2])]
    plan = pc.compile_circuit(pc.Circuit(pc.Sum(*branches, num_units=1)))
    layers = [layer for layer in plan.layers if isinstance(layer, MixingLayer)]
    assert [(layer.group_size, num_folds(layer)) for layer in layers] == [(2, 2 * groups)]
    parameters = pc.random_parameters(plan, seed=1, spread=1.5, dtype=torch.float64)
    rows = pc.Evidence(torch.tensor([[0, 3, 1], [2, 1, 1]])[:, :groups])
    found = {}
    for impl in ("eager", "reference"):
        own = {name: weights.clone().requires_grad_() for name, weights in parameters.items()}
        pc.forward(plan, own, rows, impl=impl).sum().backward()
        found[impl] = {name: weights.grad for name, weights in own.items()}
    for name, expected in found["reference"].items():
        torch.testing.assert_close(found["eager"][name], expected, msg=name)
