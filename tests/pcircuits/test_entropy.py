"""Entropy and divergence: exact where properties allow it, estimated only when asked to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError, StructureError
from pcircuits.queries.decomposition import entropy_of
from pcircuits.queries.determinism import determinism_of
from tests.support.circuits import Draw, parameters_of
from tests.support.evidence import Case, evidence_of, possible_part
from tests.support.oracle import entropy, oracle_of
from tests.support.ordered import ordered_circuits

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def _weights(circuit: pc.Circuit, seed: int = 0) -> tuple[pc.Plan, dict[str, Tensor]]:
    plan = pc.compile_circuit(circuit)
    return plan, pc.random_parameters(plan, seed=seed, spread=1.5, dtype=torch.float64)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def compatible_pairs(draw: Draw) -> tuple[bool, Case, Case]:
    """Whether p is deterministic, p, and a deterministic q of the same order."""
    sizes = [draw(st.integers(2, 3)) for _ in range(draw(st.integers(1, 5)))]
    deterministic = draw(st.booleans())
    cases = []
    for decides in (deterministic, True):
        strategy = ordered_circuits(sizes, deterministic=decides, whole=draw(st.booleans()))
        circuit = draw(strategy)
        parameters = draw(parameters_of(circuit, batch_size=2, zeros=draw(st.booleans())))
        known = draw(st.booleans())
        evidence = draw(evidence_of(circuit, batch_size=2)) if known else pc.Evidence()
        cases.append(Case(circuit, parameters, evidence))
    return deterministic, cases[0], cases[1]


@given(compatible_pairs())
@settings(max_examples=120)
def test_divergences_of_compatible_circuits_equal_enumeration(
    drawn: tuple[bool, Case, Case],
) -> None:
    deterministic, first, second = drawn
    if any((oracle_of(case).weights.sum(1) == 0).any() for case in (first, second)):
        return
    p, q = np.broadcast_arrays(*(oracle_of(case).posterior for case in (first, second)))
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = -np.where(p > 0, p * np.log(q), 0.0).sum(1)
    arguments = [
        argument
        for case in (first, second)
        for argument in (pc.compile_circuit(case.circuit), case.parameters)
    ]

    found = pc.queries.cross_entropy(*arguments, first.evidence, second.evidence)

    assert found.exact and not found.standard_error.any()
    np.testing.assert_allclose(found.value.numpy(), crossed, **EXACT)
    if deterministic:
        found = pc.queries.kl_divergence(*arguments, first.evidence, second.evidence)
        np.testing.assert_allclose(found.value.numpy(), crossed - entropy(p), **EXACT)


def test_the_divergence_of_chow_liu_trees_of_one_tree_is_that_of_their_tables() -> None:
    circuit = pc.families.chow_liu([-1, 0, 1, 1, 0], 2)
    (plan, first), (_, second) = _weights(circuit, 1), _weights(circuit, 2)
    p, q = (oracle_of(Case(circuit, w, pc.Evidence())).posterior for w in (first, second))

    found = pc.queries.kl_divergence(plan, first, plan, second)

    np.testing.assert_allclose(found.value.numpy(), (p * np.log(p / q)).sum(1), **EXACT)
    itself = pc.queries.kl_divergence(plan, first, plan, first)
    assert itself.exact and itself.value.item() == pytest.approx(0.0, abs=1e-12)


def test_a_deep_chain_is_no_deeper_than_the_stack() -> None:
    length = 1500
    plan, first = _weights(pc.families.chow_liu([-1, *range(length - 1)], 2), 1)
    _, second = _weights(plan.circuit, 2)

    found = pc.queries.kl_divergence(plan, first, plan, second)

    assert found.exact and 0 < found.value.item() < math.inf


def test_what_is_missing_is_named_and_nothing_is_estimated_silently() -> None:
    plan, parameters = _weights(pc.families.hmm(4, 2, 2))
    tree, other = _weights(pc.families.linear_tree(4, 2, 2, order=[0, 2, 1, 3]))

    with pytest.raises(StructureError, match=r"not known to be deterministic.*Ask for num_samples"):
        pc.queries.kl_divergence(plan, parameters, plan, parameters)
    with pytest.raises(StructureError, match="not compatible"):
        pc.queries.cross_entropy(plan, parameters, tree, other)
    with pytest.raises(StructureError, match="the same variables"):
        pc.queries.cross_entropy(plan, parameters, *_weights(pc.families.hmm(5, 2, 2)))


def test_estimates_are_right_within_their_errors() -> None:
    (plan, first), (_, second) = (_weights(pc.families.hmm(4, 3, 2), seed) for seed in (1, 2))
    p, q = (oracle_of(Case(plan.circuit, w, pc.Evidence())).posterior for w in (first, second))
    expected = {
        "entropy": entropy(p)[0],
        "cross_entropy": -(p * np.log(q)).sum(),
        "kl_divergence": (p * np.log(p / q)).sum(),
    }
    arguments = (plan, first, plan, second)

    own = pc.queries.entropy(plan, first, num_samples=4000, generator=_generator())
    crossed = pc.queries.cross_entropy(*arguments, num_samples=4000, generator=_generator())
    divergence = pc.queries.kl_divergence(*arguments, num_samples=4000, generator=_generator())

    found = {
        "entropy": (own.estimate, own.standard_error),
        "cross_entropy": (crossed.value, crossed.standard_error),
        "kl_divergence": (divergence.value, divergence.standard_error),
    }
    assert not own.exact.any() and not crossed.exact and not divergence.exact
    for name, (value, error) in found.items():
        assert 0 < error.item() < 0.1
        assert abs(value.item() - expected[name]) < 4 * error.item(), name


def test_samples_outside_the_support_of_q_make_an_infinite_estimate() -> None:
    plan = pc.compile_circuit(pc.families.mixture(2, num_components=2, num_categories=2))
    parameters = pc.random_parameters(plan, seed=0, dtype=torch.float64)
    hard = {**parameters, "input_0": torch.tensor([[0.0, -math.inf]] * 2, dtype=torch.float64)}

    found = pc.queries.cross_entropy(
        plan, parameters, plan, hard, num_samples=100, generator=_generator()
    )

    assert found.value.item() == math.inf and not found.standard_error.isnan().any()


def test_bounds_of_the_entropy_of_a_mixture_hold_and_a_tree_tightens_them() -> None:
    circuit = pc.families.mixture(5, num_components=4, num_categories=2)
    plan, parameters = _weights(circuit, 5)
    expected = entropy(oracle_of(Case(circuit, parameters, pc.Evidence())).posterior)[0]

    loose = pc.queries.entropy(plan, parameters)
    tight = pc.queries.entropy(plan, parameters, pairwise=True)

    assert loose.estimate is None and loose.standard_error is None
    assert loose.lower_bound <= expected <= tight.upper_bound < loose.upper_bound
    assert not tight.exact.item()


@given(st.data())
@settings(max_examples=30)
def test_the_entropy_of_decisions_is_exact(data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(2, 3)) for _ in range(data.draw(st.integers(1, 5)))]
    circuit = data.draw(ordered_circuits(sizes, deterministic=True, whole=False))
    parameters = data.draw(parameters_of(circuit, batch_size=2))
    case = possible_part(Case(circuit, parameters, data.draw(evidence_of(circuit, batch_size=2))))
    if case is None:
        return

    found = pc.queries.entropy(pc.compile_circuit(circuit), case.parameters, case.evidence)

    assert found.exact.all() and not found.standard_error.any()
    np.testing.assert_allclose(found.estimate.numpy(), entropy(oracle_of(case).posterior), **EXACT)


@pytest.mark.parametrize("num_samples", [-1, 1])
def test_numbers_of_samples_out_of_range_are_refused(num_samples: int) -> None:
    plan, parameters = _weights(pc.families.hmm(3, 2, 2))
    with pytest.raises(EvidenceError, match=f"found {num_samples}"):
        pc.queries.entropy(plan, parameters, num_samples=num_samples)
    with pytest.raises(EvidenceError, match=f"found {num_samples}"):
        pc.queries.kl_divergence(plan, parameters, plan, parameters, num_samples=num_samples)


def test_an_impossible_category_has_no_share_of_the_gradient() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64).requires_grad_()
    found = entropy_of(probabilities, 1)
    found.backward()
    assert probabilities.grad is not None
    expected = torch.tensor([0.0, -math.log(0.25) - 1, -math.log(0.75) - 1], dtype=torch.float64)
    torch.testing.assert_close(probabilities.grad, expected)


def test_weights_of_zero_make_a_sum_deterministic() -> None:
    """Where they are so in all examples; prepared parameters do not say."""
    coin = pc.Input(0, num_units=2, num_categories=2, supports=((0,), (0, 1)))
    plan = pc.compile_circuit(pc.Circuit(pc.Sum(coin, num_units=1, parameter="root")))
    one, never = torch.tensor([-0.1, -0.2]), -torch.inf
    for root, holds in (
        (one, False),
        (torch.tensor([never, 0.0]), True),
        (torch.tensor([[never, 0.0], [never, -1.0]]), True),
        (torch.tensor([[never, 0.0], [-1.0, 0.0]]), False),
    ):
        parameters = {"root": root}
        assert determinism_of(plan, parameters).holds == holds
        assert not determinism_of(plan, pc.prepare(plan, parameters)).holds
