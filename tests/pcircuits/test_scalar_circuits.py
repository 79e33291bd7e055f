"""Circuits of single nodes, irregular, with indicators, plain sums and packed parameters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.compile.plan import SegmentProductLayer, SegmentSumLayer
from pcircuits.errors import BackendError, EvidenceError, ParameterError, StructureError
from tests.support.circuits import SEEDS
from tests.support.scalars import scalar_circuits, scalar_parameters

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def worlds_of(circuit: pc.Circuit) -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, circuit.categories))))


def weights_of(circuit: pc.Circuit, parameters: dict[str, Tensor]) -> Tensor:
    """(W,) linear weight of every world, by the oracle."""
    plan = pc.compile_circuit(circuit)
    return pc.forward(plan, parameters, pc.Evidence(worlds_of(circuit)), impl="reference").exp()


@pytest.mark.parametrize("impl", ["eager", "numba"])
@given(scalar_circuits(), SEEDS, st.booleans())
@settings(settings.get_profile("oracle"))
def test_values_and_gradients_equal_the_reference(
    impl: str, circuit: pc.Circuit, seed: int, zeros: bool
) -> None:
    plan = pc.compile_circuit(circuit)
    parameters = {
        name: tensor.requires_grad_()
        for name, tensor in scalar_parameters(circuit, seed, zeros=zeros).items()
    }
    generator = torch.Generator().manual_seed(seed)
    shape = (3, circuit.num_variables)
    values = torch.stack(
        [torch.randint(0, size, (3,), generator=generator) for size in circuit.categories], 1
    )
    observed = torch.rand(shape, generator=generator) < 0.5
    soft = torch.randn(*shape, circuit.num_categories, generator=generator, dtype=torch.float64)
    evidence = pc.Evidence(values, observed, soft.requires_grad_())
    found, expected = (
        pc.forward(plan, parameters, evidence, impl=name) for name in (impl, "reference")
    )
    np.testing.assert_allclose(found.detach(), expected.detach(), **EXACT)
    leaves = [soft, *parameters.values()]
    weights = torch.randn(3, generator=generator, dtype=torch.float64)
    totals = [(v * weights).masked_select(v > -torch.inf).sum() for v in (found, expected)]
    if not all(total.requires_grad for total in totals):
        return
    gradients = [torch.autograd.grad(total, leaves, allow_unused=True) for total in totals]
    for leaf, own, other in zip(leaves, *gradients, strict=True):
        left, right = (torch.zeros_like(leaf) if g is None else g for g in (own, other))
        np.testing.assert_allclose(left.detach(), right, **EXACT)


@given(scalar_circuits(), SEEDS, st.booleans())
@settings(max_examples=150)
def test_queries_equal_enumeration(circuit: pc.Circuit, seed: int, zeros: bool) -> None:
    plan, parameters = pc.compile_circuit(circuit), scalar_parameters(circuit, seed, zeros=zeros)
    worlds, weights = worlds_of(circuit), weights_of(circuit, parameters)
    total = float(weights.sum())
    nothing = pc.Evidence()
    if total == 0:
        with pytest.raises(EvidenceError, match="probability zero"):
            pc.queries.marginals(plan, parameters, nothing)
        return
    log_total = pc.queries.log_evidence(plan, parameters, nothing)
    np.testing.assert_allclose(log_total, [np.log(total)], **EXACT)
    expected = np.zeros((circuit.num_variables, circuit.num_categories))
    for variable, column in enumerate(worlds.T.tolist()):
        np.add.at(expected[variable], column, weights.numpy() / total)
    single = pc.queries.marginals(plan, parameters, nothing)
    np.testing.assert_allclose(single[0], expected, **EXACT)
    # Without evidence, what the others say of a variable is all that is said of it.
    others = pc.queries.leave_one_out(plan, parameters, nothing)
    np.testing.assert_allclose(others[0], expected, **EXACT)


@given(scalar_circuits(max_variables=4, max_categories=2), SEEDS)
@settings(max_examples=25)
def test_samples_follow_the_distribution(circuit: pc.Circuit, seed: int) -> None:
    plan, parameters = pc.compile_circuit(circuit), scalar_parameters(circuit, seed, zeros=True)
    worlds, weights = worlds_of(circuit), weights_of(circuit, parameters)
    if float(weights.sum()) == 0:
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = pc.queries.sample(plan, parameters, 20_000, generator=generator)
    index = {tuple(world): i for i, world in enumerate(worlds.tolist())}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(worlds))
    expected = (weights / weights.sum()).numpy()
    error = np.abs(counts / len(drawn) - expected)
    assert (error <= 5 * np.sqrt(expected * (1 - expected) / len(drawn)) + 1e-12).all()


def test_unequal_fan_ins_fold_into_one_layer() -> None:
    leaves = [pc.Input(0, num_units=1, num_categories=2) for _ in range(6)]
    sums = [pc.Sum(*leaves[:n], num_units=1) for n in (2, 3, 6)]
    others = [pc.Input(v, num_units=1, num_categories=2) for v in (1, 2)]
    products = [pc.Product(s, *others) for s in sums[:2]]
    products.append(pc.Product(sums[2], pc.Product(*others)))
    plan = pc.compile_circuit(pc.Circuit(pc.Sum(*products, num_units=1)))
    kinds = [type(layer) for layer in plan.layers]
    assert kinds.count(SegmentSumLayer) == 1 and kinds.count(SegmentProductLayer) == 1


@given(scalar_circuits(max_variables=3), SEEDS)
@settings(max_examples=10)
def test_compiled_passes_differentiate_twice(circuit: pc.Circuit, seed: int) -> None:
    plan = pc.compile_circuit(circuit)
    log = scalar_parameters(circuit, seed, zeros=False)
    generator = torch.Generator().manual_seed(seed)
    shape = (2, circuit.num_variables, circuit.num_categories)
    soft = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    tensors = [tensor.requires_grad_() for tensor in log.values()]

    def value(potentials: Tensor, *weights: Tensor) -> Tensor:
        parameters = dict(zip(log, weights, strict=True))
        evidence = pc.Evidence(log_potentials=potentials)
        return pc.forward(plan, parameters, evidence, impl="numba")

    # No indicator excludes everything: a value of -inf has no difference quotient.
    if bool(value(soft, *tensors).isfinite().all()):
        assert torch.autograd.gradcheck(value, (soft, *tensors))
        assert torch.autograd.gradgradcheck(value, (soft, *tensors))


@pytest.mark.parametrize("batch", [1, 16, 37])
def test_compiled_passes_are_as_exact_in_single_precision(batch: int) -> None:
    # A chain of 400 sums of products: values of some 500 nats, more than exp can take.
    generator = torch.Generator().manual_seed(batch)
    node: object = pc.Input(0, num_units=1, num_categories=2, parameter=pc.Part("x", 0))
    for v in range(1, 400):
        leaves = [
            pc.Input(v, num_units=1, num_categories=2, parameter=pc.Part("x", 2 * v - 1 + i))
            for i in (0, 1)
        ]
        products = [pc.Product(leaf, node) for leaf in leaves]
        node = pc.Sum(*products, num_units=1, parameter=pc.Part("w", 2 * v - 2))
    plan = pc.compile_circuit(pc.Circuit(node))
    log = pc.random_parameters(plan, seed=1, spread=3.0)
    values = torch.randint(0, 2, (batch, 400), generator=generator)
    single = {name: tensor.requires_grad_() for name, tensor in log.items()}
    double = {name: tensor.detach().double().requires_grad_() for name, tensor in log.items()}
    found = pc.forward(plan, single, pc.Evidence(values), impl="numba")
    expected = pc.forward(plan, double, pc.Evidence(values), impl="reference")
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=2e-6)
    flows = torch.autograd.grad(found.sum(), list(single.values()))
    counts = torch.autograd.grad(expected.sum(), list(double.values()))
    for own, other in zip(flows, counts, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=2e-4)


def test_compiled_passes_say_what_they_do_not_do() -> None:
    plan = pc.compile_circuit(pc.families.mixture(2, num_components=3, num_categories=2))
    with pytest.raises(BackendError, match="some node has more than one unit"):
        pc.forward(plan, pc.random_parameters(plan), pc.Evidence(), impl="numba")
    plan = pc.compile_circuit(pc.families.factorized(2, num_categories=2))
    own = {name: torch.stack([log, log]) for name, log in pc.random_parameters(plan).items()}
    with pytest.raises(BackendError, match="parameters are given per example"):
        pc.forward(plan, own, pc.Evidence(), impl="numba")


def test_parts_must_cover_their_parameter() -> None:
    def circuit(*starts: int) -> pc.Circuit:
        x = [pc.Input(0, num_units=1, num_categories=2, parameter=pc.Part("x", i)) for i in (0, 1)]
        sums = [pc.Sum(*x, num_units=1, parameter=pc.Part("w", start)) for start in starts]
        return pc.Circuit(pc.Sum(*sums, num_units=1))

    assert circuit(0, 2).parameter_shapes == {"x": (2, 2), "w": (4,), "sum_4": (2,)}
    assert circuit(0, 2).parameter_rows["w"] == (2, 2)
    assert circuit(0, 0).parameter_shapes["w"] == (2,)
    with pytest.raises(StructureError, match="starts at 3 and leaves a gap; expected 2"):
        circuit(0, 3)
    with pytest.raises(StructureError, match="starts at 1 and overlaps"):
        circuit(0, 1)


def test_rows_of_packed_parameters_are_distributions() -> None:
    x = pc.Input(0, num_units=1, num_categories=2)
    parts = [
        pc.Sum(*[x] * n, num_units=1, parameter=pc.Part("w", start))
        for n, start in ((2, 0), (3, 2), (1, 5))
    ]
    model = pc.CircuitModel(pc.Circuit(pc.Sum(*parts, num_units=1, name="root")))
    weights = model.probabilities()["w"]
    np.testing.assert_allclose(
        [weights[:2].sum(), weights[2:5].sum(), weights[5:].sum()], 1.0, rtol=1e-6
    )
    model.set_probabilities({"w": torch.tensor([0.5, 0.5, 0.2, 0.3, 0.5, 1.0])})
    with pytest.raises(ParameterError, match=r"row 1 of parameter 'w' sums to 1\.1"):
        model.set_probabilities({"w": torch.tensor([0.5, 0.5, 0.2, 0.3, 0.6, 1.0])})
    for broken in (torch.nan, torch.inf):
        with pytest.raises(ParameterError, match="row 1 of parameter 'w'"):
            model.set_log_parameters({"w": torch.tensor([0.0, 0.0, 0.0, broken, 0.0, 0.0])})


def test_a_circuit_without_parameters_counts() -> None:
    literal = [
        [pc.Input(v, num_units=1, num_categories=2, supports=((c,),)) for c in (0, 1)]
        for v in (0, 1)
    ]
    exclusive = pc.Sum(
        pc.Product(literal[0][0], literal[1][1]),
        pc.Product(literal[0][1], literal[1][0]),
        num_units=1,
        weighted=False,
    )
    plan = pc.compile_circuit(pc.Circuit(exclusive))
    assert plan.parameter_shapes == {}
    counts = pc.queries.log_evidence(plan, {}, pc.Evidence()).exp()
    np.testing.assert_allclose(counts, [2.0])
    truth = pc.queries.log_likelihood(plan, {}, worlds_of(plan.circuit)).exp()
    np.testing.assert_allclose(truth, [0.0, 1.0, 1.0, 0.0])
    assert sorted(map(tuple, pc.queries.sample(plan, {}, 50).unique(dim=0).tolist())) == [
        (0, 1),
        (1, 0),
    ]


def test_a_folder_keeps_parts_supports_and_plain_sums(tmp_path: object) -> None:
    x = pc.Input(0, num_units=2, num_categories=3, supports=((0,), (1, 2)))
    y = pc.Input(0, num_units=2, num_categories=3, parameter=pc.Part("y", 0))
    both = pc.Sum(x, y, num_units=2, weighted=False)
    model = pc.CircuitModel(pc.Circuit(pc.Sum(both, num_units=1, parameter=pc.Part("w", 0))))
    model.save(f"{tmp_path}/model")
    again = pc.load(f"{tmp_path}/model")
    assert pc.structure_to_json(again.circuit) == pc.structure_to_json(model.circuit)
    values = torch.arange(3)[:, None]
    assert torch.equal(again.log_likelihood(values), model.log_likelihood(values))


def test_indicators_are_checked() -> None:
    with pytest.raises(StructureError, match="support of unit 0 holds 3"):
        pc.Input(0, num_units=1, num_categories=3, supports=((3,),))
    with pytest.raises(StructureError, match="one support for each of 2 units; found 1"):
        pc.Input(0, num_units=2, num_categories=3, supports=((0,),))
    with pytest.raises(StructureError, match="cannot have the parameter 'x'"):
        pc.Input(0, num_units=1, num_categories=3, supports=((0,),), parameter="x")
    with pytest.raises(StructureError, match="cannot have the parameter"):
        leaf = pc.Input(0, num_units=1, num_categories=3)
        pc.Sum(leaf, num_units=1, weighted=False, parameter="w")
