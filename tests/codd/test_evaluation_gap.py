"""The gap against an explicit joint, and the statistics against repeated experiments."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from codd.errors import EvaluationError
from codd.evaluation.gap import GapProtocol, GapResult, GapVariant, measure_gap
from codd.evaluation.report import as_text, gap_summary, gap_table
from codd.evaluation.statistics import json_ready, mean, mean_ratio, ratio
from tests.support.decoding import MixtureModel, conditional, joint_table, mixture_model

SIZE, LENGTH, BLOCK = 3, 5, 4
WINDOWS = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0], [1, 0, 1, 2, 2]])
HALVES = GapProtocol(block=BLOCK, ratios=(0.25, 0.5, 1.0), seed=3, batch_size=2)


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return mixture_model(LENGTH, SIZE, window=BLOCK, block=BLOCK, seed=8)


@pytest.fixture(scope="module")
def result(model: MixtureModel) -> GapResult:
    variants = {"copula": GapVariant(model, "copula"), "off": GapVariant(model, "factorised")}
    return measure_gap(model, WINDOWS, variants, HALVES)


def probability(joint: np.ndarray, world: list[int], masked: set[int]) -> float:
    """p(true tokens at the masked positions | the others), by summing the joint."""
    index = tuple(slice(None) if i in masked else world[i] for i in range(LENGTH))
    return float(joint[tuple(world)] / joint[index].sum())


def single(joint: np.ndarray, world: list[int], masked: set[int], position: int) -> float:
    known = {i: world[i] for i in range(LENGTH) if i not in masked}
    return float(conditional(joint, known, position)[world[position]])


def masks(count: int) -> list[set[int]]:
    return [set(m) for m in itertools.combinations(range(LENGTH - BLOCK, LENGTH), count)]


@pytest.mark.parametrize("column", range(3))
def test_log_likelihoods_are_those_of_the_joint(
    model: MixtureModel, result: GapResult, column: int
) -> None:
    """The masks are seeded; the one that was used must explain all three figures at once."""
    joint, count = joint_table(model), HALVES.masked_counts[column]
    for row, world in enumerate(WINDOWS.tolist()):
        found = {k: float(v[row, column]) for k, v in result.log_likelihoods.items()}
        explained = []
        for masked in masks(count):
            whole = math.log(probability(joint, world, masked)) / count
            product = sum(math.log(single(joint, world, masked, i)) for i in masked) / count
            explained.append(
                math.isclose(found["copula"], whole, rel_tol=1e-9)
                and math.isclose(found["sequential"], whole, rel_tol=1e-9)
                and math.isclose(found["factorised"], product, rel_tol=1e-9)
            )
        assert any(explained)
        assert found["off"] == found["factorised"]


def test_sequential_is_a_chain_rule_in_random_order_of_an_inconsistent_denoiser() -> None:
    """Where conditionals fit no joint, the order matters: some order must explain the figure."""
    base = mixture_model(3, 2, window=3, block=3, seed=9)
    tilt = torch.tensor([0.0, 0.7])

    class Tilted(MixtureModel):
        def denoise(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None):
            output = super().denoise(tokens)
            visible = (tokens != self.mask_id).sum(dim=1)[:, None, None]
            return replace(output, logits=output.logits + tilt * visible)

    model = Tilted(base.weights, base.components, 3, 3)
    windows = torch.tensor(list(itertools.product(range(2), repeat=3)))
    protocol = GapProtocol(block=3, ratios=(1 / 3, 2 / 3, 1.0))
    found = measure_gap(model, windows, {}, protocol).log_likelihoods["sequential"]

    def chain(world: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
        total, masked = [], list(order)
        for position in reversed(order):  # the last of the order is revealed first
            tokens = world.clone()
            tokens[masked] = model.mask_id
            law = model.denoise(tokens[None]).logits[0, position].log_softmax(dim=-1)
            total.append(law[world[position]])
            masked.remove(position)
        steps = torch.stack(total).flip(0)
        return steps.cumsum(dim=0) / torch.arange(1, 4)

    used = set()
    for world, row in zip(windows, found, strict=True):
        orders = [
            order
            for order in itertools.permutations(range(3))
            if torch.allclose(chain(world, order), row, rtol=1e-9)
        ]
        assert len(orders) == 1
        used.add(orders[0])
    assert len(used) > 1


def test_masks_do_not_depend_on_the_batch_size(model: MixtureModel, result: GapResult) -> None:
    again = measure_gap(
        model, WINDOWS, {"copula": GapVariant(model)}, replace(HALVES, batch_size=100)
    )
    for label in ("factorised", "sequential", "copula"):
        torch.testing.assert_close(
            again.log_likelihoods[label], result.log_likelihoods[label], rtol=1e-10, atol=0
        )


def test_whole_window_without_prompt() -> None:
    model = mixture_model(4, 2, window=4, block=4, seed=10)
    worlds = torch.tensor(list(itertools.product(range(2), repeat=4)))
    protocol = GapProtocol(block=4, ratios=(1.0,))
    found = measure_gap(model, worlds, {"copula": GapVariant(model)}, protocol)
    expected = torch.tensor(np.log(joint_table(model)).ravel() / 4)
    for label in ("copula", "sequential"):
        torch.testing.assert_close(found.log_likelihoods[label][:, 0], expected)


def test_exact_coupling_closes_the_whole_gap(result: GapResult) -> None:
    alone, *shares = result.closed("copula")
    assert math.isnan(alone.value), "one masked token leaves no gap to close"
    for estimate in (*shares, result.mean_closed("copula")):
        assert estimate.value == pytest.approx(1.0)
    assert math.isnan(result.mean_closed("copula", least=1.1).value)
    assert result.closed("copula")[-1].standard_error == pytest.approx(0.0, abs=1e-9)
    assert [e.value for e in result.closed("off")[1:]] == [0.0, 0.0]
    assert result.variants == ("copula", "off")


def test_progress_tells_windows(model: MixtureModel) -> None:
    told: list[tuple[int, int]] = []
    measure_gap(model, WINDOWS, {}, HALVES, progress=lambda *state: told.append(state))
    assert told == [(2, 3), (3, 3)]


def test_report_shows_and_keeps_the_figures(result: GapResult) -> None:
    text = as_text(gap_table(result))
    assert "closed by copula" in text and "sequential" in text
    assert f"{result.level('copula')[2].value:.3f}" in text
    kept = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert kept["protocol"]["windows"] == 3
    assert kept["log_likelihood"]["copula"][1]["value"] == result.level("copula")[1].value
    assert kept["closed"]["off"][2]["value"] == 0.0


def test_summary_tells_share_and_least_leads() -> None:
    levels = {
        "factorised": [-1.0, -2.0, -3.0],
        "sequential": [-1.0, -1.0, -1.0],
        "product": [-1.5, -1.3, -1.5],
        "copula": [-1.0, -1.01, -1.04],
        "weak": [-1.4, -1.4, -1.4],
    }
    spread = torch.tensor([[1e-3], [-1e-3]])  # paired: the same in each, so leads have no error
    found = GapResult(HALVES, {k: torch.tensor([v, v]) + spread for k, v in levels.items()})
    copula, weak = gap_summary(found)
    assert copula == (
        "copula: closes 98.5 ±0.0 % of the gap between independent tokens and one token a call; "
        "least lead over product, of all mask ratios, 0.290 ±0.000 nats; over one token a call, "
        "up to 0.25 masked, 0.0000 ±0.0000 at worst"
    )
    assert "of all mask ratios, -0.100 ±0.000 nats" in weak
    assert weak.endswith("-0.4000 ±0.0000 at worst")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, "block, batch_size: expected at least 1, found 0"),
        ({"batch_size": 0}, "expected at least 1"),
        ({"ratios": ()}, "ratios: expected increasing"),
        ({"ratios": (0.5, 0.25)}, "ratios: expected increasing"),
        ({"ratios": (0.0, 0.5)}, "ratios: expected increasing"),
        ({"ratios": (0.5, 1.5)}, "ratios: expected increasing"),
    ],
)
def test_bad_protocols_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        GapProtocol(**{"block": 4, **changes})


def test_what_does_not_fit_is_refused(model: MixtureModel) -> None:
    other = mixture_model(LENGTH, SIZE, window=3, block=3)
    cases = [
        (WINDOWS[0], {}, HALVES, r"windows: expected \(N, L\)"),
        (WINDOWS[:, :3], {}, HALVES, "windows: expected 4 to 5 tokens each, found 3"),
        (WINDOWS, {}, GapProtocol(block=5), "block: expected at most .* 4, found 5"),
        (WINDOWS, {"sequential": GapVariant(model)}, HALVES, "measured anyway"),
        (WINDOWS, {"b": GapVariant(other)}, HALVES, r"variants\['b'\]: expected a window of 4"),
    ]
    for windows, variants, protocol, message in cases:
        with pytest.raises(EvaluationError, match=message):
            measure_gap(model, windows, variants, protocol)


def test_standard_errors_are_those_of_repeated_experiments() -> None:
    generator = torch.Generator().manual_seed(0)
    means, ratios, averages = [], [], []
    for _ in range(400):
        shared = torch.randn(100, generator=generator)
        y = 2.0 + shared
        x = 1.0 + 0.8 * shared + 0.3 * torch.randn(100, generator=generator)
        means.append(mean(x))
        ratios.append(ratio(x, y))
        averages.append(mean_ratio([(x, y), (y, x + 2.0)]))
    for estimates in (means, ratios, averages):
        spread = float(torch.tensor([e.value for e in estimates]).std())
        told = sum(e.standard_error for e in estimates) / len(estimates)
        assert told == pytest.approx(spread, rel=0.15)


def test_json_has_no_infinity_and_no_nan() -> None:
    ready = json_ready({"a": [1.0, math.inf, (math.nan, True)], "b": mean(torch.tensor([2.0]))})
    assert ready == {"a": [1.0, None, [None, True]], "b": {"value": 2.0, "standard_error": None}}
