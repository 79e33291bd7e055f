"""Compiled passes of single-node circuits: every arithmetic, tile shape and kind of evidence."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.execute import choice
from pcircuits.execute.numba import descent, kernels, passes
from pcircuits.execute.numba.evaluation import lay_out
from pcircuits.learning.flows import flows
from tests.support.circuits import SEEDS
from tests.support.scalars import scalar_circuits, scalar_parameters

SINGLE = {"rtol": 1e-5, "atol": 1e-5}
DOUBLE = {"rtol": 1e-9, "atol": 1e-9}


class _Poisoned:
    """numpy, but that memory which is not written before it is read is NaN."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        found = np.empty(shape, dtype)
        found.fill(np.nan if found.dtype.kind == "f" else np.iinfo(np.int64).min // 4)
        return found

    def empty_like(self, like: np.ndarray) -> np.ndarray:
        return self.empty(like.shape, like.dtype)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "np", _Poisoned())


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def levels_of(plan: pc.Plan, parameters: dict[str, Tensor], evidence: pc.Evidence) -> set[int]:
    """Which arithmetic the tiles of an evaluation take."""
    call, tensors = lay_out(plan, pc.prepare(plan, parameters), evidence)
    return set(passes.root_values(call.problem(tuple(tensors))).levels.tolist())


def check(
    plan: pc.Plan,
    parameters: dict[str, Tensor],
    evidence: pc.Evidence,
    dtype: torch.dtype,
    values: dict[str, float] | None = None,
    counts: dict[str, float] | None = None,
) -> Tensor:
    """Values and gradients against the oracle, in double; returns the values."""
    exact = SINGLE if dtype == torch.float32 else DOUBLE
    own = {n: p.detach().to(dtype).requires_grad_() for n, p in parameters.items()}
    wide = {n: p.detach().to(dtype).double().requires_grad_() for n, p in parameters.items()}
    found = pc.forward(plan, own, evidence, impl="numba")
    expected = pc.forward(plan, wide, evidence, impl="reference")
    assert found.dtype == dtype and not found.isnan().any()
    np.testing.assert_allclose(found.detach(), expected.detach(), **(values or exact))
    if not found.requires_grad:
        return found
    each = torch.linspace(-1.0, 2.0, len(found), dtype=torch.float64)
    # An impossible example has the gradient zero, whatever its share in the total.
    alive = expected.detach() > -torch.inf
    gradients = torch.autograd.grad(found, list(own.values()), each.to(dtype), allow_unused=True)
    others = torch.autograd.grad(
        (expected[alive] * each[alive]).sum(),
        list(wide.values()),
        allow_unused=True,
    )
    for leaf, left, right in zip(wide.values(), gradients, others, strict=True):
        zero = torch.zeros_like(leaf)
        left, right = zero if left is None else left, zero if right is None else right
        np.testing.assert_allclose(left, right, **(counts or exact))
    return found


