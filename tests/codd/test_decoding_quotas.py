"""Adaptive quotas by hand, by enumeration and in the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from codd.coupling.distribution import FactorisedDistribution
from codd.decoding.budgets import TotalCorrelation
from codd.decoding.loop import generate
from codd.decoding.quotas import (
    AdaptiveQuota,
    EntropyBound,
    Factor,
    Klass,
    QuotaView,
    Threshold,
    divergence,
)
from codd.decoding.rules import QUOTAS, quota_from_text
from codd.errors import DecodingError
from tests.support.decoding import CountingModel, empty_prompts, mixture_model, rows

TABLE = torch.tensor([[[0.95, 0.05], [0.5, 0.5], [0.92, 0.08], [0.6, 0.4]]], dtype=torch.float64)


def view_of(table: torch.Tensor, candidates: list[bool] | None = None, **more: Any) -> QuotaView:
    allowed = torch.tensor([candidates or [True] * table.shape[1]]).expand(table.shape[:2])
    distribution = FactorisedDistribution(
        table.log(), torch.zeros_like(allowed, dtype=torch.int64), torch.zeros_like(allowed)
    )
    scores = table.amax(dim=-1)
    return QuotaView(distribution, distribution.marginals, allowed, scores, **more)


def chosen(quota: AdaptiveQuota, view: QuotaView) -> list[int]:
    return quota.choose(view)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (Threshold(0.9), [0, 2]),
        (Threshold(0.55), [0, 2, 3]),
        (Threshold(0.99), [0]),
        (Factor(0.2), [0]),  # 2 (1 - .95) = .1, 3 (1 - .92) = .24
        (Factor(0.25), [0, 2]),
        (Factor(0.01), [0]),
        (EntropyBound(0.15), [0]),  # entropies .199, .279, .673, .693: sum - max = 0, .199, ...
        (EntropyBound(0.2), [0, 2]),
        (EntropyBound(0.5), [0, 2, 3]),
        (EntropyBound(0.0), [0]),
        (EntropyBound(2.0), [0, 1, 2, 3]),
    ],
)
def test_choices_by_hand(quota: AdaptiveQuota, expected: list[int]) -> None:
    assert chosen(quota, view_of(TABLE)) == expected


@pytest.mark.parametrize("quota", [Threshold(0.9), Factor(0.25), EntropyBound(0.2), Klass()])
def test_only_candidates_are_chosen_and_at_least_one(quota: AdaptiveQuota) -> None:
    assert chosen(quota, view_of(TABLE, [False, True, False, True])) == [3]
    assert chosen(quota, view_of(TABLE, [False] * 4)) == []


def test_klass_commits_what_is_confident_and_settled() -> None:
    before = TABLE.clone()
    before[0, 0] = torch.tensor([0.5, 0.5])
    assert chosen(Klass(0.01, 0.6), view_of(TABLE)) == [0]
    assert chosen(Klass(0.01, 0.6), view_of(TABLE, previous=before)) == [2, 3]
    assert chosen(Klass(0.01, 0.61), view_of(TABLE, previous=before)) == [2]
    expected = float((TABLE[0, 0] * (TABLE[0, 0] / before[0, 0]).log()).sum())
    assert float(divergence(TABLE, before)[0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("name", QUOTAS)
@pytest.mark.parametrize("sampler", [None, "any_order"])
def test_every_rule_fixes_every_token(mode: str, name: str, sampler: str | None) -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = generate(model, empty_prompts(20), 4, quota=name, mode=mode, sampler=sampler)
    assert bool((found.completions < 3).all()) and bool((found.fixed_at >= 0).all())
    assert 1 <= found.denoiser_calls <= 4


def test_sure_tokens_take_one_call_a_block_and_tokens_per_forward_says_so() -> None:
    model = CountingModel(num_categories=10, max_length=8, window=6, block=4)
    found = generate(model, rows([4], [1, 2]), 8, quota=Threshold(0.9))
    assert found.denoiser_calls == 2
    assert found.tokens_per_forward == 4.0
    assert found.fixed_at.tolist() == [[0] * 4 + [1] * 4] * 2


def test_strict_rules_fix_one_token_a_call() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = generate(model, empty_prompts(3), 4, quota=EntropyBound(0.0))
    assert found.denoiser_calls == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("threshold=0.8", Threshold(0.8)),
        ("klass=0.02,0.7", Klass(0.02, 0.7)),
        ("klass", Klass()),
        ("total_correlation=0", TotalCorrelation(0.0)),
    ],
)
def test_rules_are_read_from_text(text: str, expected: AdaptiveQuota) -> None:
    assert quota_from_text(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "quota: expected one of 'threshold'.*found 'best'"),
        ("factor=x", "expected numbers after 'factor'"),
        ("factor=1,2", "at most 1 numbers after 'factor'"),
        ("threshold=1.5", "threshold: expected a finite number above 0 and at most 1, found 1.5"),
        ("factor=inf", "factor: expected a finite number above 0, found inf"),
        ("entropy_bound=-0.5", "entropy_bound: expected a finite number at least 0, found -0.5"),
    ],
)
def test_impossible_rules_are_refused(text: str, message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        quota_from_text(text)


def test_rules_that_do_not_fit_are_refused() -> None:
    model = mixture_model(4, 3, window=4, block=4)
    with pytest.raises(DecodingError, match="expected exactly one of them"):
        generate(model, empty_prompts(1), 4, 2, quota="threshold")
    with pytest.raises(DecodingError, match=r"expected 'any_order' with a budget.*found 'exact'"):
        generate(model, empty_prompts(1), 4, quota="total_correlation", sampler="exact")
