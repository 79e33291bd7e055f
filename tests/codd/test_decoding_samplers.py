"""Samplers against explicit joints: enumeration, and chi-square tests on many rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from codd.decoding.samplers import SAMPLERS, SamplingRule, any_order, draw
from codd.decoding.selection import CONFIDENCES, SELECTIONS
from tests.support.decoding import (
    MixtureDistribution,
    MixtureModel,
    assert_follows,
    conditional,
    joint_table,
    mixture_model,
)

COUNT = 15_000
LENGTH, SIZE = 4, 3
DRAWS = ("exact", "latent", "any_order")


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return mixture_model(LENGTH, SIZE, window=LENGTH, block=LENGTH, seed=1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def batch_of(model: MixtureModel, coupling: str, tokens: torch.Tensor) -> MixtureDistribution:
    start = torch.zeros(len(tokens), dtype=torch.int64)
    return model.distribution(model.denoise(tokens), tokens, start, coupling=coupling)


def masked_rows(model: MixtureModel) -> torch.Tensor:
    return torch.full((COUNT, LENGTH), model.mask_id)


def run(
    name: str, distribution: MixtureDistribution, rule: SamplingRule, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    candidates = ~distribution.observed
    counts = torch.full((len(candidates),), count)
    found = SAMPLERS[name](distribution, candidates, counts, rule, generator())
    return found.tokens, found.chosen


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", DRAWS)
def test_whole_window_follows_the_joint(model: MixtureModel, name: str, selection: str) -> None:
    distribution = batch_of(model, "copula", masked_rows(model))
    tokens, chosen = run(name, distribution, SamplingRule(selection), LENGTH)
    assert bool(chosen.all())
    assert_follows(tokens, joint_table(model))


@pytest.mark.parametrize("name", DRAWS)
def test_given_a_visible_token_the_rest_follows_the_conditional(
    model: MixtureModel, name: str
) -> None:
    tokens = masked_rows(model)
    tokens[:, 2] = 1
    drawn, chosen = run(name, batch_of(model, "copula", tokens), SamplingRule("entropy"), 3)
    assert not bool(chosen[:, 2].any())
    assert bool((drawn[:, 2] == 1).all())
    expected = joint_table(model)[:, :, 1]
    assert_follows(drawn[:, [0, 1, 3]], expected / expected.sum())


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("selection", CONFIDENCES)
def test_first_choice_has_the_best_score(model: MixtureModel, name: str, selection: str) -> None:
    distribution = batch_of(model, "copula", masked_rows(model)[:5])
    _, chosen = run(name, distribution, SamplingRule(selection), 1)
    scores = CONFIDENCES[selection](distribution.marginals())
    assert chosen.long().argmax(dim=1).tolist() == scores.argmax(dim=1).tolist()
    assert chosen.sum(dim=1).tolist() == [1] * 5


@pytest.mark.parametrize("name", DRAWS)
def test_part_of_the_window_follows_its_joint(model: MixtureModel, name: str) -> None:
    candidates = torch.tensor([[False, True, False, True]]).expand(COUNT, -1)
    found = SAMPLERS[name](
        batch_of(model, "copula", masked_rows(model)),
        candidates,
        torch.full((COUNT,), 2),
        SamplingRule("random"),
        generator(),
    )
    assert torch.equal(found.chosen, candidates)
    assert_follows(found.tokens[:, [1, 3]], joint_table(model).sum(axis=(0, 2)))


def test_rows_fix_their_own_numbers(model: MixtureModel) -> None:
    counts = torch.arange(6)
    for name in DRAWS:
        distribution = batch_of(model, "copula", masked_rows(model)[:6])
        found = SAMPLERS[name](
            distribution, ~distribution.observed, counts, SamplingRule("random"), generator()
        )
        assert found.chosen.sum(dim=1).tolist() == [0, 1, 2, 3, 4, 4], name


def sequential_table(model: MixtureModel, temperature: float, top_p: float | None) -> np.ndarray:
    """Any-order decoding by confidence, by recursion over all worlds in numpy."""
    joint = joint_table(model)
    table = np.zeros_like(joint)
    for world in itertools.product(range(SIZE), repeat=LENGTH):
        known: dict[int, int] = {}
        probability = 1.0
        while len(known) < LENGTH:
            left = [i for i in range(LENGTH) if i not in known]
            laws = {i: conditional(joint, known, i) for i in left}
            position = max(left, key=lambda i: laws[i].max())
            law = sharpened(laws[position], temperature, top_p)
            probability *= law[world[position]]
            known[position] = world[position]
        table[world] = probability
    return table


def sharpened(law: np.ndarray, temperature: float, top_p: float | None) -> np.ndarray:
    law = law ** (1 / temperature) / (law ** (1 / temperature)).sum()
    if top_p is not None:
        order = np.argsort(-law)
        size = int(np.searchsorted(np.cumsum(law[order]), top_p)) + 1
        law = np.where(np.isin(np.arange(SIZE), order[:size]), law, 0.0)
    return law / law.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, None), (2.0, None), (1.0, 0.7)])
def test_any_order_applies_temperature_and_nucleus_to_each_conditional(
    model: MixtureModel, temperature: float, top_p: float | None
) -> None:
    rule = SamplingRule("low_confidence", temperature, top_p)
    tokens, _ = run("any_order", batch_of(model, "copula", masked_rows(model)), rule, LENGTH)
    assert_follows(tokens, sequential_table(model, temperature, top_p))


def test_any_order_at_temperature_zero_takes_the_mode_of_each_conditional(
    model: MixtureModel,
) -> None:
    joint, known = joint_table(model), {}
    while len(known) < LENGTH:
        laws = {i: conditional(joint, known, i) for i in range(LENGTH) if i not in known}
        position = max(laws, key=lambda i: laws[i].max())
        known[position] = int(laws[position].argmax())
    distribution = batch_of(model, "copula", masked_rows(model)[:3])
    tokens, _ = run("any_order", distribution, SamplingRule("low_confidence", 0.0), LENGTH)
    assert tokens.tolist() == [[known[i] for i in range(LENGTH)]] * 3


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_latent_tempers_each_token_given_the_exact_latent(
    model: MixtureModel, temperature: float
) -> None:
    powered = model.components ** (1 / temperature)
    tempered = MixtureModel(model.weights, powered / powered.sum(-1, keepdim=True), LENGTH, LENGTH)
    rule = SamplingRule("random", temperature)
    tokens, _ = run("latent", batch_of(model, "copula", masked_rows(model)), rule, LENGTH)
    assert_follows(tokens, joint_table(tempered))


@pytest.mark.parametrize("name", ["latent", "any_order"])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_factorised_tokens_are_tempered_one_by_one(
    model: MixtureModel, name: str, temperature: float
) -> None:
    joint = joint_table(model)
    laws = [sharpened(conditional(joint, {}, i), temperature, None) for i in range(LENGTH)]
    rule = SamplingRule("margin", temperature)
    tokens, _ = run(name, batch_of(model, "factorised", masked_rows(model)), rule, LENGTH)
    product = np.einsum("a,b,c,d->abcd", *laws)
    assert_follows(tokens, product)


def test_draw_keeps_the_smallest_nucleus() -> None:
    law = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).expand(4000, -1)
    found = draw(law, 1.0, 0.6, generator())
    assert sorted(set(found.tolist())) == [1, 3]
    assert abs((found == 1).double().mean() - 2 / 3) < 0.04
    assert set(draw(law, 1.0, 0.5, generator()).tolist()) == {1}
    assert set(draw(law, 1.0, 1e-6, generator()).tolist()) == {1}
    assert set(draw(law, 1.0, 1.0, generator()).tolist()) == {0, 1, 2, 3}


def test_draw_with_a_zero_probability_and_a_low_temperature() -> None:
    law = torch.tensor([[0.0, 0.5001, 0.4999]]).expand(1000, -1)
    assert set(draw(law, 1e-3, None, generator()).tolist()) <= {1, 2}
    assert set(draw(law, 0.0, None, generator()).tolist()) == {1}


def test_any_order_changes_neither_the_distribution_nor_visible_tokens(
    model: MixtureModel,
) -> None:
    tokens = masked_rows(model)[:2].clone()
    tokens[0, 1] = 2
    distribution = batch_of(model, "copula", tokens)
    before = distribution.values.clone(), distribution.observed.clone()
    found = any_order(
        distribution, ~distribution.observed, torch.tensor([2, 4]), SamplingRule(), generator()
    )
    assert torch.equal(distribution.values, before[0])
    assert torch.equal(distribution.observed, before[1])
    assert found.tokens[0, 1] == 2 and not found.chosen[0, 1]
