"""Pictures of states, candidates, cost and comparisons: their numbers and their look."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

import pcircuits as pc
from pcircuits import viz
from pcircuits.compile.plan import operations
from pcircuits.errors import EvidenceError, FormatError, ParameterError, StructureError
from pcircuits.viz import style
from tests.support.pictures import overlapping_texts, texts_outside


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(8.0, 5.0), layout="constrained").add_subplot()


def chain(length: int = 6, states: int = 4, tokens: int = 5, seed: int = 0) -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(length, states, tokens), seed=seed)


def holes(model: pc.CircuitModel) -> pc.Evidence:
    values = model.sample(1, generator=torch.Generator().manual_seed(1))
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[0, [1, 4]] = False
    return pc.Evidence(values, observed)


def forecasts(count: int = 400, power: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    given = torch.rand(count, generator=generator)
    return given, torch.rand(count, generator=generator) < given**power


SCORES = {
    "a": torch.tensor([1.0, 2.0, 3.0, 6.0]),
    "b": torch.tensor([0.5, 1.0, 2.5, 4.0]),
    "c": torch.tensor([1.0, 2.5, 3.0, 7.5]),
}
HISTORY = pc.History(tuple(pc.Record(i, i, -9.0 + i, -9.5 + i, 1.0 * i) for i in range(1, 9)), "")
LONG = [f"a rather long token {i}" for i in range(5)]

PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "states": lambda ax: viz.states(chain(), ax=ax),
    "long states": lambda ax: viz.states(chain(), token_names=LONG, ax=ax),
    "many states": lambda ax: viz.states(chain(5, 20, 50), num_states=12, num_tokens=6, ax=ax),
    "clusters": lambda ax: viz.transition(chain(4, 30), order="clusters", ax=ax),
    "logarithms": lambda ax: viz.transition(chain(4, 120), logarithmic=True, order="use", ax=ax),
    "posterior": lambda ax: viz.posterior(chain(), holes(chain()), ax=ax),
    "long posterior": lambda ax: viz.posterior(
        chain(), holes(chain()), token_names=LONG, num_candidates=3, ax=ax
    ),
    "many holes": lambda ax: viz.candidates(
        torch.full((30, 9), 1 / 9), torch.zeros(30).long(), torch.arange(30) < 10, ax=ax
    ),
    "informative": lambda ax: viz.most_informative(chain(12), [3, 5], ax=ax),
    "calibration": lambda ax: viz.calibration(
        {"sharp": forecasts(power=2.0), "fine": forecasts()}, ax=ax
    ),
    "cost": lambda ax: viz.plan_cost(chain(40).plan, ax=ax),
    "soft cost": lambda ax: viz.plan_cost(
        pc.compile_circuit(pc.families.binary_tree(16, 8, 2)), soft=True, ax=ax
    ),
    "comparison": lambda ax: viz.comparison(SCORES, ax=ax),
    "differences": lambda ax: viz.comparison(SCORES, baseline="a", ax=ax),
    "histories": lambda ax: viz.learning_curve({"EM": HISTORY, "gradient": HISTORY}, ax=ax),
    "information": lambda ax: viz.information_map(torch.rand(40, 40), ax=ax),
    "information graph": lambda ax: viz.information_graph(torch.rand(9, 9), ax=ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_readable_and_say_what_they_show(name: str) -> None:
    axes = PICTURES[name](None)
    figure = axes.get_figure(root=True)
    assert pyplot.get_fignums() == [figure.number]
    assert overlapping_texts(figure) == []
    assert texts_outside(figure) == []
    assert axes.get_title()
    if axes.axison:
        assert axes.get_xlabel() and axes.get_ylabel()
    if axes.get_legend() is not None:
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


@pytest.mark.parametrize("name", PICTURES)
def test_axes_in_and_out(name: str, axes: Axes) -> None:
    assert PICTURES[name](axes) is axes
    assert pyplot.get_fignums() == []


def lightness(colour: str) -> float:
    """CIE L*: what is left of a colour in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_colours_can_be_told_apart_in_grey_or_by_their_markers() -> None:
    for a, b in itertools.combinations(style.COLOURS[:3], 2):
        assert abs(lightness(a) - lightness(b)) > 10
    assert len(set(style.COLOURS)) == len(set(style.MARKERS)) == len(style.COLOURS)
    assert all(lightness(colour) < 75 for colour in style.COLOURS)  # seen on white


def test_ink_is_readable_on_every_colour_of_the_scale() -> None:
    from matplotlib import colormaps

    for share in np.linspace(0, 1, 21):
        colour = colormaps[style.SEQUENTIAL](share)
        paper, ink = lightness(colour), lightness(style.ink_on(colour))
        assert abs(paper - ink) > 35


