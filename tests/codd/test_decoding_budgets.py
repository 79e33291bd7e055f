"""Budgets spent token by token: charges by enumeration, the walk by a reference, exact samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import pcircuits as pc
from codd.coupling.distribution import CoupledDistribution, FactorisedDistribution
from codd.decoding.budgets import Budget, JointEntropy, TotalCorrelation, spend
from codd.decoding.loop import generate, infill
from codd.decoding.samplers import SamplingRule
from tests.support.decoding import (
    assert_follows,
    empty_prompts,
    joint_table,
    mixture_model,
    rows,
)

SIZE, LENGTH = 3, 4
WORLDS = list(itertools.product(range(SIZE), repeat=LENGTH))


def coupled(seed: int, num_rows: int = 2) -> CoupledDistribution:
    """A random chain over four tokens of three categories under random potentials."""
    plan = pc.compile_circuit(pc.families.hmm(length=LENGTH, num_states=3, num_categories=SIZE))
    parameters = pc.random_parameters(plan, seed=seed, spread=2.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, LENGTH, SIZE)
    potentials = torch.randn(shape, dtype=torch.float64, generator=generator)
    hidden = torch.zeros(shape[:2], dtype=torch.bool)
    return CoupledDistribution(
        plan, pc.prepare(plan, parameters), potentials, hidden.long(), hidden
    )


def table_of(distribution: CoupledDistribution, row: int) -> np.ndarray:
    one = CoupledDistribution(
        distribution.plan,
        distribution.parameters,
        distribution.log_potentials[[row] * len(WORLDS)],
        distribution.values[[row] * len(WORLDS)],
        distribution.observed[[row] * len(WORLDS)],
    )
    table: np.ndarray = one.log_prob(torch.tensor(WORLDS)).exp().numpy()
    return table.reshape((SIZE,) * LENGTH)


def conditional(table: np.ndarray, given: dict[int, int], place: int) -> np.ndarray:
    seen = np.zeros_like(table)
    seen[tuple(given.get(i, slice(None)) for i in range(LENGTH))] = 1.0
    other = tuple(i for i in range(LENGTH) if i != place)
    found: np.ndarray = (table * seen).sum(axis=other)
    return found / found.sum()


def entropy_of(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("places", [(0, 1), (3, 0, 2), (2, 1, 0, 3)])
def test_expected_charges_are_the_total_correlation(seed: int, places: tuple[int, ...]) -> None:
    distribution = coupled(seed, 1)
    table = table_of(distribution, 0)
    before = distribution.marginals()
    expected = 0.0
    for world in itertools.product(range(SIZE), repeat=len(places)):
        own = table.sum(axis=tuple(i for i in range(LENGTH) if i not in places))
        ordered = own.transpose(np.argsort(np.argsort(places)))
        conditioner, charged = distribution.conditioner(), 0.0
        for place, token in zip(places, world, strict=True):
            now = conditioner.marginals(torch.ones(1, LENGTH, dtype=torch.bool))
            charged += float(TotalCorrelation().charges(before, now)[0, place])
            conditioner.fix(torch.tensor([place]), torch.tensor([token]), torch.tensor([True]))
        expected += ordered[world] * charged
    joint = table.sum(axis=tuple(i for i in range(LENGTH) if i not in places))
    singles = sum(entropy_of(conditional(table, {}, place)) for place in places)
    assert expected == pytest.approx(singles - entropy_of(joint.ravel()), abs=1e-9)


def walk(budget: Budget, table: np.ndarray, tokens: list[int], allowed: list[bool]) -> set[int]:
    """The positions that a budget commits by confidence, given the tokens that it draws."""
    fixed: dict[int, int] = {}
    paid: list[float] = []
    while True:
        best: tuple[float, int, float] | None = None
        for place in range(LENGTH):
            if not allowed[place] or place in fixed:
                continue
            now, before = conditional(table, fixed, place), conditional(table, {}, place)
            charge = entropy_of(now)
            fits = sum(paid) + charge - max([*paid, charge])
            limit = getattr(budget, "bound", None)
            if isinstance(budget, TotalCorrelation):
                charge = float((now * np.log(now / before)).sum())
                fits, limit = sum(paid) + charge, budget.budget
            assert limit is not None
            if (not paid or fits <= limit + 1e-5) and (best is None or now.max() > best[0]):
                best = now.max(), place, charge
        if best is None:
            return set(fixed)
        fixed[best[1]] = tokens[best[1]]
        paid.append(best[2])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "budget",
    [
        *(TotalCorrelation(nats) for nats in (0.0, 0.02, 0.1, 0.4, 5.0)),
        *(JointEntropy(nats) for nats in (0.0, 0.3, 0.8, 5.0)),
    ],
    ids=str,
)
def test_the_walk_is_that_of_the_enumerated_joint(seed: int, budget: Budget) -> None:
    distribution = coupled(seed)
    allowed = torch.tensor([[True] * LENGTH, [True, False, True, True]])
    generator = torch.Generator().manual_seed(seed)
    found = spend(budget, distribution, allowed, SamplingRule(), generator)
    for row in range(2):
        expected = walk(
            budget, table_of(distribution, row), found.tokens[row].tolist(), allowed[row].tolist()
        )
        assert set(found.chosen[row].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("budget", [TotalCorrelation(0.0), JointEntropy(9.0)], ids=str)
def test_independent_tokens_cost_no_total_correlation(budget: Budget) -> None:
    table = torch.rand(2, LENGTH, SIZE).softmax(dim=-1)
    hidden = torch.zeros(2, LENGTH, dtype=torch.bool)
    free = FactorisedDistribution(table.log(), hidden.long(), hidden)
    found = spend(budget, free, ~hidden, SamplingRule(), torch.Generator())
    assert bool(found.chosen.all())


def test_rows_without_candidates_stay_as_they_are() -> None:
    allowed = torch.tensor([[False] * LENGTH, [True] * LENGTH])
    found = spend(TotalCorrelation(9.0), coupled(0), allowed, SamplingRule(), torch.Generator())
    assert found.chosen.tolist() == allowed.tolist()


@pytest.mark.parametrize("quota", ["total_correlation=0.05", "joint_entropy=0.95"])
@pytest.mark.parametrize("selection", ["low_confidence", "random", "left_to_right"])
def test_whatever_the_budget_tokens_follow_the_joint(quota: str, selection: str) -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = generate(model, empty_prompts(6000), 4, quota=quota, selection=selection, seed=3)
    assert_follows(found.completions, joint_table(model))
    calls = found.calls.double()
    assert int(calls.max()) == found.denoiser_calls >= float(calls.mean()) > 1.0
    assert found.tokens_per_forward == pytest.approx(4 / float(calls.mean()))


def test_a_larger_budget_takes_fewer_calls() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    calls = [
        int(generate(model, empty_prompts(50), 4, quota=TotalCorrelation(nats)).calls.sum())
        for nats in (0.0, 0.05, 0.3, 9.0)
    ]
    assert calls[0] == 200 and calls[-1] == 50 and calls == sorted(calls, reverse=True)


@pytest.mark.parametrize("quota", ["total_correlation=0.05", "joint_entropy=0.5"])
def test_away_from_blocks_a_budget_is_spent_in_one_window_a_call(quota: str) -> None:
    model = mixture_model(4, 3, window=2, block=2, seed=2)
    found = infill(model, rows([3, 3, 3, 1], [3, 0, 3, 3]), quota=quota, seed=1)
    assert bool((found.completions < 3).all())
    spread = [
        [place for place, step in enumerate(row) if step == call]
        for row in found.fixed_at.tolist()
        for call in range(4)
    ]
    assert all(not places or places[-1] - places[0] < 2 for places in spread)
    assert found.completions[0, 3] == 1 and found.completions[1, 1] == 0
