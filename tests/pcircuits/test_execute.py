"""The fast executor: values, gradients, numerics and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.compile.plan import MixingLayer
from pcircuits.errors import BackendError, EvidenceError, ParameterError
from tests.support.circuits import (
    SEEDS,
    circuits,
    parameters_of,
    random_log_weights,
)
from tests.support.enumeration import enumerate_worlds
from tests.support.evidence import (
    Case,
    cases,
    evidence_of,
    map_evidence,
    possible_part,
    random_potentials,
    random_values,
)

INFINITE = math.inf


# Values and gradients against independent computations.


@given(cases())
@settings(max_examples=100)
def test_value_equals_the_sum_over_worlds(case: Case) -> None:
    expected = enumerate_worlds(case.circuit, case.parameters, case.evidence).log_partition()
    plan = pc.compile_circuit(case.circuit)

    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            found = pc.forward(plan, case.parameters, case.evidence)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@given(cases(), SEEDS)
@settings(max_examples=150)
def test_gradients_equal_those_of_the_slow_oracle(case: Case, seed: int) -> None:
    plan = pc.compile_circuit(case.circuit)
    found = _gradients(plan, case, "eager", seed)
    expected = _gradients(plan, case, "reference", seed)

    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert not gradient.isnan().any(), name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@given(cases(zeros=False, max_batch=2))
@settings(max_examples=40)
def test_gradients_equal_finite_differences(case: Case) -> None:
    case = possible_part(case)
    if case is None:
        return
    function, tensors = _as_function(case)

    assert torch.autograd.gradcheck(function, tensors, atol=1e-6, fast_mode=True)


@given(cases(zeros=False, max_batch=2))
@settings(max_examples=12)
def test_second_gradients_equal_finite_differences(case: Case) -> None:
    case = possible_part(case)
    if case is None:
        return
    function, tensors = _as_function(case)

    assert torch.autograd.gradgradcheck(function, tensors, atol=1e-6, fast_mode=True)


@given(cases())
def test_prepared_parameters_give_the_same_value(case: Case) -> None:
    plan = pc.compile_circuit(case.circuit)
    prepared = pc.prepare(plan, case.parameters)

    for _ in range(2):
        found = pc.forward(plan, prepared, case.evidence)
        assert torch.equal(found, pc.forward(plan, case.parameters, case.evidence))


@given(cases())
def test_value_does_not_depend_on_whether_gradients_are_wanted(case: Case) -> None:
    plan = pc.compile_circuit(case.circuit)
    without = pc.forward(plan, case.parameters, case.evidence)

    with_gradients = pc.forward(plan, _with_gradients(case).parameters, case.evidence)

    torch.testing.assert_close(with_gradients, without, rtol=1e-13, atol=1e-13)


@given(st.data())
def test_parameters_per_example_equal_one_call_for_each(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    plan = pc.compile_circuit(circuit)
    parameters = data.draw(parameters_of(circuit, batch_size=3, per_example=True))
    evidence = data.draw(evidence_of(circuit, batch_size=3))

    together = pc.forward(plan, parameters, evidence)

    for row in range(len(together)):
        own = {name: tensor[row] for name, tensor in parameters.items()}
        alone = pc.forward(plan, own, _row(evidence, row))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


@given(st.data())
def test_parameters_of_a_batch_of_one_serve_every_example(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    plan = pc.compile_circuit(circuit)
    parameters = data.draw(parameters_of(circuit, per_example=False))
    evidence = data.draw(evidence_of(circuit, batch_size=3))

    found = pc.forward(plan, {name: t[None] for name, t in parameters.items()}, evidence)

    torch.testing.assert_close(
        found, pc.forward(plan, parameters, evidence), rtol=1e-12, atol=1e-12
    )


# Numerics.


@given(cases(normalized=True))
def test_float32_is_close_to_float64(case: Case) -> None:
    plan = pc.compile_circuit(case.circuit)
    single = {name: tensor.float() for name, tensor in case.parameters.items()}
    evidence = map_evidence(case.evidence, lambda t: t.float() if t.is_floating_point() else t)

    found = pc.forward(plan, single, evidence)

    assert found.dtype == torch.float32
    exact = pc.forward(plan, case.parameters, case.evidence)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@given(cases(zeros=True), st.sampled_from([50.0, 200.0]))
@settings(max_examples=100)
def test_float32_stays_close_when_branches_differ_by_hundreds_of_nats(
    case: Case, spread: float
) -> None:
    """Log-weights and potentials are scaled up, so most terms underflow beside others."""
    plan = pc.compile_circuit(case.circuit)
    wide = _scaled(case, spread)
    single = {name: tensor.float() for name, tensor in wide.parameters.items()}

    found = pc.forward(plan, single, wide.evidence)
    with torch.no_grad():
        without_gradients = pc.forward(plan, single, wide.evidence)

    # The float32 parameters are what is evaluated: their rounding is not the executor's error.
    rounded = {name: tensor.double() for name, tensor in single.items()}
    evidence = map_evidence(
        wide.evidence, lambda t: t.float().double() if t.is_floating_point() else t
    )
    exact = pc.forward(plan, rounded, evidence, impl="reference")
    # Log-values are sums of terms of the size of the spread, each rounded relative to that.
    for value in (found, without_gradients):
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5 * spread)


@given(cases(zeros=True), SEEDS, st.sampled_from([50.0, 400.0]))
@settings(max_examples=100)
def test_float64_gradients_are_exact_when_branches_differ_by_hundreds_of_nats(
    case: Case, seed: int, spread: float
) -> None:
    plan = pc.compile_circuit(case.circuit)
    wide = _scaled(case, spread)
    found = _gradients(plan, wide, "eager", seed)
    expected = _gradients(plan, wide, "reference", seed)

    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [171.1, 2000.0])
def test_the_largest_child_may_have_weight_zero(
    mixing: bool, dtype: torch.dtype, gap: float
) -> None:
    plan, parameters = _two_branches([-INFINITE, 0.0], mixing=mixing, dtype=dtype)
    latent = {"first": torch.zeros(1, 1, dtype=dtype), "second": torch.full((1, 1), -gap).to(dtype)}
    parameters = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    latent = {name: tensor.requires_grad_() for name, tensor in latent.items()}

    value = pc.forward(plan, parameters, pc.Evidence(latent_log_potentials=latent))
    value.backward()

    assert value.item() == latent["second"].item()
    assert latent["first"].grad.item() == 0
    assert latent["second"].grad.item() == 1
    assert parameters["weights"].grad.tolist() == [0, 1]


@pytest.mark.parametrize("mixing", [False, True])
def test_branches_two_hundred_nats_apart_keep_their_weights_gradients(mixing: bool) -> None:
    plan, parameters = _two_branches([-200.0, 0.0], mixing=mixing, dtype=torch.float32)
    weights = parameters["weights"].requires_grad_()
    latent = {"first": torch.zeros(1, 1), "second": torch.full((1, 1), -200.0)}

    value = pc.forward(plan, parameters, pc.Evidence(latent_log_potentials=latent))
    value.backward()

    assert value.item() == pytest.approx(-200 + math.log(2), rel=1e-6)
    assert weights.grad.tolist() == pytest.approx([0.5, 0.5], rel=1e-5)


def test_large_unnormalised_weights_do_not_overflow() -> None:
    plan, parameters = _two_branches([500.0, 501.0], mixing=False, dtype=torch.float32)

    value = pc.forward(plan, parameters, pc.Evidence())

    assert value.item() == pytest.approx(501 + math.log1p(math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("offset", [-95.0, 95.0])
@given(cases(zeros=False))
@settings(max_examples=20)
def test_a_factor_in_a_parameter_is_a_factor_of_the_value(offset: float, case: Case) -> None:
    """Also beyond what float32 could exponentiate."""
    name = _root_parameter(case.circuit)
    if name is None:
        return
    plan = pc.compile_circuit(case.circuit)
    single = {n: t.float() for n, t in case.parameters.items()}

    shifted = pc.forward(plan, {**single, name: single[name] + offset}, case.evidence)

    plain = pc.forward(plan, single, case.evidence)
    torch.testing.assert_close(shifted - offset, plain, rtol=1e-5, atol=2e-5)


def test_soft_evidence_far_apart_is_exact() -> None:
    plan = pc.compile_circuit(pc.Circuit(pc.Input(0, num_units=1, num_categories=3, name="x")))
    parameters = {"x": torch.tensor([[-INFINITE, math.log(0.5), math.log(0.5)]])}
    potentials = torch.tensor([[[0.0, -300.0, -310.0]]], requires_grad=True)

    value = pc.forward(plan, parameters, pc.Evidence(log_potentials=potentials))
    value.backward()

    assert value.item() == pytest.approx(-300 + math.log(0.5) + math.log1p(math.exp(-10)), rel=1e-6)
    share = 1 / (1 + math.exp(10))
    assert potentials.grad.flatten().tolist() == pytest.approx([0, 1 - share, share], rel=1e-4)


# Impossible evidence.


@given(cases(zeros=True), SEEDS)
def test_impossible_evidence_is_minus_infinity_and_never_nan(case: Case, seed: int) -> None:
    """Every second case is made impossible by potentials that forbid all of one variable."""
    circuit, generator = case.circuit, torch.Generator().manual_seed(seed)
    shape = (2, circuit.num_variables, circuit.num_categories)
    potentials = random_potentials(shape, generator, zeros=False)
    potentials[1, seed % circuit.num_variables] = -INFINITE
    parameters = {
        name: random_log_weights(node.parameter_shape, generator, zeros=False, normalized=True)
        for node, name in circuit.parameter_names.items()
    }
    case = Case(circuit, parameters, pc.Evidence(log_potentials=potentials))
    plan = pc.compile_circuit(circuit)

    value = pc.forward(plan, parameters, case.evidence)
    gradients = _gradients(plan, case, "eager", seed)

    assert value[0].isfinite()
    assert value[1] == -INFINITE
    assert not any(gradient.isnan().any() for gradient in gradients.values())
    assert gradients["log_potentials"][1].eq(0).all()
    alone = Case(circuit, parameters, pc.Evidence(log_potentials=potentials[:1]))
    expected = _gradients(plan, alone, "eager", seed)
    for name in parameters:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-12, atol=1e-12)


def test_value_of_weight_zero_is_minus_infinity() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=2))
    emission = torch.tensor([[0.0, -INFINITE], [0.0, -INFINITE]]).requires_grad_()
    parameters = {
        "initial": torch.tensor([0.5, 0.5]).log(),
        "transition": torch.full((2, 2), 0.5).log(),
        "emission": emission,
    }
    value = pc.forward(plan, parameters, pc.Evidence(torch.tensor([[0, 0, 0], [0, 1, 0]])))
    value.sum().backward()

    assert value.tolist() == [pytest.approx(0, abs=1e-6), -INFINITE]
    assert emission.grad.isfinite().all()
    assert emission.grad.sum().item() == pytest.approx(3, rel=1e-6)


# Inputs are left alone; memory layout and integer types do not matter.


@given(cases())
def test_nothing_that_is_given_is_changed(case: Case) -> None:
    copies = [tensor.clone() for tensor in _tensors(case)]
    case = _with_gradients(case)

    value = pc.forward(pc.compile_circuit(case.circuit), case.parameters, case.evidence)
    value[value > -INFINITE].sum().backward()

    for before, after in zip(copies, _tensors(case), strict=True):
        assert torch.equal(before, after)


@given(cases())
def test_memory_layout_does_not_matter(case: Case) -> None:
    plan = pc.compile_circuit(case.circuit)
    parameters = {name: _strided(tensor) for name, tensor in case.parameters.items()}

    found = pc.forward(plan, parameters, map_evidence(case.evidence, _strided))

    expected = pc.forward(plan, case.parameters, case.evidence)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_types_do_not_matter(dtype: torch.dtype) -> None:
    circuit, plan, parameters = _hmm()
    values = random_values(circuit, 4, torch.Generator().manual_seed(0))
    observed = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = pc.forward(plan, parameters, pc.Evidence(values, observed))

    found = pc.forward(plan, parameters, pc.Evidence(values.to(dtype), observed))

    assert torch.equal(found, expected)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_tables_of_many_categories_are_read_alike_by_few_and_by_many(rows: int) -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=4, num_categories=200))
    parameters = pc.random_parameters(plan, seed=0, spread=2.0, dtype=torch.float64)
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    values = random_values(plan.circuit, rows, torch.Generator().manual_seed(0))

    found = pc.forward(plan, leaves, pc.Evidence(values))
    expected = pc.forward(plan, leaves, pc.Evidence(values), impl="reference")

    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(v.sum(), leaves["emission"])[0] for v in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_missing_everywhere_is_log_z() -> None:
    circuit, plan, parameters = _hmm()
    values = torch.full((2, circuit.num_variables), -7)
    nothing = pc.forward(plan, parameters, pc.Evidence())

    missing = pc.forward(plan, parameters, pc.Evidence(values, torch.zeros_like(values).bool()))
    flat = torch.zeros(2, circuit.num_variables, circuit.num_categories, dtype=torch.float64)
    uniform = pc.forward(plan, parameters, pc.Evidence(log_potentials=flat))

    assert nothing.shape == (1,)
    torch.testing.assert_close(missing, nothing.expand(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(uniform, nothing.expand(2), rtol=0, atol=1e-12)


@given(st.data())
def test_listed_categories_equal_full_potentials(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    plan = pc.compile_circuit(circuit)
    parameters = data.draw(parameters_of(circuit))
    generator = torch.Generator().manual_seed(data.draw(SEEDS))
    shape = (2, circuit.num_variables, circuit.num_categories)
    potentials = random_potentials(shape, generator, zeros=False)
    categories = torch.rand(shape, generator=generator).argsort(-1)[..., :2]
    full = torch.full(shape, -INFINITE, dtype=torch.float64)
    full = full.scatter(2, categories, potentials.gather(2, categories))

    found = pc.forward(
        plan,
        parameters,
        pc.Evidence(log_potentials=potentials.gather(2, categories), categories=categories),
    )

    expected = pc.forward(plan, parameters, pc.Evidence(log_potentials=full))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Autograd.


def test_two_forwards_before_the_backwards_are_independent() -> None:
    circuit, plan, parameters = _hmm()
    generator = torch.Generator().manual_seed(0)
    first, second = (pc.Evidence(random_values(circuit, 3, generator)) for _ in range(2))
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    expected = [
        torch.autograd.grad(pc.forward(plan, leaves, evidence).sum(), leaves.values())
        for evidence in (first, second)
    ]

    values = [pc.forward(plan, leaves, evidence).sum() for evidence in (first, second)]
    found = [torch.autograd.grad(value, leaves.values()) for value in values]

    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**16])
def test_a_scaled_loss_gives_scaled_gradients(scale: float) -> None:
    circuit, plan, parameters = _hmm()
    leaves = {name: tensor.float().requires_grad_() for name, tensor in parameters.items()}
    values = random_values(circuit, 3, torch.Generator().manual_seed(0))
    value = pc.forward(plan, leaves, pc.Evidence(values)).sum()

    plain = torch.autograd.grad(value, leaves.values(), retain_graph=True)
    scaled = torch.autograd.grad(value * scale, leaves.values())

    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a * scale, b, rtol=1e-6, atol=0)


def test_each_examples_gradient_follows_its_own_weight() -> None:
    circuit, plan, parameters = _hmm()
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    values = random_values(circuit, 3, torch.Generator().manual_seed(0))
    importance = torch.tensor([0.0, -2.5, 1.0], dtype=torch.float64)

    value = pc.forward(plan, leaves, pc.Evidence(values))
    found = torch.autograd.grad(value, leaves.values(), importance)

    expected = [torch.zeros_like(tensor) for tensor in leaves.values()]
    for row, weight in enumerate(importance):
        alone = pc.forward(plan, leaves, pc.Evidence(values[row : row + 1]))
        for total, part in zip(
            expected, torch.autograd.grad(alone.sum(), leaves.values()), strict=True
        ):
            total += weight * part
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_accumulate_over_calls() -> None:
    circuit, plan, parameters = _hmm()
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    evidence = pc.Evidence(random_values(circuit, 3, torch.Generator().manual_seed(0)))

    for _ in range(3):
        pc.forward(plan, leaves, evidence).sum().backward()

    once = torch.autograd.grad(pc.forward(plan, leaves, evidence).sum(), leaves.values())
    for tensor, gradient in zip(leaves.values(), once, strict=True):
        torch.testing.assert_close(tensor.grad, 3 * gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", ["initial", "transition", "emission", "log_potentials"])
def test_a_gradient_of_one_tensor_alone_is_that_of_all(wanted: str) -> None:
    circuit, plan, parameters = _hmm()
    shape = (2, circuit.num_variables, circuit.num_categories)
    potentials = random_potentials(shape, torch.Generator().manual_seed(0), zeros=False)
    tensors = {**parameters, "log_potentials": potentials}

    def gradient(names: list[str]) -> Tensor:
        own = {n: t.clone().requires_grad_(n in names) for n, t in tensors.items()}
        evidence = pc.Evidence(log_potentials=own.pop("log_potentials"))
        value = pc.forward(plan, own, evidence).sum()
        own["log_potentials"] = evidence.log_potentials
        return torch.autograd.grad(value, own[wanted])[0]

    torch.testing.assert_close(gradient([wanted]), gradient(list(tensors)), rtol=1e-12, atol=1e-12)


# Long chains.


def test_a_chain_of_ten_thousand_steps_is_exact() -> None:
    length, states, categories = 10_000, 2, 3
    plan = pc.compile_circuit(pc.families.hmm(length, states, categories))
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: random_log_weights(shape, generator, zeros=False, normalized=True)
        for name, shape in plan.parameter_shapes.items()
    }
    values = torch.randint(categories, (1, length), generator=generator)
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}

    found = pc.forward(plan, leaves, pc.Evidence(values))
    counts = torch.autograd.grad(found.sum(), leaves.values())

    linear = {name: tensor.detach().exp().numpy() for name, tensor in parameters.items()}
    expected = _scaled_forward_algorithm(linear, values[0].numpy())
    assert found.item() == pytest.approx(expected, rel=1e-10)
    totals = [float(count.sum()) for count in counts]
    assert sorted(totals) == pytest.approx([1, length - 1, length], rel=1e-9)
    nothing = pc.forward(plan, parameters, pc.Evidence())
    assert nothing.item() == pytest.approx(0, abs=1e-8)


# What is refused, and how.

_VALUES = torch.zeros(2, 3, dtype=torch.long)
_POTENTIALS = torch.zeros(2, 3, 4)
BAD_EVIDENCE: dict[str, tuple[Callable[[], pc.Evidence], str]] = {
    "value too large": (lambda: pc.Evidence(_VALUES + 4), r"values\[0, 0\] is 4.*0 \.\. 3"),
    "negative value": (lambda: pc.Evidence(_VALUES - 1), r"values\[0, 0\] is -1"),
    "float values": (lambda: pc.Evidence(_VALUES.float()), "values must be of type integer"),
    "values of one axis": (lambda: pc.Evidence(_VALUES[0]), "values must be .* 2 axes"),
    "a list": (lambda: pc.Evidence([[0, 1, 2]]), "values must be a tensor; found list"),
    "short rows": (lambda: pc.Evidence(_VALUES[:, :2]), "values has 2 variables.* 3"),
    "observed alone": (lambda: pc.Evidence(observed=_VALUES.bool()), "without values"),
    "integer mask": (lambda: pc.Evidence(_VALUES, _VALUES), "observed must be of type bool"),
    "mask of other shape": (lambda: pc.Evidence(_VALUES, _VALUES[:1].bool()), "observed has shape"),
    "potential NaN": (lambda: _with_potential(math.nan), r"log_potentials\[1, 2, 3\] is nan"),
    "potential +inf": (lambda: _with_potential(INFINITE), r"log_potentials\[1, 2, 3\] is inf"),
    "integer potentials": (
        lambda: pc.Evidence(log_potentials=_POTENTIALS.long()),
        "log_potentials must be of type float",
    ),
    "few categories": (
        lambda: pc.Evidence(log_potentials=_POTENTIALS[..., :3]),
        "log_potentials has 3 categories.* 4",
    ),
    "other lengths": (
        lambda: pc.Evidence(_VALUES, _VALUES.bool(), _POTENTIALS[:, :2]),
        "log_potentials has shape",
    ),
    "categories alone": (
        lambda: pc.Evidence(categories=_POTENTIALS.long()),
        "categories are given without log_potentials",
    ),
    "category too large": (
        lambda: pc.Evidence(log_potentials=_POTENTIALS, categories=_POTENTIALS.long() + 4),
        r"categories holds 4 \.\. 4.* 0 \.\. 3",
    ),
    "unknown node": (
        lambda: pc.Evidence(latent_log_potentials={"nowhere": torch.zeros(2, 2)}),
        "names 'nowhere'",
    ),
    "latent of other size": (
        lambda: pc.Evidence(latent_log_potentials={"state_1": torch.zeros(2, 5)}),
        r"latent_log_potentials\['state_1'\] has 5 units",
    ),
    "latent NaN": (
        lambda: pc.Evidence(latent_log_potentials={"state_1": torch.full((2, 2), math.nan)}),
        r"latent_log_potentials\['state_1'\]\[0, 0\] is nan",
    ),
    "mixed batches": (
        lambda: pc.Evidence(_VALUES, latent_log_potentials={"state_1": torch.zeros(3, 2)}),
        r"batch sizes \[2, 3\]",
    ),
}


@pytest.mark.parametrize("kind", BAD_EVIDENCE)
def test_bad_evidence_is_named(kind: str) -> None:
    make, message = BAD_EVIDENCE[kind]
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=4))
    parameters = {name: torch.zeros(shape) for name, shape in plan.parameter_shapes.items()}

    with pytest.raises(EvidenceError, match=message):
        pc.forward(plan, parameters, make())


def test_a_value_out_of_its_variables_range_is_refused_though_others_have_it() -> None:
    inputs = [pc.Input(i, num_units=1, num_categories=2 + i) for i in range(2)]
    plan = pc.compile_circuit(pc.Circuit(pc.Product(*inputs)))
    parameters = {name: torch.zeros(shape) for name, shape in plan.parameter_shapes.items()}

    with pytest.raises(
        EvidenceError, match=r"values\[0, 0\] is 2; variable 0 has categories 0 .. 1"
    ):
        pc.forward(plan, parameters, pc.Evidence(torch.tensor([[2, 2]])))


BAD_PARAMETERS: dict[str, tuple[Callable[[dict[str, Tensor]], Mapping[str, Tensor]], str]] = {
    "missing": (lambda p: {k: v for k, v in p.items() if k != "initial"}, "missing.*initial"),
    "unknown": (lambda p: {**p, "extra": p["initial"]}, "unknown.*extra"),
    "shape": (lambda p: {**p, "initial": torch.zeros(3)}, r"'initial' has shape \(3,\).*\(2,\)"),
    "integers": (lambda p: {**p, "initial": torch.zeros(2, dtype=torch.long)}, "'initial' must be"),
    "mixed types": (lambda p: {**p, "initial": torch.zeros(2).double()}, "float64.*float32"),
    "mixed batches": (
        lambda p: {**p, "initial": torch.zeros(2, 2), "transition": torch.zeros(3, 2, 2)},
        "one batch size",
    ),
}


@pytest.mark.parametrize("kind", BAD_PARAMETERS)
def test_bad_parameters_are_named(kind: str) -> None:
    change, message = BAD_PARAMETERS[kind]
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=4))
    parameters = {name: torch.zeros(shape) for name, shape in plan.parameter_shapes.items()}

    with pytest.raises(ParameterError, match=message):
        pc.forward(plan, change(parameters), pc.Evidence())


def test_batches_of_evidence_and_parameters_must_agree() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=4))
    parameters = {name: torch.zeros(3, *shape) for name, shape in plan.parameter_shapes.items()}

    with pytest.raises(EvidenceError, match=r"about 2 examples.* 3"):
        pc.forward(plan, parameters, pc.Evidence(_VALUES))


def test_parameters_prepared_for_another_plan_are_refused() -> None:
    circuit, plan, parameters = _hmm()

    with pytest.raises(ParameterError, match="another plan"):
        pc.forward(pc.compile_circuit(circuit), pc.prepare(plan, parameters), pc.Evidence())


def test_the_slow_oracle_takes_parameters_by_name() -> None:
    _, plan, parameters = _hmm()

    with pytest.raises(ParameterError, match="by name"):
        pc.forward(plan, pc.prepare(plan, parameters), pc.Evidence(), impl="reference")


def test_an_unknown_implementation_is_refused() -> None:
    _, plan, parameters = _hmm()

    with pytest.raises(BackendError, match="'magic'"):
        pc.forward(plan, parameters, pc.Evidence(), impl="magic")


# Helpers of this file.


def _hmm() -> tuple[pc.Circuit, pc.Plan, dict[str, Tensor]]:
    circuit = pc.families.hmm(5, num_states=3, num_categories=4)
    plan = pc.compile_circuit(circuit)
    generator = torch.Generator().manual_seed(3)
    parameters = {
        name: random_log_weights(shape, generator, zeros=False, normalized=True)
        for name, shape in plan.parameter_shapes.items()
    }
    return circuit, plan, parameters


def _root_parameter(circuit: pc.Circuit) -> str | None:
    """The root's parameter, of which each world takes one weight; None if it has none alone."""
    names = list(circuit.parameter_names.values())
    name = circuit.parameter_names.get(circuit.root)
    return name if names.count(name) == 1 else None