def random_rows(circuit: pc.Circuit, number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [torch.randint(0, n, (number,), generator=generator) for n in circuit.categories], 1
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(scalar_circuits(), SEEDS, st.booleans(), st.sampled_from([1, 3, 16, 37]))
@settings(max_examples=60)
def test_observed_rows_equal_the_oracle(
    dtype: torch.dtype, circuit: pc.Circuit, seed: int, zeros: bool, batch: int
) -> None:
    plan = pc.compile_circuit(circuit)
    parameters = scalar_parameters(circuit, seed, zeros=zeros)
    check(plan, parameters, pc.Evidence(random_rows(circuit, batch, seed)), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_sums_and_products_of_any_number_of_children(spread: float, dtype: torch.dtype) -> None:
    """Loops take terms four at a time and factors two at a time, and then the rest."""
    for count in range(1, 14):
        terms = [
            pc.Product(*(pc.Input(i, num_units=1, num_categories=2) for i in range(count)))
            for _ in range(count)
        ]
        circuit = pc.Circuit(pc.Sum(*terms, num_units=1))
        plan = pc.compile_circuit(circuit)
        parameters = pc.random_parameters(plan, seed=count, spread=spread, dtype=torch.float64)
        if count == 13 and spread == 1.0:  # in linear space, single or double
            single = {name: log.to(dtype) for name, log in parameters.items()}
            level = 0 if dtype == torch.float32 else 1
            assert levels_of(plan, single, pc.Evidence(random_rows(circuit, 19, count))) == {level}
        # Log-values of hundreds of nats carry the rounding of their size.
        exact = {"rtol": 1e-5, "atol": 1e-6 * spread * count} if dtype == torch.float32 else DOUBLE
        check(plan, parameters, pc.Evidence(random_rows(circuit, 19, count)), dtype, exact, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(scalar_circuits(), SEEDS, st.sampled_from([20.0, 200.0, 3000.0]))
@settings(max_examples=60)
def test_extreme_weights_and_potentials(
    dtype: torch.dtype, circuit: pc.Circuit, seed: int, spread: float
) -> None:
    plan = pc.compile_circuit(circuit)
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: (torch.rand(log.shape, generator=generator, dtype=torch.float64) * 2 - 1) * spread
        for name, log in scalar_parameters(circuit, seed, zeros=False).items()
    }
    rows = random_rows(circuit, 5, seed)
    soft = torch.randn(5, plan.num_variables, plan.num_categories, generator=generator) * spread
    observed = torch.rand(rows.shape, generator=generator) < 0.5
    # Log-values of thousands of nats carry the rounding of their size.
    scale = max(1.0, spread)
    exact = {"rtol": 1e-5, "atol": 1e-6 * scale} if dtype == torch.float32 else DOUBLE
    counts = {"rtol": 1e-4, "atol": 1e-5 * scale} if dtype == torch.float32 else DOUBLE
    for evidence in (pc.Evidence(rows), pc.Evidence(rows, observed, soft.to(dtype))):
        check(plan, parameters, evidence, dtype, exact, counts)


def independent(length: int, rare: float) -> tuple[pc.Plan, dict[str, Tensor]]:
    """A mixture of two products of `length` rare events, one of which favours the others."""
    builder = pc.ScalarBuilder()
    logs = [float(np.log(rare)), float(np.log1p(-rare))]
    parts = [
        builder.add_product([builder.add_input(v, row) for v in range(length)])
        for row in (logs, logs[::-1])
    ]
    weighted = builder.build(builder.add_sum(parts, [float(np.log(0.25)), float(np.log(0.75))]))
    plan = pc.compile_circuit(weighted.circuit)
    return plan, dict(weighted.log_weights)


@pytest.mark.parametrize(
    ("length", "dtype", "level"),
    [
        (8, torch.float32, 0),
        (40, torch.float32, 1),
        (40, torch.float64, 1),
        (400, torch.float32, 2),
        (400, torch.float64, 2),
    ],
)
def test_each_arithmetic_is_exact(length: int, dtype: torch.dtype, level: int) -> None:
    # Rows of zeros and of ones in one tile: 1e-3 to the power of their length apart.
    plan, parameters = independent(length, 1e-3)
    rows = torch.randint(0, 2, (70, length), generator=torch.Generator().manual_seed(0))
    rows[:35] = 0
    rows[35:60] = 1
    evidence = pc.Evidence(rows)
    own = {name: log.to(dtype) for name, log in parameters.items()}
    assert levels_of(plan, own, evidence) == {level}
    check(plan, parameters, evidence, dtype)
    soft = torch.zeros(70, length, 2, dtype=dtype).masked_fill(
        torch.nn.functional.one_hot(rows, 2) == 0, -torch.inf
    )
    assert levels_of(plan, own, pc.Evidence(log_potentials=soft)) == {level}
    check(plan, parameters, pc.Evidence(log_potentials=soft), dtype)


def test_numbers_that_no_exponent_holds() -> None:
    plan, parameters = independent(3, 0.1)
    parameters["sums"] = torch.tensor([-1e30, 0.0], dtype=torch.float64)
    rows = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    single = {name: log.float() for name, log in parameters.items()}
    assert levels_of(plan, single, pc.Evidence(rows)) == {2}
    check(plan, parameters, pc.Evidence(rows), torch.float32)
    soft = torch.full((2, 3, 2), -1e9)
    found = pc.forward(plan, single, pc.Evidence(log_potentials=soft), impl="numba")
    np.testing.assert_allclose(found, [-3e9, -3e9], rtol=1e-6)


def test_impossible_rows_have_no_value_and_no_gradient() -> None:
    plan, parameters = independent(4, 0.1)
    parameters["inputs_2"][:4, 1] = -torch.inf
    parameters["inputs_2"][4:, 0] = -torch.inf
    rows = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    found = check(plan, parameters, pc.Evidence(rows), torch.float32)
    assert (found[1:-1] == -torch.inf).all() and found[[0, -1]].isfinite().all()
    leaves = {name: log.float().requires_grad_() for name, log in parameters.items()}
    value = pc.forward(plan, leaves, pc.Evidence(rows[1:-1]), impl="numba")
    for gradient in torch.autograd.grad(value.sum(), list(leaves.values())):
        assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_of_few_and_of_many_categories(dtype: torch.dtype) -> None:
    """Gradients of a table are summed entry by entry, or example by example."""
    sizes = (3, 8, 9, 30)
    assert sizes[1] == kernels._FEW_CATEGORIES < sizes[2]
    inputs = [
        [
            pc.Input(i, num_units=1, num_categories=size, name=f"input_{i}_{n}")
            for i, size in enumerate(sizes)
        ]
        for n in range(3)
    ]
    plan = pc.compile_circuit(
        pc.Circuit(pc.Sum(*(pc.Product(*own) for own in inputs), num_units=1))
    )
    parameters = pc.random_parameters(plan, seed=3, dtype=torch.float64)
    rows = torch.stack([torch.arange(70) * (2 * i + 1) % n for i, n in enumerate(sizes)], 1)
    check(plan, parameters, pc.Evidence(rows), dtype)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [1, 31, 300])
def test_tiles_and_threads(batch: int) -> None:
    plan, parameters = independent(6, 0.2)
    rows = torch.randint(0, 2, (batch, 6), generator=torch.Generator().manual_seed(1))
    check(plan, parameters, pc.Evidence(rows), torch.float64)
    check(plan, parameters, pc.Evidence(rows), torch.float32)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    plan, parameters = independent(6, 0.2)
    evidence = pc.Evidence(torch.zeros(64, 6, dtype=torch.long))
    expected = pc.forward(plan, parameters, evidence, impl="numba")
    child = os.fork()
    if child == 0:
        same = torch.equal(pc.forward(plan, parameters, evidence, impl="numba"), expected)
        sys.stdout.flush()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_expected_counts_are_those_of_ordinary_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, parameters = independent(7, 0.3)
    evidence = pc.Evidence(torch.randint(0, 2, (50, 7)))
    expected, value = flows(plan, parameters, evidence)
    monkeypatch.setattr(choice, "MANY_EDGES", 0)
    found, same = flows(plan, parameters, evidence)
    np.testing.assert_allclose(same, value, **DOUBLE)
    for name, counts in expected.items():
        np.testing.assert_allclose(found[name], counts, **DOUBLE)


@given(
    scalar_circuits(max_variables=4, max_categories=3),
    SEEDS,
    st.sampled_from(["none", "soft", "listed"]),
)
@settings(max_examples=30)
def test_samples_follow_the_distribution(circuit: pc.Circuit, seed: int, kind: str) -> None:
    plan, parameters = pc.compile_circuit(circuit), scalar_parameters(circuit, seed, zeros=True)
    worlds = torch.tensor(list(itertools.product(*map(range, circuit.categories))))
    generator = torch.Generator().manual_seed(seed)
    potentials = torch.randn(1, plan.num_variables, plan.num_categories, generator=generator)
    weights = pc.forward(plan, parameters, pc.Evidence(worlds), impl="reference")
    evidence = pc.Evidence(log_potentials=potentials) if kind == "soft" else None
    if kind == "listed":
        # Two categories each, in any order, some of them not of their variable.
        listed = torch.rand(potentials.shape, generator=generator).argsort(-1)[..., :2]
        own = potentials[..., :2]
        evidence = pc.Evidence(log_potentials=own, categories=listed)
        potentials = torch.full_like(potentials, -torch.inf).scatter(2, listed, own)
    if kind != "none":
        weights = weights + potentials[0].gather(1, worlds.T).sum(0)
    if len(plan.layers) == 1 or bool((weights == -torch.inf).all()):
        return
    expected = weights.softmax(0).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "MANY_EDGES", 0)
        patch.setattr(descent, "_AT_ONCE", 5_000)
        drawn, again = (
            pc.queries.sample(
                plan,
                parameters,
                20_000,
                evidence,
                generator=torch.Generator().manual_seed(seed),
            ).view(-1, plan.num_variables)
            for _ in range(2)
        )
    assert torch.equal(drawn, again)
    index = {tuple(world): i for i, world in enumerate(worlds.tolist())}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(worlds))
    error = np.abs(counts / len(drawn) - expected)
    assert (error <= 5 * np.sqrt(expected * (1 - expected) / len(drawn)) + 1e-12).all()


