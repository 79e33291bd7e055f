"""Few-step generation on a known joint: what exact coupling must recover."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from codd.errors import EvaluationError
from codd.evaluation.continuation import FewStepVariant
from codd.evaluation.few_step import (
    FewStepProtocol,
    FewStepResult,
    measure_few_step,
    standard_variants,
)
from codd.evaluation.ngram import NGramJudge, ngram_distance
from codd.evaluation.quality import Judges
from codd.evaluation.report import as_text, few_step_table
from codd.vocabulary import CharacterVocabulary
from tests.support.decoding import MixtureModel, joint_table

SIZE, LENGTH, BLOCK, COUNT = 4, 6, 4, 600
VOCABULARY = CharacterVocabulary(("a", "b", "c", "\ufffd"))
PROTOCOL = FewStepProtocol(block=BLOCK, tokens_per_step=(1, 2, 4), batch_size=400)


def repeating_model() -> MixtureModel:
    """Sequences that mostly repeat one of three letters."""
    tables = torch.full((3, LENGTH, SIZE), 0.02, dtype=torch.float64)
    tables[torch.arange(3), :, torch.arange(3)] = 0.94
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    # The prompt says nothing of the block, so that the block has dependencies left.
    tables[:, : LENGTH - BLOCK] = 0.25
    return MixtureModel(weights, tables, window=BLOCK, block=BLOCK)


def true_windows(model: MixtureModel, count: int, seed: int) -> torch.Tensor:
    table = torch.tensor(joint_table(model).ravel())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(table, count, True, generator=generator)
    return torch.stack([(drawn // SIZE**i) % SIZE for i in range(LENGTH - 1, -1, -1)], dim=1)


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return repeating_model()


@pytest.fixture(scope="module")
def judges(model: MixtureModel) -> Judges:
    text = true_windows(model, 3000, seed=1).flatten()
    return Judges(NGramJudge.fit(text, num_categories=SIZE, order=3), VOCABULARY, {"aa", "bb"})


@pytest.fixture(scope="module")
def result(model: MixtureModel, judges: Judges) -> FewStepResult:
    windows = true_windows(model, COUNT, seed=2)
    return measure_few_step(windows, standard_variants(model), judges, PROTOCOL)


@pytest.mark.parametrize("order", ["random", "low_confidence"])
@pytest.mark.parametrize("label", ["copula", "copula, any order"])
@pytest.mark.parametrize("pace", [2, 4])
def test_exact_coupling_recovers_what_parallel_writing_loses(
    result: FewStepResult, label: str, order: str, pace: int
) -> None:
    factorised = result.cells["factorised", order, pace].quality.score
    one = result.cells["factorised", order, 1].quality.score
    assert one.value - factorised.value > 5 * factorised.standard_error
    recovered = result.recovered(label, order, pace)
    assert abs(recovered.value - 1.0) < 4 * recovered.standard_error
    assert recovered.standard_error < 0.2


def test_one_token_a_step_writes_like_the_real_text(result: FewStepResult) -> None:
    for order in PROTOCOL.orders:
        one = result.cells["factorised", order, 1].quality
        error = math.hypot(one.score.standard_error, result.real.score.standard_error)
        assert abs(one.score.value - result.real.score.value) < 4 * error
        error = math.hypot(one.entropy.standard_error, result.real.entropy.standard_error)
        assert abs(one.entropy.value - result.real.entropy.value) < 4 * error


def test_coupled_text_is_as_far_from_the_training_text_as_real_text_is(
    model: MixtureModel, judges: Judges, result: FewStepResult
) -> None:
    real = result.real.distance
    truth = true_windows(model, COUNT, seed=2)[:, -BLOCK:]
    assert real == ngram_distance(truth, judges.ngram)
    for (label, _, pace), cell in result.cells.items():
        quality = cell.quality
        error = math.hypot(quality.distance.standard_error, real.standard_error)
        if pace == 1 or label.startswith("copula"):  # written from the true distribution
            assert abs(quality.distance.value - real.value) < 4 * error, cell
        assert quality.perplexity.value == pytest.approx(math.exp(-quality.score.value))
        slope = quality.perplexity.standard_error / quality.score.standard_error
        assert slope == pytest.approx(quality.perplexity.value)


def test_the_baseline_recovers_nothing(result: FewStepResult) -> None:
    assert result.recovered("factorised", "random", 4).value == 0.0
    assert math.isnan(result.recovered("copula", "random", 1).value)


def test_cells_count_steps_and_time(result: FewStepResult) -> None:
    assert len(result.cells) == 2 * (3 + 3 * 2)  # one token a step for the factorised output alone
    assert result.labels == tuple(standard_variants(repeating_model()))
    for (_, _, pace), cell in result.cells.items():
        assert cell.steps == BLOCK // pace
        assert cell.denoiser_seconds > 0 and cell.coupling_seconds > 0
        assert cell.quality.scores.shape == (COUNT,)


def test_scores_are_the_judge_given_the_end_of_the_prompt(
    model: MixtureModel, judges: Judges
) -> None:
    windows = true_windows(model, 50, seed=3)
    variants = {"factorised": FewStepVariant(model, "factorised")}
    found = measure_few_step(windows, variants, judges, replace(PROTOCOL, tokens_per_step=(1,)))
    whole = judges.ngram.log_prob(windows)[:, -BLOCK:].mean(dim=1)
    assert torch.equal(found.real.scores, whole)


def test_unknown_words_are_read_from_the_block_alone(model: MixtureModel, judges: Judges) -> None:
    spaced = replace(judges, vocabulary=CharacterVocabulary(("a", " ", "b", "\ufffd")))
    windows = torch.tensor([[0, 1, 1, 0, 0, 1], [0, 0, 1, 2, 0, 1]])  # blocks " aa " and " ba "
    variants = {"factorised": FewStepVariant(model, "factorised")}
    found = measure_few_step(windows, variants, spaced, replace(PROTOCOL, tokens_per_step=(1,)))
    assert found.real.unknown_words.value == 0.5


def test_progress_and_report(model: MixtureModel, judges: Judges) -> None:
    told: list[tuple[int, int]] = []
    found = measure_few_step(
        true_windows(model, 20, seed=4),
        {"factorised": FewStepVariant(model, "factorised"), "coupled": FewStepVariant(model)},
        judges,
        FewStepProtocol(block=BLOCK, tokens_per_step=(1, 4), orders=("margin",)),
        progress=lambda *state: told.append(state),
    )
    assert told == [(i, 3) for i in range(1, 4)]
    text = as_text(few_step_table(found))
    assert "real text" in text and "coupled" in text and "recovered" in text
    few = as_text(few_step_table(found, ("score", "recovered")), width=80)
    assert f"{found.real.score.value:.3f}" in few and "recovered" in few
    assert "entropy" not in few and "…" not in few
    kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert kept["real"]["score"]["value"] == found.real.score.value
    assert [cell["tokens_per_step"] for cell in kept["cells"]] == [1, 4, 4]
    assert kept["cells"][0]["recovered"]["value"] is None
    recovered = found.recovered("coupled", "margin", 4).value
    assert kept["cells"][2]["recovered"]["value"] == recovered


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_step": (2, 4)}, "tokens_per_step: expected increasing numbers from 1 to"),
        ({"tokens_per_step": (1, 5)}, "to at most 4, found"),
        ({"tokens_per_step": (1, 4, 2)}, "tokens_per_step: expected increasing"),
        ({"tokens_per_step": ()}, "tokens_per_step: expected increasing"),
        ({"orders": ()}, "orders, batch_size: expected at least one of each"),
        ({"batch_size": 0}, "orders, batch_size: expected at least one of each"),
    ],
)
def test_bad_protocols_are_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"block": 4, "tokens_per_step": (1, 4), **changes}
    with pytest.raises(EvaluationError, match=message):
        FewStepProtocol(**arguments)


def test_what_does_not_fit_is_refused(model: MixtureModel, judges: Judges) -> None:
    windows = true_windows(model, 3, seed=5)
    variants = standard_variants(model)
    with pytest.raises(EvaluationError, match=r"windows: expected \(N, at least 4\), found"):
        measure_few_step(windows[:, :3], variants, judges, PROTOCOL)
    with pytest.raises(EvaluationError, match="variants: expected 'factorised' among them"):
        measure_few_step(windows, {"copula": variants["copula"]}, judges, PROTOCOL)
