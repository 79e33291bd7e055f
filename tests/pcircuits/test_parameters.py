"""Initial parameters, and checks of what a caller gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import ParameterError
from tests.support.circuits import circuits
from tests.support.scalars import scalar_circuits

GATED = pc.families.gated_hmm(12, num_states=3, num_categories=4)


@given(circuits())
def test_random_parameters_are_distributions_of_the_declared_shapes(circuit: pc.Circuit) -> None:
    plan = pc.compile_circuit(circuit)

    parameters = pc.random_parameters(plan, seed=3, dtype=torch.float64)

    assert {n: tuple(t.shape) for n, t in parameters.items()} == dict(plan.parameter_shapes)
    for tensor in parameters.values():
        torch.testing.assert_close(
            tensor.exp().sum(-1), torch.ones(tensor.shape[:-1], dtype=torch.float64)
        )
    assert pc.forward(plan, parameters, pc.Evidence()).item() == pytest.approx(0, abs=1e-12)


@given(circuits() | scalar_circuits(), st.sets(st.integers(0, 9)))
def test_prepared_parameters_are_given_back_by_name(circuit: pc.Circuit, own: set[int]) -> None:
    """Whether all examples share them or not, and wherever layers have put them."""
    plan = pc.compile_circuit(circuit)
    given = pc.random_parameters(plan, seed=3, dtype=torch.float64)
    for i, (name, shared) in enumerate(given.items()):
        if i in own:
            given[name] = torch.stack((shared, shared - 1))
    found = pc.prepare(plan, given).by_name()
    assert found.keys() == given.keys()
    for name, expected in given.items():
        same, expected = torch.broadcast_tensors(found[name], expected)
        used = ~same.isneginf()  # of a larger parameter nodes may hold parts
        assert torch.equal(same[used], expected[used]) and bool(used.any())
    again = pc.prepare(plan, found)
    evidence = pc.Evidence(torch.zeros(2, plan.num_variables, dtype=torch.int64))
    assert torch.equal(pc.forward(plan, again, evidence), pc.forward(plan, given, evidence))


def test_parameters_of_examples_are_repeated_example_by_example() -> None:
    plan = pc.compile_circuit(pc.families.hmm(2, 2, 3))
    own = pc.random_parameters(plan, seed=0, dtype=torch.float64)
    shared = pc.prepare(plan, own)
    assert shared.repeat(3) is shared
    (name, table), *_ = own.items()
    each = pc.prepare(plan, {**own, name: torch.stack([table, table.flip(-1)])})
    thrice = each.repeat(3)
    assert (each.batch_size, thrice.batch_size) == (2, 6)
    rows = pc.Evidence(torch.tensor([[0, 1], [2, 2]]))
    sixfold = pc.Evidence(torch.tensor([[0, 1]] * 3 + [[2, 2]] * 3))
    expected = pc.forward(plan, each, rows).repeat_interleave(3)
    torch.testing.assert_close(pc.forward(plan, thrice, sixfold), expected)


def test_the_seed_alone_decides_random_parameters() -> None:
    plan = pc.compile_circuit(GATED)

    first = pc.random_parameters(plan, seed=3)
    torch.manual_seed(11)
    again = pc.random_parameters(plan, seed=3)
    other = pc.random_parameters(plan, seed=4)

    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])


def test_no_two_parameters_start_equal() -> None:
    """Also if their names end alike: equal branches would never part in learning."""
    parameters = pc.random_parameters(pc.compile_circuit(GATED), seed=0)
    seen: dict[tuple[float, ...], str] = {}

    for name, tensor in parameters.items():
        start = tuple(tensor.flatten()[:3].tolist())
        assert start not in seen, (name, seen.get(start))
        seen[start] = name


def test_a_new_parameter_leaves_the_others_as_they_were() -> None:
    short = pc.random_parameters(pc.compile_circuit(pc.families.factorized(2, 3)), seed=5)
    long = pc.random_parameters(pc.compile_circuit(pc.families.factorized(3, 3)), seed=5)

    assert all(torch.equal(tensor, long[name]) for name, tensor in short.items())


def test_spread_zero_is_uniform() -> None:
    parameters = pc.random_parameters(pc.compile_circuit(GATED), spread=0.0)

    for tensor in parameters.values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, -math.log(tensor.shape[-1])))


UNIFORM = torch.full((3, 4), 0.25)
BAD_PROBABILITIES = {
    "unknown name": ("emision", UNIFORM, "no parameter 'emision'"),
    "shape": ("emission", UNIFORM[:2], r"'emission' has shape \(2, 4\); expected \(3, 4\)"),
    "negative": ("emission", UNIFORM - torch.eye(3, 4), r"'emission'\[0, 0\] is -0.75"),
    "NaN": ("emission", UNIFORM * math.nan, r"'emission'\[0, 0\] is nan"),
    "not normalised": (
        "emission",
        UNIFORM * torch.tensor([[1.0], [1.5], [1.0]]),
        "row 1 of parameter 'emission' sums to 1.5",
    ),
}


@pytest.mark.parametrize("kind", BAD_PROBABILITIES)
def test_bad_probabilities_are_named_and_change_nothing(kind: str) -> None:
    name, tensor, message = BAD_PROBABILITIES[kind]
    model = pc.CircuitModel(pc.families.hmm(3, num_states=3, num_categories=4))
    before = model.probabilities()

    with pytest.raises(ParameterError, match=message):
        model.set_probabilities({"initial": torch.tensor([1.0, 0.0, 0.0]), name: tensor})

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.probabilities().items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_weights_that_cannot_be_normalised_are_refused(value: float) -> None:
    model = pc.CircuitModel(pc.families.hmm(3, num_states=3, num_categories=4))
    weights = torch.zeros(3, 4)
    weights[2] = value

    with pytest.raises(ParameterError, match="row 2 of parameter 'emission'"):
        model.set_log_parameters({"emission": weights})


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("emision", (3, 4), "no parameter 'emision'"),
        ("emission", (4, 3), r"'emission' has shape \(4, 3\); expected \(3, 4\)"),
    ],
)
def test_log_weights_of_another_name_or_shape_are_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    model = pc.CircuitModel(pc.families.hmm(3, num_states=3, num_categories=4))

    with pytest.raises(ParameterError, match=message):
        model.set_log_parameters({name: torch.zeros(shape)})
