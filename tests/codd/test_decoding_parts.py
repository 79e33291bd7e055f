"""Schedules, selection and window covers: the parts of decoding that draw no token."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codd.decoding.schedules import EvenSchedule, FixedSchedule, split_evenly
from codd.decoding.selection import CONFIDENCES, score, select
from codd.decoding.windows import minimum_cover


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@given(masked=st.lists(st.integers(0, 40), min_size=1, max_size=4), steps=st.integers(1, 12))
def test_even_schedule_fixes_one_more_in_the_first_remainder_steps(
    masked: list[int], steps: int
) -> None:
    left = torch.tensor(masked)
    for step in range(steps):
        quota = EvenSchedule(steps).quota(left, steps - step, generator())
        assert quota.tolist() == [m // steps + (step < m % steps) for m in masked]
        left = left - quota
    assert left.tolist() == [0] * len(masked)


@given(masked=st.integers(1, 40), pace=st.integers(1, 12))
def test_fixed_schedule_fixes_the_same_number_and_then_the_rest(masked: int, pace: int) -> None:
    schedule, left, quotas = FixedSchedule(pace), torch.tensor([masked]), []
    steps = schedule.num_steps(masked)
    for step in range(steps):
        quotas.append(int(schedule.quota(left, steps - step, generator())))
        left = left - quotas[-1]
    assert int(left) == 0
    assert quotas[:-1] == [pace] * (steps - 1)
    assert 1 <= quotas[-1] <= pace


def test_split_evenly_puts_the_larger_parts_first() -> None:
    assert split_evenly(7, 3) == [3, 2, 2]
    assert split_evenly(6, 3) == [2, 2, 2]


MARGINALS = torch.tensor([[[0.6, 0.4, 0.0], [0.55, 0.23, 0.22], [0.34, 0.33, 0.33]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("low_confidence", [0.6, 0.55, 0.34]),
        ("margin", [0.2, 0.32, 0.01]),
        ("entropy", [-0.6730, -0.9999, -1.0985]),
    ],
)
def test_scores_by_hand(name: str, expected: list[float]) -> None:
    scores = score(name, lambda: MARGINALS, MARGINALS[..., 0], generator())
    torch.testing.assert_close(scores, torch.tensor([expected]), atol=1e-4, rtol=0)


def test_margin_of_a_single_category_is_its_probability() -> None:
    scores = CONFIDENCES["margin"](torch.ones(2, 3, 1))
    assert scores.tolist() == [[1.0] * 3] * 2


def test_random_order_is_uniform_and_seeded() -> None:
    def no_marginals() -> torch.Tensor:
        raise AssertionError("a random order needs no marginals")

    candidates = torch.ones(30_000, 3, dtype=torch.bool)
    scores = score("random", no_marginals, candidates, generator())
    assert torch.equal(scores, score("random", no_marginals, candidates, generator()))
    orders = scores.argsort(dim=1)
    for order in itertools.permutations(range(3)):
        share = (orders == torch.tensor(order)).all(dim=1).double().mean()
        assert abs(share - 1 / 6) < 0.01


@given(data=st.data())
def test_select_equals_sorting_each_row(data: st.DataObject) -> None:
    batch, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
    numbers = st.sampled_from([-torch.inf, -1.0, 0.0, 0.5, torch.inf])
    draw = lambda kind, n: data.draw(st.lists(kind, min_size=n, max_size=n))  # noqa: E731
    scores = torch.tensor([draw(numbers, width) for _ in range(batch)])
    candidates = torch.tensor([draw(st.booleans(), width) for _ in range(batch)])
    counts = torch.tensor(draw(st.integers(0, width + 1), batch))
    found = select(scores, candidates, counts)
    for b in range(batch):
        eligible = [i for i in range(width) if candidates[b, i]]
        best = sorted(eligible, key=lambda i: -scores[b, i])[: int(counts[b])]
        assert torch.nonzero(found[b]).flatten().tolist() == sorted(best)


def fewest_windows(positions: list[int], length: int, window: int) -> int:
    """The size of a smallest cover, by trying all sets of windows in order of size."""
    starts = range(length - window + 1)
    for size in range(len(positions) + 1):
        for chosen in itertools.combinations(starts, size):
            if all(any(s <= p < s + window for s in chosen) for p in positions):
                return size
    raise AssertionError("no cover")


@given(data=st.data())
def test_cover_is_minimum_disjoint_and_inside(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 10))
    window = data.draw(st.integers(1, length))
    bits = st.lists(st.booleans(), min_size=length, max_size=length)
    selected = torch.tensor(data.draw(st.lists(bits, min_size=1, max_size=4)))
    rounds = minimum_cover(selected, window)
    total = torch.zeros_like(selected, dtype=torch.int64)
    for found in rounds:
        total += found.covered
        assert bool(((found.start >= 0) & (found.start <= length - window)).all())
        for b, start in enumerate(found.start.tolist()):
            assert all(start <= p < start + window for p in torch.nonzero(found.covered[b]))
    assert torch.equal(total, selected.long())
    for b in range(len(selected)):
        needed = fewest_windows(torch.nonzero(selected[b]).flatten().tolist(), length, window)
        assert sum(bool(found.active[b]) for found in rounds) == needed


def test_window_lies_around_what_it_covers_where_there_is_room() -> None:
    selected = torch.zeros(3, 12, dtype=torch.bool)
    selected[0, [5, 6]] = True
    selected[1, 0] = True
    selected[2, 11] = True
    (only,) = minimum_cover(selected, 6)
    assert only.start.tolist() == [3, 0, 6]


def test_the_leftmost_candidates_come_first() -> None:
    candidates = torch.tensor([[False, True, True, True], [True, False, True, False]])
    order = score("left_to_right", lambda: torch.empty(0), candidates, generator())

    picked = select(order, candidates, torch.tensor([2, 1]))

    assert picked.tolist() == [[False, True, True, False], [True, False, False, False]]
