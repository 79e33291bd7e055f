"""The n-gram judge and the entropy against plain counting with dictionaries."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from codd.errors import EvaluationError
from codd.evaluation.ngram import NGramJudge, ngram_distance, ngram_entropy
from codd.evaluation.words import complete_words, unknown_words, words

TEXT = [int(c) for c in "0120121021101201220011021201210"]
SIZE = 4  # category 3 never occurs


def by_hand(history: tuple[int, ...], token: int) -> float:
    """Witten-Bell by recursion, counting the text again each time."""
    lower = by_hand(history[1:], token) if history else 1 / SIZE
    n = len(history)
    followers = Counter(
        TEXT[i + n] for i in range(len(TEXT) - n) if tuple(TEXT[i : i + n]) == history
    )
    seen, novel = sum(followers.values()), len(followers)
    return (followers[token] + novel * lower) / (seen + novel) if seen else lower


@pytest.fixture(scope="module")
def judge() -> NGramJudge:
    return NGramJudge.fit(torch.tensor(TEXT), num_categories=SIZE, order=3)


def test_log_prob_equals_counting_by_hand(judge: NGramJudge) -> None:
    rows = list(itertools.product(range(SIZE), repeat=4))
    found = judge.log_prob(torch.tensor(rows))
    for row, values in zip(rows, found, strict=True):
        for i, value in enumerate(values):
            expected = by_hand(row[max(0, i - 2) : i], row[i])
            assert math.isclose(value, math.log(expected), rel_tol=1e-12)


@pytest.mark.parametrize("history", [[0, 1], [2, 3], [3, 3], [1], []])
def test_probabilities_sum_to_one_after_any_history(judge: NGramJudge, history: list[int]) -> None:
    rows = torch.tensor([[*history, token] for token in range(SIZE)])
    total = judge.log_prob(rows)[:, -1].exp().sum()
    assert math.isclose(total, 1.0, rel_tol=1e-12)


def test_context_counts_as_history_and_is_not_judged(judge: NGramJudge) -> None:
    rows = torch.tensor([[0, 1, 2, 2, 1], [1, 1, 0, 3, 0]])
    whole = judge.log_prob(rows)
    assert torch.equal(judge.log_prob(rows[:, 3:], rows[:, :3]), whole[:, 3:])
    assert torch.equal(judge.log_prob(rows[:, 1:], rows[:, :1]), whole[:, 1:])
    assert torch.equal(judge.log_prob(rows, rows[:, :0]), whole)


def test_an_order_longer_than_the_sequence_uses_what_there_is() -> None:
    judge = NGramJudge.fit(torch.tensor(TEXT), num_categories=SIZE, order=6)
    assert judge.order == 6
    row = [2, 1, 0]
    expected = [math.log(by_hand(tuple(row[:i]), row[i])) for i in range(3)]
    assert judge.log_prob(torch.tensor([row]))[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_higher_order_predicts_a_periodic_text_better() -> None:
    tokens = torch.tensor([0, 0, 1, 0, 2] * 40)
    scores = [
        float(NGramJudge.fit(tokens, num_categories=3, order=n).log_prob(tokens[None, 100:]).mean())
        for n in (1, 2, 3, 4)
    ]
    assert scores == sorted(scores)
    assert scores[-1] > -0.1


def test_large_vocabulary_and_order_keep_keys_apart() -> None:
    size = 97
    tokens = torch.randint(size, (500,), generator=torch.Generator().manual_seed(0))
    judge = NGramJudge.fit(tokens, num_categories=size, order=6)
    pairs = Counter(zip(*(tokens[i : 500 - 5 + i].tolist() for i in range(6)), strict=True))
    assert len(judge.tables[-1].grams) == len(pairs)
    assert int(judge.tables[-1].gram_counts.sum()) == 495


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([0, 1, 4], {"num_categories": 4, "order": 2}, "expected ids 0 to 3, found 0 to 4"),
        ([0, -1], {"num_categories": 4, "order": 2}, "expected ids 0 to 3, found -1 to 0"),
        ([0], {"num_categories": 4, "order": 2}, "at least 2 ids"),
        ([0, 1], {"num_categories": 4, "order": 0}, "order: expected at least 1"),
        ([0] * 20, {"num_categories": 10_000, "order": 5}, "below 2 [*][*] 63"),
    ],
)
def test_bad_texts_are_refused(tokens: list[int], options: dict[str, int], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        NGramJudge.fit(torch.tensor(tokens), **options)


def test_bad_context_is_refused(judge: NGramJudge) -> None:
    with pytest.raises(EvaluationError, match=r"context: expected \(2, C\), found \(3, 1\)"):
        judge.log_prob(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_entropy_equals_counting(n: int) -> None:
    windows = torch.randint(3, (7, 5), generator=torch.Generator().manual_seed(1))
    grams = [tuple(row[i : i + n]) for row in windows.tolist() for i in range(len(row) - n + 1)]
    shares = [count / len(grams) for count in Counter(grams).values()]
    expected = -sum(p * math.log(p) for p in shares)
    assert ngram_entropy(windows, n).value == pytest.approx(expected, rel=1e-12)


def test_entropy_of_equal_windows_has_no_error() -> None:
    found = ngram_entropy(torch.tensor([[0, 1, 2, 3]] * 5), 2)
    assert found.value == pytest.approx(math.log(3))
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_entropy_error_is_that_of_repeated_experiments() -> None:
    law = torch.tensor([0.6, 0.3, 0.1])
    generator = torch.Generator().manual_seed(2)
    found = [
        ngram_entropy(torch.multinomial(law.expand(200, -1), 6, True, generator=generator), 1)
        for _ in range(300)
    ]
    spread = float(torch.tensor([estimate.value for estimate in found]).std())
    told = sum(estimate.standard_error for estimate in found) / len(found)
    assert told == pytest.approx(spread, rel=0.15)


def test_entropy_of_too_short_windows_is_refused() -> None:
    with pytest.raises(EvaluationError, match="at least n = 3"):
        ngram_entropy(torch.zeros(4, 2, dtype=torch.int64), 3)


def test_words_are_letter_runs_in_lower_case() -> None:
    assert list(words("The_cat, don't 3x Émile")) == ["the", "cat", "don", "t", "x", "émile"]


def test_cut_words_are_left_out() -> None:
    assert list(complete_words("urn the value of x")) == ["the", "value", "of"]
    assert list(complete_words(" whole words ")) == ["whole", "words"]
    assert list(complete_words("oneword")) == []


def test_unknown_words_is_the_share_over_all_windows() -> None:
    texts = [" the qwx cat ", "e The zzz d", "nothing"]
    found = unknown_words(texts, {"the", "cat"})
    assert found.value == pytest.approx(2 / 5)
    assert found.standard_error > 0
    assert math.isnan(unknown_words(["cut"], {"cut"}).value)


def frequencies(rows: list[list[int]], n: int) -> np.ndarray:
    """The share of every n-gram that can be written, by counting."""
    grams = Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))
    every = list(itertools.product(range(SIZE), repeat=n))
    return np.array([grams[gram] for gram in every]) / sum(grams.values())


@pytest.mark.parametrize("n", (1, 2, 3))
def test_distance_is_that_of_the_counted_frequencies(judge: NGramJudge, n: int) -> None:
    rows = [[0, 1, 2, 0], [3, 0, 1, 2], [1, 1, 2, 3]]
    expected = jensenshannon(frequencies(rows, n), frequencies([TEXT], n), base=2)
    found = ngram_distance(torch.tensor(rows), judge, n)
    assert math.isclose(found.value, expected, rel_tol=1e-12)
    assert 0 < found.standard_error < found.value


def test_distance_of_equal_and_of_disjoint_texts(judge: NGramJudge) -> None:
    same = ngram_distance(torch.tensor([TEXT]), judge)
    assert same.value == pytest.approx(0.0, abs=1e-7)
    assert ngram_distance(torch.full((4, 5), 3), judge).value == 1.0
    with pytest.raises(EvaluationError, match=r"expected 1 to the judge's order 3 .* found 4"):
        ngram_distance(torch.tensor([TEXT]), judge, 4)
    with pytest.raises(EvaluationError, match="found 3 for windows"):
        ngram_distance(torch.tensor([[0, 1]]), judge, 3)


def test_the_error_of_the_distance_is_how_far_it_varies(judge: NGramJudge) -> None:
    """Windows drawn again and again: the distances spread as the standard error says."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.6, 0.1, 0.1, 0.2])
    found = [
        ngram_distance(
            torch.multinomial(weights, 300 * 6, True, generator=generator).view(300, 6), judge, 2
        )
        for _ in range(200)
    ]
    spread = float(np.std([each.value for each in found], ddof=1))
    said = float(np.mean([each.standard_error for each in found]))
    assert 0.8 < said / spread < 1.25
