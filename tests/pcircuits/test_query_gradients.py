"""Queries are differentiable where that has meaning: against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError
from tests.support.evidence import random_potentials

Query = Callable[[pc.Plan, dict[str, Tensor], pc.Evidence], Tensor]
FUNCTIONS = torch.linspace(-1, 1, 18, dtype=torch.float64).view(2, 3, 3) ** 3


def _hmm() -> tuple[pc.Plan, dict[str, Tensor]]:
    plan = pc.compile_circuit(pc.families.hmm(3, 2, 3))
    return plan, pc.random_parameters(plan, seed=1, spread=1.0, dtype=torch.float64)


def _tree() -> tuple[pc.Plan, dict[str, Tensor]]:
    plan = pc.compile_circuit(pc.families.chow_liu([-1, 0, 0], 3))
    return plan, pc.random_parameters(plan, seed=1, spread=1.0, dtype=torch.float64)


def _potentials(*, zeros: bool = False) -> Tensor:
    potentials = random_potentials((2, 3, 3), torch.Generator().manual_seed(0), zeros=False)
    if zeros:
        potentials[0, 1, 2] = potentials[1, 0, 0] = -math.inf
    return potentials


QUERIES: dict[str, Query] = {
    "joint_marginal": lambda p, w, e: pc.queries.joint_marginal(p, w, e, [2, 0]),
    "conditional": lambda p, w, e: pc.queries.conditional(p, w, e, [1], [2]),
    "log_conditional": lambda p, w, e: pc.queries.log_conditional(
        p, w, torch.ones(2, 3, dtype=torch.long), torch.eye(3, dtype=torch.bool)[:2], e
    ),
    "pairwise_marginals": lambda p, w, e: pc.queries.pairwise_marginals(p, w, e, [(0, 2), (1, 1)]),
    "mutual_information": pc.queries.mutual_information,
    "conditional_mutual_information": lambda p, w, e: pc.queries.conditional_mutual_information(
        p, w, [0], [1], [2], e
    ),
    "most_informative": lambda p, w, e: pc.queries.most_informative(p, w, 1, e).information,
    "expectation": lambda p, w, e: pc.queries.expectation(p, w, FUNCTIONS, e),
    "variance": lambda p, w, e: pc.queries.variance(p, w, FUNCTIONS, e),
    "covariance": lambda p, w, e: pc.queries.covariance(p, w, FUNCTIONS, e),
    "entropy": lambda p, w, e: torch.cat(
        [pc.queries.entropy(p, w, e).lower_bound, pc.queries.entropy(p, w, e).upper_bound]
    ),
    "map": lambda p, w, e: pc.queries.map(p, w, e).log_probability,
}


@pytest.mark.parametrize("make", [_hmm, _tree])
@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_differentiable_in_parameters_and_potentials(
    query: str, make: Callable[[], tuple[pc.Plan, dict[str, Tensor]]]
) -> None:
    plan, parameters = make()
    names = list(parameters)

    def answer(potentials: Tensor, *tensors: Tensor) -> Tensor:
        evidence = pc.Evidence(log_potentials=potentials)
        return QUERIES[query](plan, dict(zip(names, tensors, strict=True)), evidence)

    leaves = (_potentials(), *(tensor.clone() for tensor in parameters.values()))
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)
    assert torch.autograd.gradcheck(answer, leaves, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("query", QUERIES)
def test_gradients_are_finite_beside_potentials_of_zero(query: str) -> None:
    plan, parameters = _hmm()
    parameters["emission"] = parameters["emission"].clone()
    parameters["emission"][0, 1] = -math.inf
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    potentials = _potentials(zeros=True).requires_grad_()

    answer = QUERIES[query](plan, leaves, pc.Evidence(log_potentials=potentials))
    answer[answer.isfinite()].sum().backward()

    for tensor in (*leaves.values(), potentials):
        assert not tensor.grad.isnan().any()


@pytest.mark.parametrize("query", QUERIES)
def test_no_graph_is_kept_where_nothing_asks_for_it(query: str) -> None:
    plan, parameters = _hmm()
    assert not QUERIES[query](plan, parameters, pc.Evidence()).requires_grad
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    with torch.no_grad():
        assert not QUERIES[query](plan, leaves, pc.Evidence()).requires_grad


def test_divergences_are_differentiable_in_both_circuits() -> None:
    plan, first = _tree()
    second = pc.random_parameters(plan, seed=2, spread=1.0, dtype=torch.float64)
    names = list(first)

    def divergence(potentials: Tensor, *tensors: Tensor) -> Tensor:
        half = len(names)
        p = dict(zip(names, tensors[:half], strict=True))
        q = dict(zip(names, tensors[half:], strict=True))
        evidence = pc.Evidence(log_potentials=potentials)
        return pc.queries.kl_divergence(plan, p, plan, q, evidence).value

    tensors = [_potentials(), *first.values(), *second.values()]
    leaves = tuple(tensor.clone().requires_grad_() for tensor in tensors)
    assert torch.autograd.gradcheck(divergence, leaves, atol=1e-6, fast_mode=True)


def test_gradients_are_those_of_backward_and_change_nothing() -> None:
    plan, parameters = _hmm()
    evidence = pc.Evidence(log_potentials=_potentials())
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    pc.queries.log_evidence(plan, leaves, evidence).sum().backward()

    with torch.no_grad():
        found = pc.queries.gradients(plan, parameters, evidence)

    for name, leaf in leaves.items():
        torch.testing.assert_close(found.parameters[name], leaf.grad)
        assert not parameters[name].requires_grad
    single = pc.queries.marginals(plan, parameters, evidence)
    torch.testing.assert_close(found.log_potentials, single)


def test_gradients_of_everything_observed_without_parameters_are_zero() -> None:
    plan = pc.compile_circuit(pc.families.automaton([{(0,): 0, (1,): 1}, {(0,): 0}], [0, 1], 3, 2))

    found = pc.queries.gradients(plan, {}, pc.Evidence(torch.tensor([[0, 1, 0], [1, 1, 0]])))

    assert found.log_evidence.tolist() == [0.0, -math.inf]
    assert found.parameters == {} and not found.log_potentials.any()


def test_parameters_for_each_example_have_gradients_of_their_own() -> None:
    plan, parameters = _hmm()
    spread = {name: tensor.expand(2, *tensor.shape) for name, tensor in parameters.items()}
    evidence = pc.Evidence(log_potentials=_potentials())

    found = pc.queries.gradients(plan, spread, evidence)

    together = pc.queries.gradients(plan, parameters, evidence)
    for name, gradient in found.parameters.items():
        torch.testing.assert_close(gradient.sum(0), together.parameters[name])


# What these queries refuse.


@pytest.mark.parametrize("variables", [[], [0, 0], [3], [-1]])
def test_tables_of_other_variables_are_refused(variables: list[int]) -> None:
    plan, parameters = _hmm()
    with pytest.raises(EvidenceError, match=r"expected different variables of 0 \.\. 2"):
        pc.queries.joint_marginal(plan, parameters, None, variables)


def test_a_table_too_large_is_refused_before_it_is_made() -> None:
    plan = pc.compile_circuit(pc.families.hmm(40, 2, 2))
    with pytest.raises(EvidenceError, match=r"1,099,511,627,776 entries"):
        pc.queries.joint_marginal(plan, pc.random_parameters(plan), None, range(40))


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (torch.zeros(3, 4), r"expected|must have shape \(3, 3\)"),
        (torch.zeros(3), r"found \(3,\)"),
        (torch.full((3, 3), math.inf), "inf"),
        (torch.zeros(0, 3, 3), r"found \(0, 3, 3\)"),
    ],
)
def test_functions_of_another_circuit_are_refused(functions: Tensor, message: str) -> None:
    plan, parameters = _hmm()
    with pytest.raises(EvidenceError, match=message):
        pc.queries.expectation(plan, parameters, functions)


def test_candidates_have_to_be_no_targets() -> None:
    plan, parameters = _hmm()
    for candidates in ([1], [], [5]):
        with pytest.raises(EvidenceError, match="expected candidates among"):
            pc.queries.most_informative(plan, parameters, 1, candidates=candidates)


def test_sets_of_variables_may_not_be_empty() -> None:
    plan, parameters = _hmm()
    with pytest.raises(EvidenceError, match="on both sides"):
        pc.queries.conditional_mutual_information(plan, parameters, [], [1])


def test_of_observed_candidates_none_is_chosen() -> None:
    plan, parameters = _hmm()
    evidence = pc.Evidence(torch.tensor([[0, 0, 0]]), torch.tensor([[True, False, True]]))

    found = pc.queries.most_informative(plan, parameters, 1, evidence)

    assert found.variable.tolist() == [-1]
    torch.testing.assert_close(found.information, torch.zeros(1, 2, dtype=torch.float64))


def test_passes_are_fewest_and_reported() -> None:
    """Two states or 50 categories: a variable is separated by its states.

    Where no gradient is asked for, a chain takes a single sweep.
    """
    plan = pc.compile_circuit(pc.families.hmm(4, 2, 50))
    parameters = pc.random_parameters(plan, seed=0, spread=2.0, dtype=torch.float64)
    calls: list[tuple[int, int]] = []

    def count(done: int, total: int) -> None:
        calls.append((done, total))

    learned = {name: own.requires_grad_() for name, own in parameters.items()}
    found = pc.queries.mutual_information(plan, learned, progress=count).detach()
    assert calls[-1] == (6, 6)
    calls.clear()
    parameters = {name: own.detach() for name, own in learned.items()}
    swept = pc.queries.mutual_information(plan, parameters, progress=count)
    assert calls == [(1, 1)]
    torch.testing.assert_close(swept, found)
    joint = pc.queries.joint_marginal(plan, parameters, None, [0, 3])[0]
    ratio = joint / (joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True))
    torch.testing.assert_close(found[0, 0, 3], (joint * ratio.log()).sum())


def test_batches_of_passes_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, parameters = _hmm()
    evidence = pc.Evidence(log_potentials=_potentials())
    expected = {name: query(plan, parameters, evidence) for name, query in QUERIES.items()}

    for module in ("pairwise", "conditional", "posterior"):
        # By import: a function of the same name hides the module in its package.
        monkeypatch.setattr(import_module(f"pcircuits.queries.{module}"), "BATCH_BYTES", 1)

    monkeypatch.setattr(import_module("pcircuits.queries.information"), "_TABLE_ENTRIES", 1)
    for name, query in QUERIES.items():
        torch.testing.assert_close(query(plan, parameters, evidence), expected[name])