# Files.


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_saved_pictures_are_the_same_every_time(suffix: str, begins: bytes, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        axes = viz.draw(chain(3, 2, 2))
        path = viz.save(axes, tmp_path / (name + suffix))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] and contents[0].startswith(begins)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one" + suffix, "two" + suffix]


def test_legends_beside_the_axes_are_saved(tmp_path: Path) -> None:
    axes = Figure(figsize=(3.0, 3.0)).add_subplot()  # without a layout that makes room
    PICTURES["histories"](axes)
    wide = pyplot.imread(viz.save(axes, tmp_path / "a.png", dots_per_inch=50)).shape[1]
    assert wide > 160


def test_wrong_files(tmp_path: Path, axes: Axes) -> None:
    with pytest.raises(FormatError, match=r"found '.jpg'"):
        viz.save(axes, tmp_path / "a.jpg")
    with pytest.raises(FormatError, match="dots_per_inch"):
        viz.save(axes, tmp_path / "a.png", dots_per_inch=0)
    assert list(tmp_path.iterdir()) == []


# Latent states.


def test_states_show_the_likeliest_tokens_of_the_most_used_states(axes: Axes) -> None:
    model = chain(7, 4, 6, seed=5)
    use = viz.state_use(model)
    tables = model.probabilities()
    visited, now = [], tables["initial"].double()
    for _ in range(7):
        visited.append(now)
        now = now @ tables["transition"].double()
    torch.testing.assert_close(use, torch.stack(visited).mean(0))

    viz.states(model, num_states=2, num_tokens=3, token_names=list("abcdef"), ax=axes)

    chosen = use.argsort(descending=True)[:2]
    top = tables["emission"][chosen].double().topk(3, dim=1)
    np.testing.assert_allclose(axes.images[0].get_array(), top.values, rtol=1e-6)
    shown = [t.get_text() for t in axes.texts]
    assert shown == ["abcdef"[i] for i in top.indices.flatten().tolist()]
    first = f"{int(chosen[0])} ({100 * float(use[chosen[0]]):.2g} %)"
    assert axes.get_yticklabels()[0].get_text() == first


def test_transition_in_another_order_is_the_same_table_permuted() -> None:
    model = chain(4, 8)
    table = model.probabilities()["transition"].numpy()
    for order in ("clusters", "use"):
        axes = viz.transition(model, order=order, ax=Figure().add_subplot())
        places = [int(t.get_text()) for t in axes.get_yticklabels()]
        assert sorted(places) == list(range(8))
        np.testing.assert_allclose(axes.images[0].get_array(), table[places][:, places], rtol=1e-5)


def test_clusters_put_like_states_together() -> None:
    model = chain(4, 6)
    kinds = torch.tensor([0, 1, 0, 1, 0, 1])
    table = torch.where(kinds[:, None] == kinds, 0.01 / 3, 0.99 / 3)
    model.set_probabilities({"transition": table})
    axes = viz.transition(model, order="clusters", ax=Figure().add_subplot())
    order = [int(kinds[int(t.get_text())]) for t in axes.get_yticklabels()]
    assert order in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_wrong_states() -> None:
    with pytest.raises(StructureError, match="'size'"):
        viz.transition(chain(), order="size")
    with pytest.raises(ParameterError, match="no parameter 'transition'"):
        viz.state_use(pc.CircuitModel(pc.families.mixture(3, 2, 2)))
    with pytest.raises(StructureError, match="num_tokens"):
        viz.states(chain(), num_tokens=0)
    with pytest.raises(StructureError, match=r"use \(4,\)"):
        viz.states(chain(), use=torch.ones(3))
    assert pyplot.get_fignums() == []


# Holes, and what tells about them.


def test_posterior_bars_are_the_marginals(axes: Axes) -> None:
    model, evidence = chain(), holes(chain())
    viz.posterior(model, evidence, num_candidates=3, token_names=list("abcde"), ax=axes)
    top = model.marginals(evidence)[0, [1, 4]].detach().double().topk(3, dim=1)
    widths = np.array([patch.get_width() for patch in axes.patches])
    np.testing.assert_allclose(widths / widths[0], (top.values / top.values[0, 0]).flatten(), 1e-5)
    shown = [t.get_text() for t in axes.texts]
    assert [t for t in shown if t in "abcde"] == ["abcde"[i] for i in top.indices.flatten()]
    assert "position 1" in shown and "position 4" in shown
    seen = "abcde"[int(evidence.values[0, 0])]
    assert any(t.startswith(f"{seen}[■]") for t in shown)


