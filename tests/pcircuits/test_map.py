"""The most probable assignment: found, bounded, and honest about which."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError
from tests.support.circuits import SEEDS
from tests.support.evidence import Case, random_potentials
from tests.support.oracle import oracle_of


def _mixture(
    *, length: int = 8, seed: int = 0, spread: float = 2.0
) -> tuple[pc.Plan, dict[str, Tensor]]:
    plan = pc.compile_circuit(pc.families.mixture(length, num_components=6, num_categories=3))
    return plan, pc.random_parameters(plan, seed=seed, spread=spread, dtype=torch.float64)


def _best(plan: pc.Plan, parameters: dict[str, Tensor], evidence: pc.Evidence) -> Tensor:
    weights = oracle_of(Case(plan.circuit, parameters, evidence)).weights
    return torch.as_tensor(weights).amax(1).log()


def test_max_product_maximises_over_latent_choices_too_and_is_beaten_by_local_search() -> None:
    """Two components that share a mode against a heavier one: the joint maximum is not the MAP."""
    plan = pc.compile_circuit(pc.families.mixture(1, num_components=3, num_categories=2))
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    parameters = {"weights": weights.log(), "input_0": rows.log()}

    first = pc.queries.map(plan, parameters, method="max_product")
    better = pc.queries.map(plan, parameters)

    assert first.values.tolist() == [[0]]
    assert first.log_probability.exp().item() == pytest.approx(0.4)
    assert first.upper_bound.exp().item() == pytest.approx(0.6)
    assert not first.exact.item()
    assert better.values.tolist() == [[1]]
    assert better.log_probability.exp().item() == pytest.approx(0.6)
    assert better.exact.item()


@given(SEEDS)
@settings(max_examples=15)
def test_each_method_finds_no_less_than_the_one_before_it(seed: int) -> None:
    plan, parameters = _mixture(length=6, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    potentials = random_potentials((3, 6, 3), generator, zeros=False)
    evidence = pc.Evidence(log_potentials=potentials)

    found = [
        pc.queries.map(plan, parameters, evidence, method=method)
        for method in ("max_product", "local_search", "branch_and_bound")
    ]

    values = torch.stack([result.log_probability for result in found])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert found[2].exact.all()
    torch.testing.assert_close(values[2], _best(plan, parameters, evidence))


def test_observed_values_are_kept_and_potentials_count() -> None:
    plan, parameters = _mixture(length=4)
    values = torch.tensor([[2, 0, 0, 1], [0, 0, 0, 0]])
    observed = torch.tensor([[True, False, False, True], [False, False, False, False]])
    potentials = torch.zeros(2, 4, 3, dtype=torch.float64)
    potentials[1, 2] = torch.tensor([-math.inf, 50.0, -math.inf])

    found = pc.queries.map(plan, parameters, pc.Evidence(values, observed, potentials))

    assert found.values[0, [0, 3]].tolist() == [2, 1]
    assert found.values[1, 2].item() == 1
    assert found.log_probability[1] > 40


def test_an_impossible_example_has_probability_zero_beside_a_possible_one() -> None:
    plan, parameters = _mixture(length=3)
    potentials = torch.zeros(2, 3, 3, dtype=torch.float64)
    potentials[0, 1] = -math.inf

    for method in ("max_product", "local_search", "branch_and_bound"):
        found = pc.queries.map(
            plan, parameters, pc.Evidence(log_potentials=potentials), method=method, restarts=2
        )
        assert found.log_probability[0] == -math.inf == found.upper_bound[0]
        assert found.exact[0]
        assert ((found.values >= 0) & (found.values < 3)).all()
        assert found.log_probability[1].isfinite()


def test_branch_and_bound_says_so_when_it_stops_early() -> None:
    plan, parameters = _mixture(length=9, spread=0.3)

    stopped = pc.queries.map(plan, parameters, method="branch_and_bound", node_limit=1)
    finished = pc.queries.map(plan, parameters, method="branch_and_bound")

    assert not stopped.exact.item()
    assert stopped.upper_bound > finished.log_probability + 1e-3
    assert finished.exact.item()
    torch.testing.assert_close(finished.log_probability, _best(plan, parameters, pc.Evidence()))
    torch.testing.assert_close(finished.upper_bound, finished.log_probability)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deterministic_circuit_needs_no_search(dtype: torch.dtype) -> None:
    plan = pc.compile_circuit(pc.families.chow_liu([-1, 0, 0, 1, 1], 3))
    parameters = pc.random_parameters(plan, seed=3, spread=2.0, dtype=dtype)

    found = pc.queries.map(plan, parameters, method="max_product")

    assert found.exact.all() and found.log_probability.dtype == dtype
    expected = _best(plan, parameters, pc.Evidence()).to(dtype)
    torch.testing.assert_close(found.log_probability, expected)


def test_weights_of_zero_make_a_circuit_deterministic() -> None:
    plan = pc.compile_circuit(pc.families.mixture(2, num_components=2, num_categories=2))
    chosen = torch.eye(2, dtype=torch.float64).log()
    spread = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64).log()
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64).log()

    found = pc.queries.map(
        plan, {"weights": weights, "input_0": chosen, "input_1": spread}, method="max_product"
    )

    assert found.exact.item()
    assert found.values.tolist() == [[1, 1]]
    assert found.log_probability.exp().item() == pytest.approx(0.36)


def test_the_log_probability_is_differentiable_with_the_assignment_kept() -> None:
    plan, parameters = _mixture(length=3)
    names = list(parameters)

    def weight(*tensors: Tensor) -> Tensor:
        return pc.queries.map(plan, dict(zip(names, tensors, strict=True))).log_probability

    leaves = tuple(tensor.clone().requires_grad_() for tensor in parameters.values())
    assert torch.autograd.gradcheck(weight, leaves)


def test_a_long_chain_is_decoded_by_viterbi() -> None:
    """Latent potentials that fix the states leave one world's maximum to each position."""
    length, states = 3000, 3
    plan = pc.compile_circuit(pc.families.hmm(length, states, 4))
    parameters = pc.random_parameters(plan, seed=1, spread=1.0, dtype=torch.float64)
    path = torch.arange(length) % states
    latent = {
        f"state_{t}": torch.full((1, states), -math.inf, dtype=torch.float64).index_fill(
            1, path[t : t + 1], 0.0
        )
        for t in range(length)
    }

    found = pc.queries.map(
        plan, parameters, pc.Evidence(latent_log_potentials=latent), method="max_product"
    )

    assert torch.equal(found.values[0], parameters["emission"].argmax(1)[path])
    assert found.exact.item()


@given(st.data())
@settings(max_examples=10)
def test_restarts_depend_on_the_generator_alone(data: st.DataObject) -> None:
    plan, parameters = _mixture(length=6, seed=data.draw(SEEDS), spread=0.5)
    results = []
    for noise in range(2):
        torch.manual_seed(noise)
        generator = torch.Generator().manual_seed(7)
        results.append(pc.queries.map(plan, parameters, restarts=3, generator=generator).values)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "greedy"}, "found 'greedy'"),
        ({"restarts": -1}, "-1"),
        ({"max_steps": -1}, "-1"),
        ({"node_limit": 0}, "node_limit >= 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    plan, parameters = _mixture(length=2)
    with pytest.raises(EvidenceError, match=message):
        pc.queries.map(plan, parameters, **options)


def test_evidence_about_another_circuit_is_refused() -> None:
    plan, parameters = _mixture(length=2)
    with pytest.raises(EvidenceError, match="values has 5 variables"):
        pc.queries.map(plan, parameters, pc.Evidence(torch.zeros(1, 5, dtype=torch.long)))
