"""Rules of pace and revision: the papers' numbers, their limits, and their texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from codd.decoding.budgets import JointEntropy, TotalCorrelation
from codd.decoding.quotas import EntropyBound, Factor, Klass, Threshold
from codd.decoding.revision import (
    CappedRevision,
    ConfidentRevision,
    LoopRevision,
    RescaledRevision,
    revision_from_text,
    take_back,
)
from codd.decoding.rules import QUOTAS, quota_from_text
from codd.decoding.samplers import SamplingRule
from codd.errors import DecodingError
from tests.support.decoding import refused

INFINITE, NO_NUMBER = float("inf"), float("nan")


def test_the_rules_have_the_papers_numbers() -> None:
    assert (Threshold(), Factor(), EntropyBound()) == (
        Threshold(0.9),
        Factor(1.0),
        EntropyBound(0.1),
    )
    assert Klass() == Klass(divergence=0.01, probability=0.6)
    assert (TotalCorrelation(), JointEntropy()) == (TotalCorrelation(6.0), JointEntropy(2.0))
    assert CappedRevision() == CappedRevision(rate=0.02)
    assert RescaledRevision() == RescaledRevision(rate=0.05)
    assert ConfidentRevision() == ConfidentRevision(rate=1.0)
    assert LoopRevision() == LoopRevision(rate=0.02, on=0.55, off=0.05, visible=0.9)
    assert SamplingRule() == SamplingRule("low_confidence", temperature=1.0, top_p=None)


@pytest.mark.parametrize("name", QUOTAS)
def test_limits_of_adaptive_rules(name: str) -> None:
    shares = {"threshold", "klass"}
    positive = "above 0" if name in ("factor", "klass") else "at least 0"
    wanted = "above 0 and at most 1" if name == "threshold" else positive
    told = "klass divergence" if name == "klass" else name
    for wrong in (-0.5, INFINITE, NO_NUMBER):
        with refused(f"{told}: expected a finite number {wanted}, found {wrong}"):
            QUOTAS[name](wrong)
    if name in shares:
        given = (0.01,) if name == "klass" else ()
        said = "klass probability" if name == "klass" else name
        for wrong in (0.0, 1.5, -1.0):
            with refused(f"{said}: expected a finite number above 0 and at most 1, found {wrong}"):
                QUOTAS[name](*given, wrong)
        assert QUOTAS[name](*given, 1.0) and QUOTAS[name](*given, 1e-9)
    elif wanted == "at least 0":
        assert QUOTAS[name](0.0) == quota_from_text(f"{name}=0") and QUOTAS[name](1e9)
    if wanted == "above 0":
        assert QUOTAS[name](1e-9) and QUOTAS[name](1e9)
        with refused(f"{told}: expected a finite number above 0, found 0.0"):
            QUOTAS[name](0.0)


def test_texts_of_rules_are_refused_in_full() -> None:
    known = "'threshold', 'factor', 'entropy_bound', 'klass', 'total_correlation', 'joint_entropy'"
    with refused(f"quota: expected one of {known}, found 'best=1'"):
        quota_from_text("best=1")
    with refused("quota: expected numbers after 'factor', found 'factor=1,x'"):
        quota_from_text("factor=1,x")
    with refused("quota: expected at most 2 numbers after 'klass', found 'klass=1,1,1'"):
        quota_from_text("klass=1,1,1")
    with refused(
        "revision: expected one of 'remdm_cap', 'remdm_rescale', 'remdm_conf', 'remdm_loop', "
        "found 'cap=1'"
    ):
        revision_from_text("cap=1")
    with pytest.raises(
        DecodingError, match="expected remdm_cap and its numbers, as remdm_cap=RATE"
    ):
        revision_from_text("remdm_cap=x")


@pytest.mark.parametrize(
    "kind", [CappedRevision, RescaledRevision, ConfidentRevision, LoopRevision]
)
def test_rates_are_shares(kind: Any) -> None:
    assert kind(0.0).rate == 0.0 and kind(1.0).rate == 1.0
    for wrong in (-0.5, 1.5, NO_NUMBER):
        with refused(f"revision: expected a rate in [0, 1], found {wrong}"):
            kind(wrong)


@pytest.mark.parametrize(
    ("on", "off", "visible"),
    [
        (0.5, 0.5, 0.9),
        (0.5, 0.6, 0.9),
        (0.5, 0.0, 0.9),
        (1.0, 0.5, 0.9),
        (0.5, 0.1, 0.0),
        (0.5, 0.1, 1.0),
    ],
)
def test_loops_correct_between_two_times(on: float, off: float, visible: float) -> None:
    assert LoopRevision(0.1, 0.999, 0.001, 0.999).visible == 0.999
    with refused(
        "LoopRevision: expected 0 < off < on < 1 and 0 < visible < 1, found off "
        f"{off}, on {on} and visible {visible}"
    ):
        LoopRevision(0.1, on, off, visible)


def test_loops_by_hand() -> None:
    rule = LoopRevision(rate=0.25, on=0.75, off=0.25, visible=0.9)
    assert [rule.probability(left, 4) for left in (4, 3, 2, 1)] == [0, pytest.approx(1 / 9)] * 1 + [
        pytest.approx(1 / 9),
        0,
    ]
    low = replace(rule, rate=0.01)
    assert [low.probability(left, 4) for left in (4, 3, 2, 1)] == [0.0, 0.01, 0.01, 0.0]
    assert not rule.by_confidence and not CappedRevision().by_confidence


def test_a_draw_that_is_the_probability_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.tensor([[0.25, 0.125, 0.5, 0.0, 0.0]])
    monkeypatch.setattr(torch, "rand", lambda *args, **more: draws)
    committed = torch.tensor([[True, True, True, True, False]])
    room = torch.tensor([4])
    taken = take_back(committed, room, 0.25, torch.Generator())
    assert taken.tolist() == [[False, True, False, True, False]]
    taken = take_back(committed, torch.tensor([1]), 1.0, torch.Generator())
    assert taken.tolist() == [[False, False, False, True, False]]