def test_most_informative_bars_are_the_query(axes: Axes) -> None:
    model = chain(5)
    viz.most_informative(model, 2, num_shown=3, ax=axes)
    nats = model.most_informative(2).information[0].detach().double()
    expected = nats.sort(descending=True).values[:3]
    np.testing.assert_allclose([p.get_width() for p in axes.patches], expected, rtol=1e-5)
    best = int(model.most_informative(2).variable[0])
    assert axes.get_yticklabels()[0].get_text() == f"X{best}"
    assert "X2" in axes.get_title() and axes.yaxis_inverted()


def test_wrong_holes() -> None:
    model = chain()
    seen = torch.zeros(1, 6).long()
    with pytest.raises(EvidenceError, match="every token observed"):
        viz.posterior(model, pc.Evidence(seen))
    with pytest.raises(EvidenceError, match="found none"):
        viz.posterior(model, pc.Evidence())
    with pytest.raises(StructureError, match="num_candidates"):
        viz.posterior(model, holes(model), num_candidates=0)
    with pytest.raises(StructureError, match=r"\(L, V\)"):
        viz.candidates(torch.ones(3, 2), torch.zeros(4), torch.zeros(3).bool())
    with pytest.raises(StructureError, match="num_shown"):
        viz.most_informative(model, 1, num_shown=0)
    assert pyplot.get_fignums() == []


# Cost, calibration, comparison.


@pytest.mark.parametrize("soft", [False, True])
def test_cost_is_of_every_layer(soft: bool, axes: Axes) -> None:
    plan = chain(9).plan
    viz.plan_cost(plan, soft=soft, ax=axes)
    found = {round(p.get_x() + p.get_width() / 2): p.get_height() for p in axes.patches}
    expected = {i: operations(layer, soft=soft) for i, layer in enumerate(plan.layers)}
    assert found == expected
    total = plan.cost().soft_operations if soft else plan.cost().operations
    assert f"{total:,}" in axes.get_title()


def test_calibration_counts_bins_of_equal_size(axes: Axes) -> None:
    given, happened = forecasts(100)
    found = viz.Calibration.of(given, happened, 4)
    order = given.argsort()
    for i in range(4):
        part = order[25 * i : 25 * (i + 1)]
        assert found.confidence[i] == pytest.approx(float(given[part].mean()), rel=1e-6)
        share = float(happened[part].double().mean())
        assert found.frequency[i] == pytest.approx(share)
        interval = stats.binomtest(round(25 * share), 25).proportion_ci(0.95, "wilson")
        assert (found.low[i], found.high[i]) == pytest.approx((interval.low, interval.high))
    error = np.abs(found.confidence - found.frequency).mean()
    assert found.error == pytest.approx(error)
    viz.calibration((given, happened), num_bins=4, ax=axes)
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), found.frequency)


def test_comparison_draws_students_intervals(axes: Axes) -> None:
    viz.comparison(SCORES, baseline="a", confidence=0.9, ax=axes)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["c", "b"]
    [container] = axes.containers
    for place, name in enumerate(("c", "b")):
        difference = (SCORES[name] - SCORES["a"]).double()
        low, high = stats.t.interval(
            0.9, 3, float(difference.mean()), float(difference.std()) / math.sqrt(4)
        )
        segment = container.lines[2][0].get_segments()[place]
        assert [x for x, _ in segment] == pytest.approx([low, high])
    assert "less a" in axes.get_title() and "90 %" in axes.get_title()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.comparison({}), "models to compare"),
        (lambda: viz.comparison({"a": torch.ones(3), "b": torch.ones(4)}), "same N"),
        (lambda: viz.comparison({"a": torch.ones(1)}), "N >= 2"),
        (lambda: viz.comparison(SCORES, baseline="d"), "found 'd'"),
        (lambda: viz.comparison(SCORES, confidence=95), "between 0 and 1"),
        (lambda: viz.comparison({"a": torch.tensor([1.0, torch.inf])}), "finite"),
        (lambda: viz.calibration((torch.ones(3), torch.ones(2).bool())), "N >= 1"),
        (lambda: viz.calibration((torch.full((3,), 1.5), torch.ones(3).bool())), r"\[0, 1\]"),
        (lambda: viz.calibration({}), "found none"),
        (lambda: viz.calibration(forecasts(), num_bins=0), "num_bins"),
        (lambda: viz.information_map(torch.ones(2, 3)), r"\(L, L\)"),
        (lambda: viz.information_map(torch.ones(2, 2), observed=torch.ones(3)), r"\(2,\)"),
    ],
)
def test_wrong_numbers(call: Callable[[], Axes], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        call()
    assert pyplot.get_fignums() == []
