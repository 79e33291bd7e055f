"""Fixing variables one by one against evaluation anew, and how little of it is computed."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.queries import Conditioner
from pcircuits.queries.lazy import LazyValues
from pcircuits.queries.path import PathValues, _Arrays, path_of
from tests.support.circuits import SEEDS
from tests.support.enumeration import enumerate_worlds
from tests.support.evidence import Case, cases
from tests.support.odd_cases import FAMILIES, Sizes, odd_cases

SIZES = Sizes((1, 3, 5), (1, 2, 3), (2, 3, 5), (1, 2, 3), 5)


def evidence_by_now(found: Conditioner, begin: pc.Evidence) -> pc.Evidence:
    def every(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.expand(found.batch_size, *tensor.shape[1:])

    return pc.Evidence(
        found.values,
        found.observed,
        every(begin.log_potentials),
        begin.latent_log_potentials,
        every(begin.categories),
    )


def log_value_of(case: Case) -> Tensor:
    return pc.forward(pc.compile_circuit(case.circuit), case.parameters, case.evidence)


def expected_rows(case: Case, plan: pc.Plan, evidence: pc.Evidence) -> Tensor:
    """(B, L, V), or (B, L, k) of listed categories, from a whole evaluation."""
    dense = pc.queries.marginals(plan, case.parameters, evidence)
    if evidence.categories is None:
        return dense
    assert evidence.log_potentials is not None and evidence.observed is not None
    at = evidence.categories
    # Of a category listed several times each entry has its share.
    share = evidence.log_potentials.double().exp()
    total = torch.zeros_like(dense).scatter_add(2, at, share).gather(2, at)
    soft = dense.gather(2, at) * torch.where(total > 0, share / total, 0.0)
    first = (at == evidence.values[..., None]) & (
        (at == evidence.values[..., None]).cumsum(-1) == 1
    )
    return torch.where(evidence.observed[..., None], first.double(), soft)


@settings(deadline=None, max_examples=120)
@given(cases(), SEEDS)
def test_random_circuits_in_random_order(case: Case, seed: int) -> None:
    """Every kind of layer, evidence and parameters; rows fix different variables, or none."""
    compare_in_random_order(case, seed)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), seed=SEEDS)
def test_families_in_random_order(family: str, data: st.DataObject, seed: int) -> None:
    """The same of what people build: chains have a way of their own."""
    case = data.draw(odd_cases(family, SIZES))
    assume(bool((log_value_of(case) > -torch.inf).all()))
    compare_in_random_order(case, seed)


@pytest.mark.parametrize("homogeneous", [True, False])
def test_chains_are_evaluated_as_chains(homogeneous: bool) -> None:
    chain = pc.families.hmm(5, 3, 4, homogeneous=homogeneous)
    tree = pc.families.binary_tree(5, 3, 4)
    assert path_of(pc.compile_circuit(chain)) is not None
    assert path_of(pc.compile_circuit(tree)) is None


@pytest.mark.parametrize("place", ["root", "input", "one fold"])
def test_a_plan_that_is_nearly_a_chain_is_none(place: str) -> None:
    """The same numbers of folds, but two inputs of a variable, or a sum that reads two."""
    x = [pc.Input(i, num_units=2, num_categories=2) for i in range(3)]
    below = pc.Sum(x[2], num_units=2)
    if place == "root":
        inner = pc.Sum(pc.Product(x[1], below), num_units=2)
        root = pc.Sum(pc.Product(x[0], inner), num_units=1)
        expected = True
    elif place == "input":  # the product reads two sums
        inner = pc.Sum(pc.Product(x[1], below), num_units=2)
        root = pc.Sum(pc.Product(pc.Sum(x[0], num_units=2), inner), num_units=1)
        expected = False
    else:  # a product of all three
        root = pc.Sum(pc.Product(*x), num_units=1)
        expected = False
    assert (path_of(pc.compile_circuit(pc.Circuit(root))) is not None) is expected


@settings(deadline=None, max_examples=30)
@given(data=st.data(), seed=SEEDS)
def test_a_chain_from_either_end(data: st.DataObject, seed: int) -> None:
    """One marginal after each token, which is all that is computed."""
    case = data.draw(odd_cases("chain", SIZES))
    assume(bool((log_value_of(case) > -torch.inf).all()))
    plan, rng = pc.compile_circuit(case.circuit), random.Random(seed)
    found = Conditioner(plan, case.parameters, case.evidence)
    order = range(plan.num_variables)
    for variable in order if rng.random() < 0.5 else reversed(order):
        evidence = evidence_by_now(found, case.evidence)
        if not bool((pc.forward(plan, case.parameters, evidence) > -torch.inf).all()):
            return
        at = torch.full((found.batch_size,), variable)
        expected = expected_rows(case, plan, evidence)[:, variable]
        torch.testing.assert_close(found.marginal(at), expected, rtol=1e-8, atol=1e-10)
        found.fix(at, torch.full_like(at, rng.randrange(case.circuit.categories[variable])))


@pytest.mark.parametrize("listed", [True, False])
def test_sums_that_underflow_in_linear_space(listed: bool) -> None:
    """Float32, where next to all weight goes to states that the next evidence excludes."""
    length, states = 6, 3
    plan = pc.compile_circuit(pc.families.hmm(length, states, states))
    near = torch.full((states, states), -150.0) + 150.0 * torch.eye(states)
    sharp = {"initial": torch.tensor([0.0, -150.0, -150.0]), "transition": near, "emission": near}
    parameters = {name: log.log_softmax(-1) for name, log in sharp.items()}
    potentials = 200 * torch.randn(1, length, states, generator=torch.Generator().manual_seed(0))
    every = torch.arange(states).expand(1, length, -1) if listed else None
    begin = pc.Evidence(log_potentials=potentials, categories=every)
    found = Conditioner(plan, parameters, begin)
    double = {name: log.double() for name, log in parameters.items()}
    for place, value in ((1, 1), (4, 2), (2, 0), (0, 2)):
        found.fix(torch.tensor([place]), torch.tensor([value]))
        expected = pc.queries.marginals(plan, double, evidence_by_now(found, begin))
        torch.testing.assert_close(found.marginals().double(), expected, rtol=1e-4, atol=1e-7)


def compare_in_random_order(case: Case, seed: int) -> None:
    """Compares values and marginals with whole evaluations while variables are fixed."""
    plan, rng = pc.compile_circuit(case.circuit), random.Random(seed)
    found = Conditioner(plan, case.parameters, case.evidence)
    batch, length = found.batch_size, plan.num_variables
    for _ in range(length + 1):
        evidence = evidence_by_now(found, case.evidence)
        log_value = pc.forward(plan, case.parameters, evidence)
        if rng.random() < 0.5:
            torch.testing.assert_close(found.log_value(), log_value, rtol=1e-9, atol=1e-9)
        if bool((log_value > -torch.inf).all()) and rng.random() < 0.8:
            wanted = torch.tensor(
                [[rng.random() < 0.5 for _ in range(length)] for _ in range(batch)]
            )
            expected = expected_rows(case, plan, evidence)
            rows = expected.masked_fill(~wanted[..., None], 0.0)
            torch.testing.assert_close(found.marginals(wanted), rows, rtol=1e-8, atol=1e-10)
            torch.testing.assert_close(found.marginals(), expected, rtol=1e-8, atol=1e-10)
        variables = torch.tensor([rng.randrange(length) for _ in range(batch)])
        values = [rng.randrange(case.circuit.categories[int(v)]) for v in variables]
        rows = torch.tensor([rng.random() < 0.8 for _ in range(batch)])
        found.fix(variables, torch.tensor(values), rows)


@settings(deadline=None, max_examples=30)
@given(cases(max_batch=2), SEEDS)
def test_values_against_enumeration(case: Case, seed: int) -> None:
    plan, rng = pc.compile_circuit(case.circuit), random.Random(seed)
    found = Conditioner(plan, case.parameters, case.evidence)
    for variable in rng.sample(range(plan.num_variables), plan.num_variables):
        value = rng.randrange(case.circuit.categories[variable])
        every = torch.full((found.batch_size,), variable)
        found.fix(every, torch.full_like(every, value))
        evidence = evidence_by_now(found, case.evidence)
        totals = enumerate_worlds(case.circuit, case.parameters, evidence).totals()
        expected = torch.as_tensor(totals).double().log()
        torch.testing.assert_close(found.log_value(), expected, rtol=1e-9, atol=1e-9)


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[tuple[object, ...]]:
    """Arguments of all calls of a method from here on."""
    calls: list[tuple[object, ...]] = []
    method = getattr(owner, name)

    def call(self: object, *arguments: object, **named: object) -> object:
        calls.append(arguments)
        return method(self, *arguments, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("compiled", [True, False])
def test_a_chain_takes_one_step_for_each_variable(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pc.compile_circuit(pc.families.hmm(6, num_states=3, num_categories=4))
    parameters = pc.random_parameters(plan, seed=0)
    # Compiled steps know of no potentials of states.
    latent = None if compiled else {"state_2": torch.zeros(1, 3)}
    found = Conditioner(plan, parameters, pc.Evidence(latent_log_potentials=latent))
    up, down = (counted(monkeypatch, PathValues, name) for name in ("_sum_value", "_message"))
    steps = counted(monkeypatch, _Arrays, "run")

    def taken(ask: object) -> tuple[int, int]:
        for calls in (up, down, steps):
            calls.clear()
        ask()
        runs = [sums for (sums,) in steps]
        risen = sum(len(run) for run in runs if run.step < 0)
        return len(up) + risen, len(down) + sum(map(len, runs)) - risen

    def marginal(place: int) -> object:
        return lambda: found.marginal(torch.tensor([place]))

    def fix(place: int) -> None:
        found.fix(torch.tensor([place]), torch.tensor([0]))

    assert taken(marginal(0)) == (5, 1)
    assert taken(marginal(0)) == (0, 0)
    for place in range(1, 4):
        fix(place - 1)
        assert taken(marginal(place)) == (0, 1)
    fix(5)
    assert taken(marginal(4)) == (1, 1)
    assert taken(marginal(3)) == (1, 0)
    fix(4)
    assert taken(marginal(3)) == (1, 0)
    assert taken(found.log_value) == (4, 0)
    assert taken(found.log_value) == (0, 0)
    assert taken(found.marginals)[0] == 0


def test_a_tree_takes_one_path_for_each_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pc.compile_circuit(pc.families.binary_tree(8, num_units=2, num_categories=3))
    found = Conditioner(plan, pc.random_parameters(plan, seed=0), pc.Evidence())
    values = counted(monkeypatch, LazyValues, "_compute_values")
    messages = counted(monkeypatch, LazyValues, "_pass_down")

    def taken(ask: object) -> tuple[int, int]:
        values.clear()
        messages.clear()
        ask()
        received = sum(len(folds) for order, _ in messages for _, folds, _ in order)
        return sum(len(folds) for _, folds in values), received

    def marginal(variable: int) -> object:
        return lambda: found.marginal(torch.tensor([variable]))

    def fix(variable: int) -> None:
        found.fix(torch.tensor([variable]), torch.tensor([0]))

    # All values are there at first, and messages where they have been asked for.
    assert taken(found.log_value) == (0, 0)
    assert taken(marginal(0)) == (0, 6)
    assert taken(marginal(1)) == (0, 1)
    fix(0)
    # Up to the root three products and three sums.
    assert taken(found.log_value) == (6, 0)
    assert taken(found.log_value) == (0, 0)
    fix(0)
    # Beside the way down to variable 7 stands the half with variable 0: two products and sums.
    assert taken(marginal(7)) == (4, 5)
    assert taken(marginal(0)) == (0, 0)
    assert taken(marginal(1)) == (0, 1)
    assert taken(found.log_value) == (2, 0)


@pytest.mark.parametrize("family", ["path", "tree"])
def test_nothing_of_a_conditioner_is_differentiated(family: str) -> None:
    """Neither parameters nor potentials: what it keeps is written to."""
    families = {"path": pc.families.hmm(3, 2, 3), "tree": pc.families.binary_tree(3, 2, 3)}
    plan = pc.compile_circuit(families[family])
    parameters = {
        name: weights.requires_grad_()
        for name, weights in pc.random_parameters(plan, seed=0, dtype=torch.float64).items()
    }
    potentials = torch.randn(2, 3, 3, dtype=torch.float64).requires_grad_()
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    evidence = pc.Evidence(nothing.long(), nothing, potentials)
    found = Conditioner(plan, parameters, evidence)
    answers = [found.log_value(), found.marginals()]
    found.fix(torch.tensor([0, 2]), torch.tensor([1, 2]))
    answers += [found.log_value(), found.marginals(), found.marginal(torch.tensor([1, 1]))]
    assert not any(answer.requires_grad for answer in answers)
