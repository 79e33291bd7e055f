"""Pictures of measurements and generations: their numbers and their look."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from codd import viz
from codd.coupling.distribution import TokenDistribution
from codd.decoding.records import Generation
from codd.errors import EvaluationError
from codd.evaluation.few_step import FewStepCell, FewStepProtocol, FewStepResult
from codd.evaluation.gap import GapProtocol, GapResult
from codd.evaluation.quality import TextQuality
from codd.evaluation.statistics import Estimate
from codd.training.run_state import HistoryEntry
from pcircuits.viz.style import COLOURS
from tests.support.coupled import TEXT, tiny_model
from tests.support.pictures import overlapping_texts, texts_outside

PACES, ORDERS, LABELS = (1, 2, 4), ("random", "low_confidence"), ("factorised", "copula")


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    yield
    pyplot.close("all")


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
    assert viz.gap(result, ax=axes) is axes
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
    viz.gap(result, ax=axes)
    bars = axes.containers[0].lines[2][0].get_segments()
    assert all(low[1] == high[1] for low, high in bars)


def test_few_step_shows_every_variant_in_every_order(axes: Axes) -> None:
    result = few_step_result()
    assert viz.few_step(result, ax=axes) is axes
    drawn = curves(axes)
    assert len(drawn) == 4
    cells = [result.cells["copula", "low_confidence", pace] for pace in PACES]
    expected = [cell.quality.score.value for cell in cells]
    assert list(drawn["copula, low confidence"][1]) == pytest.approx(expected)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert "nats" in axes.get_ylabel()
    assert_legend_beside_data(axes)


def test_variants_differ_in_colour_and_orders_in_line_style(axes: Axes) -> None:
    viz.few_step(few_step_result(), ax=axes)
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    first, second = (lines[f"copula, {order}"] for order in ("random", "low confidence"))
    assert first.get_color() == second.get_color() in COLOURS
    assert first.get_linestyle() != second.get_linestyle()
    assert lines["factorised, random"].get_color() != first.get_color()


MODEL = tiny_model()


def generation(**options: object) -> Generation:
    return MODEL.generate_tokens(
        TEXT[:8], new_tokens=8, steps=4, seed=2, record_history=True, log_probs=True, **options
    )


def masked_joint() -> TokenDistribution:
    tokens = MODEL.vocabulary.encode(TEXT[:16])[None]
    tokens[0, [9, 10, 13]] = MODEL.mask_id
    return MODEL.joint(tokens)


ENTRIES = [HistoryEntry(i, 3.0 / i, 3.1 / i, 2.0 * i) for i in range(1, 6)]
TRUE = MODEL.vocabulary.encode(TEXT[8:16])[None]


def errors(ax: Axes | None) -> Axes:
    joint = masked_joint()
    log_probs = {"copula": viz.position_log_probs(joint, TRUE)[0]}
    return viz.position_errors(log_probs, TRUE[0], ~joint.observed[0], MODEL.vocabulary, ax=ax)


PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "gap": lambda ax: viz.gap(gap_result(), ax=ax),
    "few steps": lambda ax: viz.few_step(few_step_result(), ax=ax),
    "training": lambda ax: viz.training({"a": ENTRIES, "b": ENTRIES}, by="seconds", ax=ax),
    "filling": lambda ax: viz.filling(generation(), MODEL.vocabulary, ax=ax),
    "confidence": lambda ax: viz.filling(
        generation(), MODEL.vocabulary, colour="confidence", ax=ax
    ),
    "dependencies": lambda ax: viz.dependencies(masked_joint(), MODEL.vocabulary, ax=ax),
    "candidates": lambda ax: viz.candidates(masked_joint(), MODEL.vocabulary, ax=ax),
    "errors": errors,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_readable_and_say_what_they_show(name: str) -> None:
    axes = PICTURES[name](None)
    figure = axes.get_figure(root=True)
    assert pyplot.get_fignums() == [figure.number]
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []
    assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
    if axes.get_legend() is not None:
        assert_legend_beside_data(axes)
    given = Figure(figsize=(8, 5), layout="constrained").add_subplot()
    assert PICTURES[name](given) is given
    assert pyplot.get_fignums() == [figure.number]


def test_dependencies_show_masked_pairs_only(axes: Axes) -> None:
    joint = masked_joint()
    with torch.no_grad():
        information = joint.mutual_information()[0].double()
    viz.dependencies(joint, MODEL.vocabulary, ax=axes)
    shown = axes.images[0].get_array().filled(math.nan)
    masked = {1, 2, 5}
    for i in range(8):
        for j in range(8):
            if i != j and {i, j} <= masked:
                assert shown[i, j] == pytest.approx(float(information[i, j]), abs=1e-6)
            else:
                assert math.isnan(shown[i, j])
    labels = [text.get_text() for text in axes.get_xticklabels()]
    expected = [" " if i in masked else c for i, c in enumerate(TEXT[8:16])]
    assert labels == [{" ": "■" if i in masked else "␣"}.get(c, c) for i, c in enumerate(expected)]
    assert axes.get_xticklabels()[1].get_color() != axes.get_xticklabels()[0].get_color()


def test_filling_shows_the_tokens_of_every_step_and_when_each_was_fixed(axes: Axes) -> None:
    found = generation()
    viz.filling(found, MODEL.vocabulary, ax=axes)
    shades = axes.images[0].get_array()
    for step, record in enumerate(found.history):
        known = record.tokens[0] != MODEL.mask_id
        assert (~shades.mask[step] == known.numpy()).all()
        expected = found.fixed_at[0][known] + 1
        assert shades[step][known.numpy()].tolist() == expected.tolist()
    written = "".join(text.get_text() for text in axes.texts[-8:])
    completion = MODEL.vocabulary.decode(found.completions[0])
    assert written == completion.replace(" ", "␣").replace("\ufffd", "·")
    fresh = sum(int(record.fixed.sum()) for record in found.history)
    assert sum(patch.get_gid() == "fresh" for patch in axes.patches) == fresh == 8


def test_filling_by_confidence_is_the_probability_of_its_step(axes: Axes) -> None:
    found = generation()
    viz.filling(found, MODEL.vocabulary, colour="confidence", ax=axes)
    last = axes.images[0].get_array()[-1]
    assert last.tolist() == pytest.approx(found.log_probs[0].exp().tolist())


@pytest.mark.parametrize("coupling", ["copula", "factorised"])
def test_log_probs_of_positions_add_up_to_that_of_the_text(coupling: str) -> None:
    tokens = MODEL.vocabulary.encode(TEXT[:16]).repeat(2, 1)
    tokens[0, [9, 10, 13]] = tokens[1, 12:] = MODEL.mask_id
    joint = MODEL.joint(tokens, coupling=coupling)
    true = TRUE.repeat(2, 1)
    found = viz.position_log_probs(joint, true)
    expected = joint.log_prob(true).double()
    torch.testing.assert_close(found.sum(1), expected, rtol=1e-4, atol=1e-4)
    assert bool((found[joint.observed] == 0).all()) and bool((found[~joint.observed] < 0).all())
    if coupling == "factorised":
        alone = joint.marginals().gather(2, true[..., None])[..., 0].double().log()
        torch.testing.assert_close(found, alone)


def test_wrong_pictures(axes: Axes) -> None:
    bare = MODEL.generate_tokens(TEXT[:8], new_tokens=4, steps=2)
    with pytest.raises(EvaluationError, match="record_history"):
        viz.filling(bare, MODEL.vocabulary, ax=axes)
    with pytest.raises(EvaluationError, match="row: expected 0 to 0"):
        viz.filling(generation(), MODEL.vocabulary, row=1, ax=axes)
    with pytest.raises(EvaluationError, match="'mood'"):
        viz.filling(generation(), MODEL.vocabulary, colour="mood", ax=axes)
    with pytest.raises(EvaluationError, match="row: expected 0 to 0"):
        viz.dependencies(masked_joint(), MODEL.vocabulary, row=-1, ax=axes)
    with pytest.raises(EvaluationError, match="empty"):
        viz.training([], ax=axes)
    with pytest.raises(EvaluationError, match="'epoch'"):
        viz.training(ENTRIES, by="epoch", ax=axes)
    with pytest.raises(EvaluationError, match=r"\(W,\)"):
        viz.position_errors({"a": torch.ones(3)}, TRUE[0], TRUE[0] > 0, MODEL.vocabulary, ax=axes)
