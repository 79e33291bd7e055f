"""Likelihoods of continuations against an explicit joint, and against the loop they stand for."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.errors import EvaluationError
from codd.evaluation import likelihood
from codd.evaluation.likelihood import (
    Likelihood,
    LikelihoodOptions,
    random_masks,
    score_continuations,
)
from tests.support.decoding import MixtureModel, conditional, joint_table, mixture_model

SIZE, LENGTH, CONTEXT = 3, 6, 2


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return mixture_model(LENGTH, SIZE, window=3, block=3, seed=4)


@pytest.fixture(scope="module")
def joint(model: MixtureModel) -> np.ndarray:
    return joint_table(model)


def worlds(count: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(SIZE), repeat=count)))


def log_conditional(joint: np.ndarray, context: list[int], continuation: list[int]) -> float:
    """log p(continuation | context), by summing the joint over what follows."""
    both = (*context, *continuation)
    return math.log(joint[both].sum() / joint[tuple(context)].sum())


def score(model: MixtureModel, continuations: Tensor, **options: object) -> list[Likelihood]:
    contexts = [torch.tensor([2, 0])] * len(continuations)
    return score_continuations(
        model, contexts, list(continuations), LikelihoodOptions(batch_size=9, **options)
    )


@pytest.mark.parametrize("count", (1, 3, 4))
@pytest.mark.parametrize("method", ("one_step", "chain_rule"))
def test_exact_methods_give_the_joint(
    model: MixtureModel, joint: np.ndarray, method: str, count: int
) -> None:
    """Up to a window in one call, four tokens in two blocks: with this model all are the joint."""
    rows = worlds(count)
    found = score(model, rows, method=method)
    for row, each in zip(rows.tolist(), found, strict=True):
        assert each.log_prob == pytest.approx(log_conditional(joint, [2, 0], row), rel=1e-9)
    assert sum(math.exp(each.log_prob) for each in found) == pytest.approx(1.0)


def test_one_step_of_the_factorised_output_is_a_product(
    model: MixtureModel, joint: np.ndarray
) -> None:
    known = {0: 2, 1: 0}
    singles = np.log([conditional(joint.sum(-1), known, CONTEXT + i) for i in range(3)])
    for row, each in zip(
        worlds(3).tolist(), score(model, worlds(3), coupling="factorised"), strict=True
    ):
        expected = sum(singles[i, token] for i, token in enumerate(row))
        assert each.log_prob == pytest.approx(expected, rel=1e-9)


def test_blocks_of_one_token_are_the_chain_rule(model: MixtureModel) -> None:
    short = score(model, worlds(4), block_length=1)
    chain = score(model, worlds(4), method="chain_rule")
    for one, other in zip(short, chain, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=1e-9)


def test_monte_carlo_over_all_masks_is_exact_for_a_consistent_denoiser(
    model: MixtureModel, joint: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order of revealing gives the same joint, so the mean over all masks is its log."""
    patterns = [p for p in itertools.product((False, True), repeat=3) if any(p)]
    repeats = {1: 1, 2: 1, 3: 3}  # each size as often as the others
    every = torch.tensor([p for p in patterns for _ in range(repeats[sum(p)])])
    monkeypatch.setattr(likelihood, "random_masks", lambda count, samples, seed: every)
    for row, each in zip(
        worlds(3).tolist(), score(model, worlds(3), method="monte_carlo"), strict=True
    ):
        assert each.log_prob == pytest.approx(log_conditional(joint, [2, 0], row), rel=1e-9)


def test_monte_carlo_estimates_the_same_with_many_masks(
    model: MixtureModel, joint: np.ndarray
) -> None:
    rows = torch.tensor([[0, 1, 2]])
    found = [
        score(model, rows, method="monte_carlo", samples=60, seed=seed)[0].log_prob
        for seed in range(40)
    ]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - log_conditional(joint, [2, 0], [0, 1, 2])) < 4 * error
    assert found[0] == score(model, rows, method="monte_carlo", samples=60, seed=0)[0].log_prob


def test_masks_cover_sizes_evenly_and_positions_alike() -> None:
    masks = random_masks(4, 4000, seed=1)
    sizes = Counter(masks.sum(dim=1).tolist())
    assert set(sizes) == {1, 2, 3, 4}
    assert all(abs(count - 1000) <= 1 for count in sizes.values())
    share = masks.double().mean(dim=0)
    assert float((share - 2.5 / 4).abs().max()) < 4 * math.sqrt(0.25 / 4000)
    assert bool(random_masks(1, 5, seed=0).all())


def test_one_token_is_the_same_in_all_ways(model: MixtureModel) -> None:
    ways = [
        [each.log_prob for each in score(model, worlds(1), method=method)]
        for method in likelihood.METHODS
    ]
    assert ways[1] == pytest.approx(ways[0])
    assert ways[2] == pytest.approx(ways[0])


def greedy_rows(rows: Tensor, found: list[Likelihood]) -> list[list[int]]:
    return [row for row, each in zip(rows.tolist(), found, strict=True) if each.is_greedy]


