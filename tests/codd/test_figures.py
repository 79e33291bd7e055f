import math
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from codd.evaluation.few_step import FewStepCell, FewStepProtocol, FewStepResult, TextQuality
from codd.evaluation.figures import (
    COLOURS,
    draw_dependencies,
    draw_few_step,
    draw_gap,
    write_figure,
)
from codd.evaluation.gap import GapProtocol, GapResult
from codd.evaluation.statistics import Estimate

PACES, ORDERS, LABELS = (1, 2, 4), ("random", "low_confidence"), ("factorised", "copula")


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(9.0, 4.8), layout="constrained").add_subplot()


def gap_result(windows: int = 5) -> GapResult:
    generator = torch.Generator().manual_seed(0)
    rows = {
        label: torch.randn(windows, 3, generator=generator, dtype=torch.float64)
        for label in ("factorised", "copula", "product", "sequential")
    }
    return GapResult(GapProtocol(8, ratios=(0.25, 0.5, 1.0)), rows)


def quality(scores: Tensor) -> TextQuality:
    return TextQuality(scores, Estimate(1.0, 0.1), Estimate(0.1, 0.01))


def few_step_result() -> FewStepResult:
    generator = torch.Generator().manual_seed(1)
    cells = {
        (label, order, pace): FewStepCell(
            label, order, pace, quality(torch.randn(6, generator=generator)), 0.1, 0.2, 4
        )
        for label in LABELS
        for order in ORDERS
        for pace in PACES
    }
    protocol = FewStepProtocol(4, tokens_per_step=PACES, orders=ORDERS)
    return FewStepResult(protocol, cells, quality(torch.full((6,), -1.25)))


def curves(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {bars.get_label(): tuple(bars.lines[0].get_data(orig=True)) for bars in axes.containers}


def assert_legend_beside_data(axes: Axes) -> None:
    axes.figure.draw_without_rendering()
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 > axes.get_window_extent().x1
    assert legend.x1 <= axes.figure.bbox.x1


def test_gap_shows_the_gain_of_every_variant_over_the_factorised_output(axes: Axes) -> None:
    result = gap_result()
    assert draw_gap(axes, result) is axes
    drawn = curves(axes)
    assert set(drawn) == {"sequential: the whole gap", "copula", "product"}
    for label, key in (("sequential: the whole gap", "sequential"), ("copula", "copula")):
        difference = result.log_likelihoods[key] - result.log_likelihoods["factorised"]
        assert list(drawn[label][1]) == pytest.approx(difference.mean(dim=0).tolist())
        assert list(drawn[label][0]) == [0.25, 0.5, 1.0]
    assert "nats" in axes.get_ylabel()
    assert "mask ratio" in axes.get_xlabel()
    assert_legend_beside_data(axes)


def test_one_window_is_drawn_without_error_bars(axes: Axes) -> None:
    result = gap_result(windows=1)
    assert math.isnan(result.gap()[0].standard_error)
    draw_gap(axes, result)
    bars = axes.containers[0].lines[2][0].get_segments()
    assert all(low[1] == high[1] for low, high in bars)


def test_few_step_shows_every_variant_in_every_order(axes: Axes) -> None:
    result = few_step_result()
    assert draw_few_step(axes, result) is axes
    drawn = curves(axes)
    assert len(drawn) == 4
    cells = [result.cells["copula", "low_confidence", pace] for pace in PACES]
    expected = [cell.quality.score.value for cell in cells]
    assert list(drawn["copula, low confidence"][1]) == pytest.approx(expected)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert "nats" in axes.get_ylabel()
    assert_legend_beside_data(axes)


def test_variants_differ_in_colour_and_orders_in_line_style(axes: Axes) -> None:
    draw_few_step(axes, few_step_result())
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    first, second = (lines[f"copula, {order}"] for order in ("random", "low confidence"))
    assert first.get_color() == second.get_color() in COLOURS
    assert first.get_linestyle() != second.get_linestyle()
    assert lines["factorised, random"].get_color() != first.get_color()


def test_dependencies_show_masked_pairs_only(axes: Axes) -> None:
    information = torch.arange(16.0).view(4, 4)
    masked = torch.tensor([True, False, True, True])
    assert draw_dependencies(axes, information, ["a", " ", "\n", "語"], masked) is axes
    shown = axes.images[0].get_array().filled(math.nan)
    for i in range(4):
        for j in range(4):
            if i != j and masked[i] and masked[j]:
                assert shown[i, j] == information[i, j]
            else:
                assert math.isnan(shown[i, j])
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["■", "␣", "■", "■"]
    assert axes.get_xticklabels()[0].get_color() != axes.get_xticklabels()[1].get_color()


def test_letters_that_the_font_may_lack_are_replaced(axes: Axes, tmp_path: Path) -> None:
    symbols = ["語", "\n", "\t", "\x07", "é"]
    masked = torch.zeros(5, dtype=torch.bool)
    draw_dependencies(axes, torch.ones(5, 5), symbols, masked)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["·", "⏎", "⇥", "·", "é"]
    axes.figure.savefig(tmp_path / "figure.png")  # a missing letter would warn, and so fail


def test_a_figure_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "gap.png"
    path.write_bytes(b"old")
    write_figure(path, lambda axes: draw_gap(axes, gap_result()))
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()

    def fail(axes: Axes) -> Axes:
        raise RuntimeError("cannot draw")

    with pytest.raises(RuntimeError, match="cannot draw"):
        write_figure(path, fail)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["gap.png"]
