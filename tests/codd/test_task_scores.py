"""Accuracy by tokens a step on a task whose joint is known; AUP and intervals by hand."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from codd import viz
from codd.errors import EvaluationError
from codd.evaluation.continuation import FewStepVariant
from codd.evaluation.parallelism import accuracy_under_parallelism
from codd.evaluation.report import as_text, task_table
from codd.evaluation.statistics import bootstrap
from codd.evaluation.task_scores import TaskProtocol, TaskResult, measure_task
from codd.evaluation.tasks.base import Example
from codd.evaluation.tasks.shuffle import Shuffle
from codd.vocabulary import CharacterVocabulary
from tests.support.decoding import MixtureModel

TASK = Shuffle(3, 3)
VOCABULARY = CharacterVocabulary(("a", "b", "c", "=", "\ufffd"))
COUNT = 900


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    """The exact joint of prompts and answers: every order after every order, all as likely."""
    orders = list(itertools.permutations(range(3)))
    rows = torch.tensor([[*p, 3, *a] for p in orders for a in orders])
    tables = torch.nn.functional.one_hot(rows, 5).double()
    tables = (tables + 1e-6) / (tables + 1e-6).sum(dim=-1, keepdim=True)
    return MixtureModel(torch.full((36,), 1 / 36, dtype=torch.float64), tables, 3, 3)


@pytest.fixture(scope="module")
def result(model: MixtureModel) -> TaskResult:
    orders = ["".join(order) for order in itertools.permutations("abc")]
    examples = [Example(f"{orders[i % 6]}=", "") for i in range(COUNT)]
    variants = {
        "factorised": FewStepVariant(model, "factorised"),
        "copula": FewStepVariant(model, "copula"),
    }
    return measure_task(TASK, examples, variants, VOCABULARY, TaskProtocol((1, 2, 3)))


def test_coupling_is_right_where_single_tokens_are_by_chance(result: TaskResult) -> None:
    """Two tokens alone differ with 2/3, three with 3! / 27; drawn jointly they always do."""
    for pace, chance in ((1, 1.0), (2, 2 / 3), (3, 6 / 27)):
        error = math.sqrt(chance * (1 - chance) / COUNT) + 1e-3
        found = result.cells["factorised", pace].accuracy
        assert abs(found.value - chance) < 4 * error
        assert result.cells["copula", pace].accuracy.value > 0.995
    assert [cell.tokens_per_forward for cell in result.curve("copula")] == [1.0, 1.5, 3.0]
    gains = [gain.value for gain in result.gain("copula")]
    assert gains[2] == pytest.approx(1 - 6 / 27, abs=0.06)


def test_aup_of_the_curves(result: TaskResult) -> None:
    """All right up to three tokens a call is 300; one token a call alone is 100."""
    found = result.aup("copula")
    assert found.value == pytest.approx(300, abs=2)
    assert found.low <= found.value <= found.high
    assert result.aup("factorised").value == pytest.approx(100, abs=1)


def test_the_result_is_written_and_shown(result: TaskResult) -> None:
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["task"] == {"name": "shuffle", "num_items": 3, "num_letters": 3}
    assert written["examples"] == COUNT
    assert [point["tokens_per_forward"] for point in written["curves"]["copula"]] == [1.0, 1.5, 3.0]
    assert set(written["aup"]["copula"]) == {"value", "low", "high", "confidence"}
    text = as_text(task_table(result))
    assert "factorised" in text and "copula" in text and "100.0 ±0.0 %" in text


def test_the_figure_shows_every_curve(result: TaskResult) -> None:
    axes = viz.task(result, ax=Figure().add_subplot())
    drawn = {bars.get_label(): bars.lines[0].get_data(orig=True) for bars in axes.containers}
    assert set(drawn) == {"factorised", "copula"}
    places, shares = drawn["factorised"]
    assert list(places) == [1.0, 1.5, 3.0]
    expected = [cell.accuracy.value for cell in result.curve("factorised")]
    assert list(shares) == pytest.approx(expected)
    assert "shuffle" in axes.get_title(loc="left") + axes.get_title()


def test_without_its_control_nothing_is_measured(model: MixtureModel) -> None:
    example = [Example("abc=", "")]
    own = FewStepVariant(model, "copula", sampler="any_order", temperature=0.5)
    control = FewStepVariant(model, "factorised", sampler="any_order", temperature=0.5)

    def measure(variants: dict[str, FewStepVariant], paces: tuple[int, ...] = (1, 3)) -> TaskResult:
        return measure_task(TASK, example, variants, VOCABULARY, TaskProtocol(paces))

    assert measure({"factorised": control, "own": own}).labels == ("factorised", "own")
    with pytest.raises(EvaluationError, match="expected 'factorised' among them, found own"):
        measure({"own": own})
    for other in (replace(control, temperature=1.0), replace(control, sampler="latent")):
        with pytest.raises(EvaluationError, match="temperature and top_p of the control"):
            measure({"factorised": other, "own": own})
    with pytest.raises(EvaluationError, match="at most the answer's 3"):
        measure({"factorised": control}, (1, 4))
    with pytest.raises(EvaluationError, match=r"no two with as many steps; .* steps \[4, 2, 2\]"):
        protocol = TaskProtocol((1, 2, 3))
        measure_task(Shuffle(4, 4), example, {"factorised": control}, VOCABULARY, protocol)
    with pytest.raises(EvaluationError, match="examples: expected at least one"):
        measure_task(TASK, [], {"factorised": control}, VOCABULARY, TaskProtocol((1,)))
    with pytest.raises(EvaluationError, match="increasing numbers from 1 on"):
        TaskProtocol((2, 1))


def test_aup_by_hand() -> None:
    assert accuracy_under_parallelism([1.0], [80.0], 80.0) == 80.0
    assert accuracy_under_parallelism([1, 3], [80, 80], 80) == 240.0
    weight = math.exp(-3 * (1 - 80 / 100))
    assert accuracy_under_parallelism([1, 3], [80, 80], 100) == pytest.approx(80 + 160 * weight)
    mixed = 80 + 2 * (80 + 76 * math.exp(-3 * (1 - 76 / 80))) / 2
    assert accuracy_under_parallelism([1, 3], [80, 76], 80) == pytest.approx(mixed)
    # 74.9 is more than five points below the first: it does not count, what follows it may.
    skipped = accuracy_under_parallelism([1, 2, 3], [80, 74.9, 80], 80)
    assert skipped == accuracy_under_parallelism([1, 3], [80, 80], 80)
    # More right than the first is no less worth than the best.
    assert accuracy_under_parallelism([2, 4], [60, 90], 90) == pytest.approx(
        120 + (90 + 60 * math.exp(-1))
    )
    assert accuracy_under_parallelism([1, 2], [0, 0], 0) == 0.0


@pytest.mark.parametrize(
    ("parallelism", "accuracies", "message"),
    [
        ([], [], "increasing parallelism"),
        ([1, 1], [50, 50], "increasing parallelism"),
        ([1, 2], [50], "with 1 accuracies"),
        ([0, 2], [50, 50], "parallelism above 0"),
        ([1, 2], [50, 150], "percentages"),
    ],
)
def test_impossible_curves(parallelism: list[float], accuracies: list[float], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        accuracy_under_parallelism(parallelism, accuracies, 100)


def test_bootstrap_by_enumeration() -> None:
    """Of 0 and 1 the mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4: the quantiles follow."""
    values = torch.tensor([0.0, 1.0])

    def share(rows: torch.Tensor) -> float:
        return float(values[rows].mean())

    wide, less, narrow = (bootstrap(share, 2, confidence=c) for c in (0.95, 0.6, 0.4))
    assert (wide.value, wide.low, wide.high) == (0.5, 0.0, 1.0)
    assert (less.low, less.high) == (0.0, 1.0)  # a fifth on either side, less than a quarter
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    alone = bootstrap(share, 1)
    assert alone.value == 0.0 and math.isnan(alone.low) and math.isnan(alone.high)


def test_bootstrap_covers_as_often_as_it_says() -> None:
    """The interval of a mean is that of the normal approximation, and covers the truth."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(100):
        values = torch.randn(40, generator=generator, dtype=torch.float64)
        found = bootstrap(
            lambda rows, values=values: float(values[rows].mean()), 40, resamples=300, seed=seed
        )
        covered += found.low <= 0.0 <= found.high
    assert 86 <= covered <= 100
