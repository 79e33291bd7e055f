"""Curves over calls and temperatures: figures by hand, and measured on a known joint."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from codd.errors import DecodingError, EvaluationError
from codd.evaluation.continuation import FewStepVariant
from codd.evaluation.curve_tables import (
    frontier_summary,
    frontier_table,
    quota_summary,
    quota_table,
)
from codd.evaluation.few_step import standard_variants
from codd.evaluation.frontier import (
    FrontierKey,
    FrontierProtocol,
    FrontierResult,
    measure_frontier,
)
from codd.evaluation.ngram import NGramJudge
from codd.evaluation.quality import Judges, TextQuality
from codd.evaluation.quota_curves import (
    QuotaCell,
    QuotaFamily,
    QuotaProtocol,
    QuotaResult,
    measure_quotas,
)
from codd.evaluation.report import as_text
from codd.evaluation.statistics import UNDEFINED, Estimate, resampling_weights
from codd.viz import frontier, quotas
from codd.vocabulary import CharacterVocabulary
from tests.support.decoding import MixtureModel

COUNT, SIZE, BLOCK = 50, 4, 4
REFERENCE = "entropy_bound, factorised"


def quality(score: float, entropy: float, spread: float = 0.0) -> TextQuality:
    wiggle = torch.linspace(-spread, spread, COUNT, dtype=torch.float64)
    return TextQuality(wiggle + score, wiggle.flip(0) + entropy, Estimate(0.0, 0.0), UNDEFINED)


def cell(family: str, calls: float, score: float, *, spread: float = 0.0) -> QuotaCell:
    return QuotaCell(
        family,
        f"rule={calls:g}",
        torch.full((COUNT,), calls, dtype=torch.float64),
        quality(score, 7.0 + score, spread),
        1.0,
    )


def result_of(*cells: QuotaCell) -> QuotaResult:
    return QuotaResult(QuotaProtocol(BLOCK, REFERENCE), cells, quality(-1.0, 7.0))


def test_calls_at_equal_score_are_read_off_the_reference() -> None:
    own = [cell("own", 4.0, -2.5), cell("own", 2.0, -3.5), cell("own", 5.0, -1.5)]
    # The setting of 6 calls scores less than a cheaper one: no part of the curve.
    reference = [(2.0, -3.0), (6.0, -3.2), (8.0, -2.0)]
    result = result_of(*own, *(cell(REFERENCE, *pair) for pair in reference))
    half = result.compare(own[0])
    assert half.ratio.value == pytest.approx(4.0 / 4.0)  # halfway from 2 to 8 in log-calls
    assert half.entropy == pytest.approx(4.5) and not half.at_least
    assert math.isnan(result.compare(own[1]).ratio.value)
    best = result.compare(own[2])
    assert best.at_least and best.ratio.value == pytest.approx(8.0 / 5.0)
    assert half.ratio.standard_error == pytest.approx(0.0, abs=1e-12)
    assert [c.rule for c in result.curve("own")] == ["rule=2", "rule=4", "rule=5"]
    assert "1.00 ±0.00 times" in quota_summary(result, "own")
    assert "1.60 ±0.00 times" in quota_summary(result_of(own[2], *result.cells[3:]), "own")
    assert "no setting" in quota_summary(result_of(own[1], *result.cells[3:]), "own")


def test_the_error_of_a_ratio_is_that_of_resampled_prompts() -> None:
    reference = [cell(REFERENCE, 2.0, -3.0), cell(REFERENCE, 8.0, -2.0)]
    own = cell("own", 4.0, -2.5, spread=0.3)
    found = result_of(own, *reference).compare(own).ratio
    # log ratio = log 4 * (score + 2.5) / 1.0, to first order.
    spread = float(own.quality.scores.std() / math.sqrt(COUNT))
    assert found.standard_error == pytest.approx(math.log(4.0) * spread, rel=0.1)


def test_resampling_weights_are_shares_of_windows() -> None:
    weights = resampling_weights(COUNT, 3)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1000, dtype=torch.float64))
    torch.testing.assert_close((weights * COUNT).round(), weights * COUNT)
    figures = torch.linspace(0, 1, COUNT, dtype=torch.float64)
    spread = float((weights @ figures).std())
    assert spread == pytest.approx(float(figures.std()) / math.sqrt(COUNT), rel=0.1)


PLACES = {
    "factorised": [(6.0, -4.0), (7.0, -5.0)],
    "product": [(5.0, -2.5), (5.9, -3.5)],
    "good": [(6.0, -2.0), (7.5, -3.5)],
    "sharp": [(4.0, -2.6), (4.5, -2.8)],
}


def frontier_of(places: dict[str, list[tuple[float, float]]]) -> FrontierResult:
    protocol = FrontierProtocol(BLOCK, (0.5, 1.0), tokens_per_step=(4,), orders=("random",))
    cells = {
        FrontierKey(label, "random", 4, temperature): quality(score, entropy, 0.01)
        for label, points in places.items()
        for temperature, (entropy, score) in zip(protocol.temperatures, points, strict=True)
    }
    return FrontierResult(protocol, cells, quality(-1.0, 7.0))


def test_leads_are_at_equal_or_higher_entropy() -> None:
    result = frontier_of(PLACES)

    def lead(label: str, rival: str, temperature: float) -> float:
        return result.lead(label, FrontierKey(rival, "random", 4, temperature)).value

    assert lead("good", "factorised", 0.5) == pytest.approx(2.0)
    assert lead("good", "factorised", 1.0) == pytest.approx(5.0 - 3.0)  # on the line at 7
    assert lead("good", "product", 0.5) == pytest.approx(0.5)  # of more entropy and score
    assert lead("good", "product", 1.0) == pytest.approx(3.5 - 2.0)  # below the curve: its best
    assert math.isnan(lead("sharp", "product", 0.5))  # its curve ends before
    lower = frontier_of({**PLACES, "good": [(6.0, -2.6), (7.5, -3.5)]})
    # More entropy and less score: not comparable.
    assert math.isnan(lower.lead("good", FrontierKey("product", "random", 4, 0.5)).value)
    error = result.lead("good", FrontierKey("factorised", "random", 4, 0.5)).standard_error
    assert 0.0 < error < 0.01


def test_who_wins_and_who_lies_on_the_frontier() -> None:
    result = frontier_of(PLACES)
    assert result.couplings == ("good", "sharp")
    kept = {key.label for key in result.cells if result.on_frontier(key)}
    assert kept == {"good"}
    assert result.wins("good", "random", 4) and not result.wins("sharp", "random", 4)
    worse = frontier_of({**PLACES, "product": [(5.0, -2.5), (6.5, -2.2)]})
    assert not worse.wins("good", "random", 4)
    (line,) = frontier_summary(result)
    assert "frontier: good." in line and "good: 2.000" in line
    assert "frontier: none." in frontier_summary(worse)[0]
    text = as_text(frontier_table(result))
    assert "lead of good" in text and "real text" in text
    wins = json.loads(json.dumps(result.to_json()))["wins"]
    assert [entry["wins"] for entry in wins] == [True, False]


@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 0.5), (0.0, 1.0)])
def test_impossible_temperatures_are_refused(temperatures: tuple[float, ...]) -> None:
    with pytest.raises(EvaluationError, match="temperatures: expected at least two, increasing"):
        FrontierProtocol(BLOCK, temperatures)


def repeating_model() -> MixtureModel:
    """Blocks that mostly repeat one of three letters; the prompt says nothing of which."""
    tables = torch.full((3, 2 + BLOCK, SIZE), 0.02, dtype=torch.float64)
    tables[torch.arange(3), :, torch.arange(3)] = 0.94
    tables[:, :2] = 0.25
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    return MixtureModel(weights, tables, window=BLOCK, block=BLOCK)


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return repeating_model()


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    letters = torch.randint(3, (400, 1), generator=generator).expand(-1, BLOCK)
    return torch.cat((torch.randint(4, (400, 2), generator=generator), letters), dim=1)


@pytest.fixture(scope="module")
def judges(windows: torch.Tensor) -> Judges:
    vocabulary = CharacterVocabulary(("a", "b", "c", "\ufffd"))
    judge = NGramJudge.fit(windows[:, 2:].flatten(), num_categories=SIZE, order=3)
    return Judges(judge, vocabulary, {"aa"})


def test_budgets_of_an_exact_joint_need_fewer_calls(
    model: MixtureModel, windows: torch.Tensor, judges: Judges
) -> None:
    factorised = FewStepVariant(model, "factorised")
    budget = FewStepVariant(model, "copula", sampler="any_order")
    rules = ("entropy_bound=0", "entropy_bound=1.2", "entropy_bound=9")
    families = {
        REFERENCE: QuotaFamily(factorised, rules),
        "total_correlation": QuotaFamily(budget, ("total_correlation=9",)),
    }
    done: list[int] = []
    result = measure_quotas(
        windows,
        families,
        judges,
        QuotaProtocol(BLOCK, REFERENCE),
        progress=lambda part, _: done.append(part),
    )
    assert done == [1, 2, 3, 4]
    assert [float(c.calls.double().mean()) for c in result.cells[:3]] == sorted(
        (float(c.calls.double().mean()) for c in result.cells[:3]), reverse=True
    )
    own = result.cells[3]
    parallel = result.cells[2].quality.score
    assert bool((own.calls == 1).all()) and own.quality.score.value > parallel.value + 0.5
    found = result.compare(own)
    assert found.ratio.value > 2.0 and found.ratio.standard_error < 1.0
    text = as_text(quota_table(result))
    assert "total_correlation" in text and "real text" in text
    cells = json.loads(json.dumps(result.to_json()))["cells"]
    assert [entry["rule"] for entry in cells] == [*rules, "total_correlation=9"]
    panels = {axes.get_title(): axes for axes in quotas(result).axes}
    assert set(panels) == {"entropy bound", "total correlation"}
    found = panels["total correlation"].get_legend_handles_labels()[1]
    assert found == ["real text", "entropy bound,\nfactorised", "total correlation"]


def test_exact_coupling_is_above_the_factorised_output(
    model: MixtureModel, windows: torch.Tensor, judges: Judges
) -> None:
    protocol = FrontierProtocol(
        BLOCK, (0.5, 1.0), rivals=("factorised",), tokens_per_step=(4,), orders=("random",)
    )
    variants = {
        "factorised": FewStepVariant(model, "factorised", sampler="latent"),
        "copula": FewStepVariant(model, "copula", sampler="any_order"),
    }
    result = measure_frontier(windows, variants, judges, protocol)
    assert len(result.cells) == 4
    for key, found in result.cells.items():
        assert np.isfinite(found.score.value), key
    sharp, plain = result.curve("copula", "random", 4)
    assert sharp.score.value > plain.score.value and sharp.entropy.value < plain.entropy.value
    assert plain.score.value > result.curve("factorised", "random", 4)[0].score.value
    assert len(frontier(result).axes) == 1


def test_what_does_not_fit_is_refused(
    model: MixtureModel, windows: torch.Tensor, judges: Judges
) -> None:
    families = {"other": QuotaFamily(FewStepVariant(model), ("threshold",))}
    with pytest.raises(EvaluationError, match="expected 'entropy_bound, factorised' among them"):
        measure_quotas(windows, families, judges, QuotaProtocol(BLOCK, REFERENCE))
    with pytest.raises(DecodingError, match="quota: expected one of"):
        measure_quotas(
            windows,
            {"other": QuotaFamily(FewStepVariant(model), ("best",))},
            judges,
            QuotaProtocol(BLOCK, "other"),
        )
    with pytest.raises(EvaluationError, match=r"windows: expected \(at least 2, at least 4\)"):
        measure_frontier(windows[:1], standard_variants(model), judges, FrontierProtocol(BLOCK))
    with pytest.raises(EvaluationError, match="variants: expected 'product' among them"):
        measure_frontier(
            windows, {"factorised": FewStepVariant(model)}, judges, FrontierProtocol(BLOCK)
        )