@pytest.mark.parametrize("length", [8, 40, 400])
def test_samples_of_each_arithmetic_are_likely(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MANY_EDGES", 0)
    plan, parameters = independent(length, 1e-3)
    observed = torch.zeros(3, length, dtype=torch.bool)
    observed[:, : length // 2] = True
    values = torch.tensor([0, 1, 1])[:, None].expand(3, length)
    drawn = pc.queries.sample(
        plan,
        parameters,
        500,
        pc.Evidence(values, observed),
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(drawn[:, :, 0], values[:, :1].expand(3, 500))
    # What is observed tells which product it is; the other events are as rare as they are.
    rest = (drawn[:, :, length // 2 :] != values[:, None, :1]).double().mean((1, 2))
    number = 500 * (length - length // 2)
    assert (rest - 1e-3).abs().max() < 5 * np.sqrt(1e-3 / number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_potentials_above_one(dtype: torch.dtype) -> None:
    """Evidence need not be a probability: rows are divided by powers of two above one, too."""
    plan, parameters = independent(3, 0.1)
    soft = torch.linspace(-12.0, 30.0, 2 * 3 * 2, dtype=dtype).reshape(2, 3, 2)
    for evidence in (pc.Evidence(log_potentials=soft), pc.Evidence(log_potentials=-soft)):
        check(plan, parameters, evidence, dtype)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 7])
def test_every_sample_is_drawn(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and however many are drawn at once: here 0 is impossible."""
    monkeypatch.setattr(choice, "MANY_EDGES", 0)
    monkeypatch.setattr(descent, "_AT_ONCE", 8)
    monkeypatch.setattr(descent, "np", _Poisoned())
    builder = pc.ScalarBuilder()
    never = [-np.inf, float(np.log(0.4)), float(np.log(0.6))]
    products = [builder.add_product([builder.add_input(v, never) for v in range(4)]) for _ in "ab"]
    weighted = builder.build(builder.add_sum(products, [float(np.log(0.5))] * 2))
    plan = pc.compile_circuit(weighted.circuit)
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    evidence = pc.Evidence(nothing.long(), nothing)
    drawn = pc.queries.sample(plan, dict(weighted.log_weights), number, evidence)
    assert drawn.shape == (3, number, 4) and bool((drawn > 0).all())