def _two_branches(
    weights: list[float], *, mixing: bool, dtype: torch.dtype
) -> tuple[pc.Plan, dict[str, Tensor]]:
    """A sum of two inputs named `first` and `second`, each a certain distribution."""
    first = pc.Input(0, num_units=1, num_categories=2, name="first")
    second = pc.Input(0, num_units=1, num_categories=2, name="second")
    root = pc.Sum(first, second, num_units=1, mixing=mixing, parameter="weights")
    certain = torch.tensor([[0.0, -INFINITE]], dtype=dtype)
    parameters = {
        "first": certain,
        "second": certain.clone(),
        "weights": torch.tensor(weights, dtype=dtype),
    }
    return pc.compile_circuit(pc.Circuit(root)), parameters


def _with_potential(value: float) -> pc.Evidence:
    potentials = _POTENTIALS.clone()
    potentials[1, 2, 3] = value
    return pc.Evidence(log_potentials=potentials)


def _gradients(plan: pc.Plan, case: Case, impl: str, seed: int) -> dict[str, Tensor]:
    """Gradients of a randomly weighted sum of the values for everything that has one."""
    case = _with_gradients(case)
    value = pc.forward(plan, case.parameters, case.evidence, impl=impl)
    generator = torch.Generator().manual_seed(seed)
    importance = torch.randn(len(value), generator=generator, dtype=torch.float64)
    leaves = _leaves(case)
    found = torch.autograd.grad(value, leaves.values(), importance, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _as_function(case: Case) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The value as a function of all its floating-point tensors."""
    plan = pc.compile_circuit(case.circuit)
    case = _with_gradients(case)
    leaves = _leaves(case)
    names = list(leaves)

    def function(*tensors: Tensor) -> Tensor:
        given = dict(zip(names, tensors, strict=True))
        parameters = {name: given[name] for name in case.parameters}
        return pc.forward(plan, parameters, _replaced(case.evidence, given))

    return function, tuple(leaves.values())


def _leaves(case: Case) -> dict[str, Tensor]:
    leaves = dict(case.parameters)
    if case.evidence.log_potentials is not None:
        leaves["log_potentials"] = case.evidence.log_potentials
    for name, tensor in (case.evidence.latent_log_potentials or {}).items():
        leaves[f"latent {name}"] = tensor
    return leaves


def _replaced(evidence: pc.Evidence, given: Mapping[str, Tensor]) -> pc.Evidence:
    latent = evidence.latent_log_potentials
    return pc.Evidence(
        evidence.values,
        evidence.observed,
        given.get("log_potentials"),
        latent and {name: given[f"latent {name}"] for name in latent},
        evidence.categories,
    )


def _with_gradients(case: Case) -> Case:
    fresh = {name: t.detach().clone().requires_grad_() for name, t in _leaves(case).items()}
    parameters = {name: fresh[name] for name in case.parameters}
    return Case(case.circuit, parameters, _replaced(case.evidence, fresh))


def _scaled(case: Case, factor: float) -> Case:
    scaled = {name: factor * tensor for name, tensor in _leaves(case).items()}
    parameters = {name: scaled[name] for name in case.parameters}
    return Case(case.circuit, parameters, _replaced(case.evidence, scaled))


def _row(evidence: pc.Evidence, row: int) -> pc.Evidence:
    return map_evidence(evidence, lambda tensor: tensor[row : row + 1])


def _strided(tensor: Tensor) -> Tensor:
    """The same values in memory of another order, with gaps."""
    wide = torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)
    axes = range(tensor.ndim)
    reordered = wide.permute(*reversed(axes), tensor.ndim).contiguous()
    return reordered.permute(*reversed(axes), tensor.ndim)[..., 0]


def _tensors(case: Case) -> list[Tensor]:
    evidence = case.evidence
    others = [evidence.values, evidence.observed, evidence.categories]
    return [*_leaves(case).values(), *(tensor for tensor in others if tensor is not None)]


def _scaled_forward_algorithm(linear: Mapping[str, np.ndarray], values: np.ndarray) -> float:
    """Rabiner's scaled forward algorithm (1989, section V.A)."""
    state, total = linear["initial"], 0.0
    for step, value in enumerate(values):
        if step:
            state = state @ linear["transition"]
        state = state * linear["emission"][:, value]
        total += math.log(state.sum())
        state = state / state.sum()
    return total


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_mixtures_of_the_same_children_equal_the_reference(tied: bool, zeros: bool) -> None:
    """Mixing sums in groups are matrix products; the oracle takes them one by one."""
    inputs = [pc.Input(0, num_units=units, num_categories=3) for units in (4, 1, 4)]
    others = [pc.Input(0, num_units=4, num_categories=3) for _ in range(3)]
    sums = [
        pc.Sum(*children, num_units=4, mixing=True, parameter="w" if tied else None)
        for children in (inputs, inputs, others, others)
    ]
    circuit = pc.Circuit(pc.Sum(*sums, num_units=1))
    plan = pc.compile_circuit(circuit)
    assert [layer.group_size for layer in plan.layers if isinstance(layer, MixingLayer)] in (
        [2, 2],  # operands of unequal sizes do not fold together
        [2],
    )
    generator = torch.Generator().manual_seed(3)
    parameters = {
        name: random_log_weights(shape, generator, zeros=zeros, normalized=False).requires_grad_()
        for name, shape in plan.parameter_shapes.items()
    }
    potentials = torch.randn(5, 1, 3, generator=generator, dtype=torch.float64).requires_grad_()
    leaves = [potentials, *parameters.values()]
    weights = torch.randn(5, generator=generator, dtype=torch.float64)
    evidence = pc.Evidence(log_potentials=potentials)
    gradients = []
    for impl in ("eager", "reference"):
        value = pc.forward(plan, parameters, evidence, impl=impl)
        gradients.append((value, *torch.autograd.grad(value @ weights, leaves)))
    for own, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(own.detach(), other.detach(), rtol=1e-9, atol=1e-9)