def test_greedy_is_what_greedy_decoding_writes(model: MixtureModel, joint: np.ndarray) -> None:
    """Four tokens are two blocks: both must be what greedy decoding writes."""
    written: list[int] = []
    for i in range(4):
        known = dict(enumerate([2, 0, *written]))
        written.append(int(conditional(joint, known, CONTEXT + i).argmax()))
    rows = worlds(4)
    for method in ("chain_rule", "monte_carlo"):
        assert greedy_rows(rows, score(model, rows, method=method, samples=2)) == [written]
    assert not any(each.is_greedy for each in score(model, rows, greedy=False))
    drawn = codd.generate(
        model, [torch.tensor([2, 0])], 3, 1, block_length=3, sampler="any_order", temperature=0.0
    )
    assert greedy_rows(worlds(3), score(model, worlds(3))) == drawn.completions.tolist()


class Outspoken(MixtureModel):
    """Says something of contexts that its joint rules out, and rules out visible ones."""

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> codd.DenoiserOutput:
        output = super().denoise(tokens, attention_mask)
        logits = output.logits.nan_to_num(nan=0.0, neginf=-math.inf)
        zero = torch.tensor([0.0, -math.inf], dtype=logits.dtype)
        return replace(output, logits=torch.where((tokens == 2)[..., None], logits, zero))


@pytest.mark.parametrize("method", likelihood.METHODS)
def test_what_is_impossible_is_minus_infinity(method: str) -> None:
    sure = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64).repeat(1, 4, 1)
    same = Outspoken(torch.tensor([0.5, 0.5], dtype=torch.float64), sure, 2, 2)
    contexts, continuations = [torch.tensor([0, 0])] * 2, list(torch.tensor([[0, 0], [0, 1]]))
    options = LikelihoodOptions(method=method, samples=3)
    found = score_continuations(same, contexts, continuations, options)
    assert [each.log_prob for each in found] == [pytest.approx(0.0), -math.inf]


def small_model() -> codd.CoupledModel:
    vocabulary = codd.CharacterVocabulary.from_text(["abcdefgh"])
    config = codd.TransformerConfig(vocabulary.size, max_length=12, width=16, num_layers=1)
    denoiser = codd.TransformerDenoiser(config, seed=1)
    circuit = pc.CircuitModel(pc.families.hmm(6, 4, vocabulary.size), seed=2)
    head = codd.make_modulator("static", circuit.plan, denoiser.hidden_size)
    return codd.CoupledModel(denoiser, circuit, head, vocabulary, block_length=4).eval()


@pytest.mark.parametrize("method", likelihood.METHODS)
def test_batches_and_padding_change_nothing(method: str) -> None:
    """Contexts from none to more than the model sees, continuations of many lengths."""
    model = small_model()
    encode = model.vocabulary.encode
    contexts = [encode(text) for text in ("", "a", "abcabcabcabcabc", "hgfe", "abc")]
    continuations = [encode(text) for text in ("abcd", "bcdefgha", "d", "dcba", "")]
    options = LikelihoodOptions(method=method, samples=4, batch_size=1)
    alone = score_continuations(model, contexts, continuations, options)
    reports: list[tuple[int, int]] = []
    together = score_continuations(
        model,
        contexts,
        continuations,
        replace(options, batch_size=16),
        progress=lambda *counts: reports.append(counts),
    )
    for one, other in zip(alone, together, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=1e-4)
        assert one.is_greedy == other.is_greedy
    assert together[-1] == Likelihood(0.0, True)  # nothing to write
    assert reports[-1] == (5, 5)  # the second continuation has two blocks, the last none


def test_the_probability_is_that_of_drawing_it() -> None:
    """One decoding step draws continuations as often as their likelihood says."""
    model = small_model()
    context = model.vocabulary.encode("abcdab")
    drawn = codd.generate(model, [context] * 4000, 2, 1, block_length=2, seed=3).completions
    every = torch.cartesian_prod(*(torch.arange(model.num_categories),) * 2)
    found = score_continuations(
        model, [context] * len(every), list(every), LikelihoodOptions(batch_size=128)
    )
    expected = np.exp([each.log_prob for each in found])
    assert expected.sum() == pytest.approx(1.0, abs=1e-4)
    counts = Counter(map(tuple, drawn.tolist()))
    likeliest = np.argsort(-expected)[:10]
    for i in likeliest:
        share = counts[tuple(every[i].tolist())] / 4000
        assert abs(share - expected[i]) < 4.5 * math.sqrt(expected[i] / 4000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "elbo"}, "expected one of one_step, chain_rule, monte_carlo, found 'elbo'"),
        ({"samples": 0}, "samples: expected at least 1, found 0"),
        ({"block_length": 0}, "block_length: expected at least 1, found 0"),
        ({"block_length": 4}, "at most the model's window, 3, found 4"),
        ({"method": "chain_rule", "block_length": 7}, "longest sequence, 6, found 7"),
    ],
)
def test_impossible_options(model: MixtureModel, options: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        score(model, worlds(1), **options)


def test_lists_of_different_length(model: MixtureModel) -> None:
    with pytest.raises(EvaluationError, match="expected as many, found 1 and 0"):
        score_continuations(model, [torch.tensor([0])], [], LikelihoodOptions())
