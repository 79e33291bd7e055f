"""The model: its methods are the queries, its parameters are distributions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import pcircuits as pc
from tests.support.circuits import SEEDS, circuits
from tests.support.evidence import random_potentials, random_values

PROBABILITIES = {
    "initial": torch.tensor([0.2, 0.8]),
    "transition": torch.tensor([[0.9, 0.1], [0.4, 0.6]]),
    "emission": torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]),
}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model() -> pc.CircuitModel:
    model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=3)).double()
    model.set_probabilities(PROBABILITIES)
    return model


def _evidence() -> pc.Evidence:
    return pc.Evidence(
        torch.tensor([[0, 0, 0], [2, 0, 1]]),
        torch.tensor([[False, True, False], [True, False, True]]),
        random_potentials((2, 3, 3), _generator(), zeros=False),
    )


VALUES = torch.tensor([[0, 1, 2], [2, 2, 1]])
METHODS: dict[str, tuple[Callable[[pc.CircuitModel], object], Callable[..., object]]] = {
    "log_likelihood": (
        lambda m: m.log_likelihood(VALUES, _evidence().observed),
        lambda *a: pc.queries.log_likelihood(*a, VALUES, _evidence().observed),
    ),
    "log_evidence": (
        lambda m: m.log_evidence(_evidence()),
        lambda *a: pc.queries.log_evidence(*a, _evidence()),
    ),
    "call": (lambda m: m(_evidence()), lambda *a: pc.forward(*a, _evidence())),
    "conditional_log_likelihood": (
        lambda m: m.conditional_log_likelihood(VALUES, _evidence()),
        lambda *a: pc.queries.conditional_log_likelihood(*a, VALUES, _evidence()),
    ),
    "marginals": (
        lambda m: m.marginals(_evidence()),
        lambda *a: pc.queries.marginals(*a, _evidence()),
    ),
    "latent_marginals": (
        lambda m: m.latent_marginals(_evidence(), ["state_1"]),
        lambda *a: pc.queries.latent_marginals(*a, _evidence(), ["state_1"]),
    ),
    "leave_one_out": (
        lambda m: m.leave_one_out(_evidence()),
        lambda *a: pc.queries.leave_one_out(*a, _evidence()),
    ),
    "pairwise_marginals": (
        lambda m: m.pairwise_marginals(_evidence(), [(0, 2), (1, 1)]),
        lambda *a: pc.queries.pairwise_marginals(*a, _evidence(), [(0, 2), (1, 1)]),
    ),
    "mutual_information": (
        lambda m: m.mutual_information(),
        lambda *a: pc.queries.mutual_information(*a),
    ),
    "sample": (
        lambda m: m.sample(5, _evidence(), _generator()),
        lambda *a: pc.queries.sample(*a, 5, _evidence(), generator=_generator()),
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_the_queries_of_the_models_parameters(method: str) -> None:
    ours, function = METHODS[method]
    model = _model()

    found = ours(model)

    torch.testing.assert_close(found, function(model.plan, model.log_parameters()))


def test_shapes_are_the_documented_ones() -> None:
    model, evidence = _model(), _evidence()

    assert model.log_likelihood(VALUES).shape == (2,)
    assert model.log_evidence(evidence).shape == (2,)
    assert model.marginals(evidence).shape == (2, 3, 3)
    assert model.leave_one_out(evidence).shape == (2, 3, 3)
    assert model.pairwise_marginals(evidence, [(0, 1), (2, 0)]).shape == (2, 2, 3, 3)
    assert model.mutual_information().shape == (1, 3, 3)
    assert model.mutual_information(evidence).shape == (2, 3, 3)
    assert model.sample(7).shape == (7, 3)
    assert model.sample(7, evidence).shape == (2, 7, 3)


def test_rows_of_the_transition_are_states_and_columns_their_successors() -> None:
    initial, transition, emission = PROBABILITIES.values()
    expected = sum(
        initial[a] * emission[a, 0]
        * transition[a, b] * emission[b, 1]
        * transition[b, c] * emission[c, 2]
        for a in range(2)
        for b in range(2)
        for c in range(2)
    )  # fmt: skip

    found = _model().log_likelihood(torch.tensor([[0, 1, 2]]))

    assert found.exp().item() == pytest.approx(float(expected), rel=1e-6)


def test_observed_marginals_are_one_hot_and_rows_sum_to_one() -> None:
    evidence = _evidence()

    found = _model().marginals(evidence)

    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    one_hot = torch.nn.functional.one_hot(evidence.values, 3).double()
    assert torch.equal(found[evidence.observed], one_hot[evidence.observed])


def test_set_probabilities_are_given_back_and_others_kept() -> None:
    model = _model()

    model.set_probabilities({"initial": torch.tensor([1.0, 0.0])})

    found = model.probabilities()
    torch.testing.assert_close(found["initial"].float(), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found["transition"].float(), PROBABILITIES["transition"])
    assert not any(tensor.requires_grad for tensor in found.values())


def test_any_log_weights_are_distributions_in_use() -> None:
    """An optimiser may move them freely: log Z stays zero."""
    model = _model()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn(weights.shape, generator=_generator(1)).double() * 5)

    assert model.log_evidence(pc.Evidence()).item() == pytest.approx(0, abs=1e-12)
    for tensor in model.probabilities().values():
        torch.testing.assert_close(tensor.sum(-1), torch.ones_like(tensor.sum(-1)))


def test_gradients_reach_the_parameters() -> None:
    model = _model()

    (-model.log_likelihood(VALUES).sum()).backward()

    for weights in model.parameters():
        assert weights.grad is not None
        assert weights.grad.isfinite().all()
        # Adding the same number to a row of log-weights changes nothing.
        torch.testing.assert_close(
            weights.grad.sum(-1), torch.zeros_like(weights.grad.sum(-1)), rtol=0, atol=1e-12
        )


def test_marginals_of_complete_evidence_are_one_hot_with_gradients_on() -> None:
    found = _model().marginals(pc.Evidence(VALUES))

    assert torch.equal(found.detach(), torch.nn.functional.one_hot(VALUES, 3).double())


def test_the_seed_decides_the_start() -> None:
    circuit = pc.families.hmm(3, num_states=2, num_categories=3)

    first, same, other = (pc.CircuitModel(circuit, seed=seed) for seed in (1, 1, 2))

    values = random_values(circuit, 4, _generator())
    assert torch.equal(first.log_likelihood(values), same.log_likelihood(values))
    assert not torch.equal(first.log_likelihood(values), other.log_likelihood(values))


def test_a_plan_serves_as_well_as_its_circuit() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=3))

    model = pc.CircuitModel(plan, seed=1)

    assert model.plan is plan
    assert model.circuit is plan.circuit


def test_dtype_and_state_follow_torchs_habits() -> None:
    model = _model()
    other = pc.CircuitModel(model.circuit, seed=9)
    values = VALUES

    other.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weights in copied.parameters():
            weights.zero_()

    assert other.log_likelihood(values).dtype == torch.float32
    torch.testing.assert_close(
        other.log_likelihood(values).double(), model.log_likelihood(values), rtol=1e-5, atol=1e-5
    )
    assert not torch.equal(copied.log_likelihood(values), model.log_likelihood(values))


@settings(deadline=None, max_examples=30)
@given(circuits(), SEEDS)
def test_a_pickled_model_is_the_same_model(circuit: pc.Circuit, seed: int) -> None:
    """As other processes are given it; files are written by `save`."""
    model = pc.CircuitModel(circuit, seed=seed)
    sent = pickle.loads(pickle.dumps(model))
    assert pc.structure_to_json(sent.circuit) == pc.structure_to_json(circuit)
    assert sent.plan.num_folds == model.plan.num_folds
    values = random_values(circuit, 3, torch.Generator().manual_seed(seed))
    assert torch.equal(sent.log_likelihood(values), model.log_likelihood(values))


def test_a_pickled_circuit_may_be_deeper_than_the_stack() -> None:
    circuit = pc.families.hmm(3_000, num_states=2, num_categories=2)
    assert len(pickle.loads(pickle.dumps(circuit)).nodes) == len(circuit.nodes)


def test_prepared_parameters_are_a_snapshot() -> None:
    model = _model()
    prepared = model.prepare()
    before: Tensor = model.log_evidence(_evidence()).detach()

    model.set_probabilities({"initial": torch.tensor([0.5, 0.5])})

    torch.testing.assert_close(pc.forward(model.plan, prepared, _evidence()), before)


def test_a_model_is_conditioned_and_marginalised() -> None:
    model = pc.CircuitModel(pc.families.hmm(4, 3, 2), seed=1).double()
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 4)
    weights = model.log_likelihood(worlds).detach().exp()
    given = torch.where(worlds[:, 1] == 1, weights, 0.0)
    conditioned = model.condition({1: 1}).log_likelihood(worlds).detach().exp()
    torch.testing.assert_close(conditioned, given / given.sum())
    remaining = model.marginalise([0, 2])
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected = weights[(worlds[:, 1] == a) & (worlds[:, 3] == b)].sum()
        found = remaining.log_likelihood(torch.tensor([[a, b]])).detach().exp()[0]
        torch.testing.assert_close(found, expected)
