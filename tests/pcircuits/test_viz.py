"""Pictures: what is drawn is what is there, at the right size, and nothing is left behind."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

import pcircuits as pc
from pcircuits import viz
from pcircuits.errors import EvidenceError, ParameterError, StructureError
from pcircuits.viz.counts import edge_counts
from pcircuits.viz.layered import Extent, layered_layout
from pcircuits.viz.subject import Subject
from tests.support.circuits import circuits, parameters_of
from tests.support.evidence import evidence_of

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(6.0, 4.0), layout="constrained").add_subplot()


def sprinkler() -> pc.Circuit:
    """P(season) P(sprinkler | season) P(rain | season), with the season as indicators."""
    branches = [
        pc.Product(
            pc.Input(0, num_units=1, num_categories=2, supports=((season,),)),
            pc.Input(1, num_units=1, num_categories=2, name=f"sprinkler|{season}"),
            pc.Input(2, num_units=1, num_categories=2, name=f"rain|{season}"),
            name=f"season {season}",
        )
        for season in range(2)
    ]
    return pc.Circuit(pc.Sum(*branches, num_units=1, name="root"))


def sprinkler_model() -> pc.CircuitModel:
    model = pc.CircuitModel(sprinkler())
    model.set_probabilities(
        {
            "root": torch.tensor([0.25, 0.75]),
            "sprinkler|0": torch.tensor([[0.6, 0.4]]),
            "sprinkler|1": torch.tensor([[0.9, 0.1]]),
            "rain|0": torch.tensor([[0.95, 0.05]]),
            "rain|1": torch.tensor([[0.2, 0.8]]),
        }
    )
    return model


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def edge_lines(axes: Axes) -> LineCollection:
    [lines] = [c for c in axes.collections if c.get_gid() == "edges"]
    assert isinstance(lines, LineCollection)
    return lines


def symbols(axes: Axes) -> dict[str, int]:
    kinds = [patch.get_gid() for patch in axes.patches]
    return {kind: kinds.count(kind) for kind in ("input", "product", "sum")}


def overlapping_texts(axes: Axes) -> list[tuple[str, str]]:
    """Pairs of texts of one axes that cover each other once drawn."""
    figure = axes.get_figure(root=True)
    figure.canvas.draw()
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()] if axes.axison else []
    boxes = [
        (text.get_text(), text.get_window_extent().shrunk(0.9, 0.8))
        for text in (*axes.texts, *ticks)
        if text.get_text()
    ]
    return [(a, b) for (a, x), (b, y) in itertools.combinations(boxes, 2) if x.overlaps(y)]


# The circuit.


def test_draw_shows_every_unit_of_a_small_circuit(axes: Axes) -> None:
    model = sprinkler_model()

    found = viz.draw(model, variable_names=["season", "sprinkler", "rain"], ax=axes)

    assert found is axes
    assert symbols(axes) == {"input": 6, "product": 2, "sum": 1}
    assert len(edge_lines(axes).get_segments()) == 8
    shown = texts(axes)
    assert [t for t in shown if t in ("0.25", "0.75")] == ["0.25", "0.75"]
    assert {"season = 0", "season = 1", "rain\n.20  .80", "sprinkler\n.60  .40"} <= set(shown)
    assert "season 0" in shown and shown.count("+") == 1 and shown.count("×") == 2
    assert isinstance(next(p for p in axes.patches if p.get_gid() == "sum"), Circle)
    assert isinstance(next(p for p in axes.patches if p.get_gid() == "input"), FancyBboxPatch)


def test_a_circuit_alone_has_no_weights_and_names_can_be_left_out(axes: Axes) -> None:
    viz.draw(sprinkler(), names=False, ax=axes)
    assert not [t for t in axes.texts if t.get_gid() in ("edge label", "caption")]
    assert "X1" in texts(axes)


def test_weights_can_be_left_out(axes: Axes) -> None:
    viz.draw(sprinkler_model(), weights=False, ax=axes)
    assert not [t for t in axes.texts if t.get_gid() == "edge label"]
    assert "X1" in texts(axes)


def test_edges_of_weight_zero_and_what_hangs_on_them_are_left_out(axes: Axes) -> None:
    model = sprinkler_model()
    model.set_probabilities({"root": torch.tensor([1.0, 0.0])})
    viz.draw(model, ax=axes)
    assert symbols(axes) == {"input": 3, "product": 1, "sum": 1}
    assert len(edge_lines(axes).get_segments()) == 4


def test_nodes_are_symbols_for_all_of_their_units(axes: Axes) -> None:
    circuit = pc.families.hmm(5, num_states=3, num_categories=2)
    viz.draw(circuit, detail="nodes", ax=axes)
    assert symbols(axes) == {"input": 5, "product": 4, "sum": 5}
    assert len(edge_lines(axes).get_segments()) == sum(len(n.children) for n in circuit.nodes)
    assert "X2\n3 units" in texts(axes) and "step_1\n3 units" in texts(axes)


@given(st.data())
def test_any_circuit_can_be_drawn(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    parameters = data.draw(parameters_of(circuit, per_example=False, zeros=False))
    axes = Figure().add_subplot()
    viz.draw(pc.WeightedCircuit(circuit, parameters), detail="nodes", ax=axes)
    assert sum(symbols(axes).values()) == len(circuit.nodes)
    assert len(edge_lines(axes).get_segments()) == sum(len(n.children) for n in circuit.nodes)


def test_what_is_large_is_drawn_as_its_plan(axes: Axes) -> None:
    viz.draw(pc.families.binary_tree(64, 8, 2), ax=axes)
    plan = pc.compile_circuit(pc.families.binary_tree(64, 8, 2))
    assert sum(symbols(axes).values()) == len(plan.layers)
    assert "inputs\n64 folds × 8 units" in texts(axes)


def test_repeated_layers_are_drawn_once_in_a_frame(axes: Axes) -> None:
    viz.draw_plan(pc.compile_circuit(pc.families.hmm(32, 4, 2)), ax=axes)
    [frame] = [patch for patch in axes.patches if patch.get_gid() == "frame"]
    assert frame.get_linestyle() != "solid"
    assert "30 times" in texts(axes)
    assert sum(symbols(axes).values()) == 6  # of 64 layers
    assert axes.get_title().startswith("64 layers")


def test_a_plan_of_many_different_layers_leaves_the_middle_out(axes: Axes) -> None:
    node: pc.Input | pc.Sum = pc.Input(0, num_units=3, num_categories=2)
    for size in (*range(4, 90), 1):
        node = pc.Sum(node, num_units=size)
    viz.draw_plan(pc.compile_circuit(pc.Circuit(node)), ax=axes)
    assert sum(symbols(axes).values()) == 41
    assert "48 more layers" in texts(axes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: viz.draw(sprinkler_model()),
        lambda: viz.draw(pc.CircuitModel(pc.families.hmm(3, 2, 3))),
        lambda: viz.draw(pc.families.hmm(8, 4, 3)),
        lambda: viz.draw(pc.families.hmm(32, 4, 3)),
        lambda: viz.draw(pc.CircuitModel(pc.families.mixture(4, 3, 2))),
        lambda: viz.regions(pc.families.binary_tree(8, 2, 2)),
        lambda: viz.marginals(pc.CircuitModel(pc.families.hmm(40, 2, 30))),
        lambda: viz.dependencies(
            pc.CircuitModel(pc.families.hmm(12, 2, 2)),
            variable_names=[f"a long name {i}" for i in range(12)],
        ),
        lambda: viz.dependency_graph(pc.CircuitModel(pc.families.hmm(30, 2, 2))),
        lambda: viz.transition(pc.CircuitModel(pc.families.hmm(3, 90, 2))),
    ],
)
def test_no_label_covers_another(make: Callable[[], Axes]) -> None:
    assert overlapping_texts(make()) == []


def test_the_picture_is_the_same_every_time() -> None:
    first, second = (viz.draw(sprinkler_model(), ax=Figure().add_subplot()) for _ in range(2))
    assert texts(first) == texts(second)
    lines = (edge_lines(axes).get_segments() for axes in (first, second))
    for a, b in zip(*lines, strict=True):
        np.testing.assert_array_equal(a, b)


def test_signs_of_formulas_in_names_are_drawn_as_they_are(axes: Axes) -> None:
    viz.draw(sprinkler(), variable_names=["$a$", "b_1", "c"], ax=axes)
    axes.get_figure().canvas.draw()
    assert r"\$a\$ = 0" in texts(axes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ax: viz.draw("circuit", ax=ax), "found str"),
        (lambda ax: viz.draw(sprinkler(), detail="all", ax=ax), "found 'all'"),
        (lambda ax: viz.draw(sprinkler(), variable_names=["a"], ax=ax), "3 variable names"),
        (
            lambda ax: viz.draw(pc.families.hmm(9, 99, 2), detail="units", ax=ax),
            "expected at most 600",
        ),
        (lambda ax: viz.flows(sprinkler(), pc.Evidence(), ax=ax), "circuit alone"),
        (
            lambda ax: viz.flows(pc.CircuitModel(pc.families.hmm(99, 2, 2)), pc.Evidence(), ax=ax),
            "too many",
        ),
        (lambda ax: viz.regions(pc.families.hmm(300, 2, 2), ax=ax), "299 partitions"),
        (lambda ax: viz.circuit_html("x"), "expected a Circuit"),
        (lambda ax: viz.model_html(sprinkler()), "expected a CircuitModel"),
        (lambda ax: viz.plan_html(sprinkler()), "expected a Plan"),
        (lambda ax: viz.history_html([]), "expected a History"),
    ],
)
def test_wrong_subjects(call: Callable[[Axes | None], Axes], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        call(None)
    assert pyplot.get_fignums() == []


# The layout.


@st.composite
def graphs(draw: Callable[[st.SearchStrategy], object]) -> tuple[int, list[tuple[int, int]]]:
    size = draw(st.integers(1, 12))
    edges = [
        (draw(st.integers(0, child - 1)), child)
        for child in range(1, size)
        for _ in range(draw(st.integers(1, 2)))
    ]
    return size, sorted(set(edges))


@given(graphs(), st.lists(st.floats(0.1, 2.0), min_size=12, max_size=12))
def test_layout_keeps_children_below_and_neighbours_apart(
    graph: tuple[int, list[tuple[int, int]]], widths: list[float]
) -> None:
    size, edges = graph
    extents = [Extent(width, width / 2) for width in widths[:size]]
    layout = layered_layout(size, edges, extents, gap=0.3)
    for parent, child in edges:
        assert layout.depths[parent] < layout.depths[child]
    for a, b in itertools.combinations(range(size), 2):
        if layout.depths[a] == layout.depths[b]:
            low, high = sorted((a, b), key=lambda v: layout.places[v])
            room = extents[low].after + 0.3 + extents[high].before
            assert layout.places[high] - layout.places[low] >= room - 1e-9
    for (parent, child), bends in zip(edges, layout.bends, strict=True):
        depths = list(range(layout.depths[parent] + 1, layout.depths[child]))
        assert [depth for depth, _ in bends] == depths


def test_layout_of_a_tree_has_no_crossing() -> None:
    edges = [(0, 2), (0, 1), (1, 5), (2, 3), (1, 6), (2, 4)]
    layout = layered_layout(7, edges, [Extent(0.1, 0.1)] * 7, gap=0.1)
    for (a, b), (c, d) in itertools.combinations(edges, 2):
        if layout.depths[a] == layout.depths[c]:
            upper = layout.places[a] - layout.places[c]
            assert upper * (layout.places[b] - layout.places[d]) >= 0
    assert layout.places[0] == pytest.approx((layout.places[1] + layout.places[2]) / 2)


# Flows.


@given(st.data())
def test_counts_of_edges_add_up_to_the_librarys_flows(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    parameters = data.draw(parameters_of(circuit, per_example=False, zeros=False))
    evidence = data.draw(evidence_of(circuit, batch_size=3, zeros=False))
    subject = Subject.of(pc.WeightedCircuit(circuit, parameters))
    plan = pc.compile_circuit(circuit)
    try:
        expected, _ = pc.flows(plan, parameters, evidence)
    except EvidenceError:
        with pytest.raises(EvidenceError, match="probability zero"):
            edge_counts(subject, evidence)
        return

    counts = edge_counts(subject, evidence)

    found = {name: torch.zeros(shape).double() for name, shape in plan.parameter_shapes.items()}
    for node, weights in counts.weights.items():
        name = circuit.parameter_names[node]
        found[name] += weights.reshape(found[name].shape)
    rows = {name: torch.zeros(shape).double() for name, shape in plan.parameter_shapes.items()}
    for node in circuit.nodes:
        if isinstance(node, pc.Input):
            rows[circuit.parameter_names[node]] += counts.units[node][:, None]
    for node in circuit.nodes:
        if isinstance(node, pc.Sum):
            name = circuit.parameter_names[node]
            torch.testing.assert_close(found[name], expected[name].double(), rtol=1e-9, atol=1e-9)
        elif isinstance(node, pc.Input):
            name = circuit.parameter_names[node]
            total = expected[name].double().sum(-1)
            torch.testing.assert_close(rows[name][:, 0], total, rtol=1e-9, atol=1e-9)


def test_widths_are_proportional_to_counts(axes: Axes) -> None:
    axes.get_figure().set_size_inches(20, 20)  # room enough: nothing is shrunk
    model = sprinkler_model()
    values = torch.tensor([[0, 0, 0], [1, 0, 1], [1, 1, 1], [1, 0, 0]])
    viz.flows(model, values, ax=axes)
    # Root, then both branches to three inputs each: season 0 is seen once, season 1 three times.
    widths = edge_lines(axes).get_linewidths()
    np.testing.assert_allclose(np.array(widths) / max(widths), [1 / 3, 1, *[1] * 3, *[1 / 3] * 3])
    labels = [t.get_text() for t in axes.texts if t.get_gid() == "edge label"]
    assert labels == ["1", "3", *["3"] * 3, *["1"] * 3]
    assert axes.get_title() == "expected counts of 4 examples"


def test_flows_of_tied_weights_are_counted_edge_by_edge(axes: Axes) -> None:
    model = pc.CircuitModel(pc.families.hmm(4, 3, 2), seed=3)
    viz.flows(model, model.sample(5), detail="nodes", ax=axes)
    labels = [t.get_text() for t in axes.texts if t.get_gid() == "edge label"]
    assert labels == ["5"] * 10


def test_flows_need_possible_evidence_that_fits() -> None:
    model = sprinkler_model()
    model.set_probabilities({"root": torch.tensor([1.0, 0.0])})
    with pytest.raises(EvidenceError, match="probability zero"):
        viz.flows(model, torch.tensor([[1, 0, 0]]))
    with pytest.raises(EvidenceError, match="4 variables"):
        viz.flows(model, torch.zeros(1, 4, dtype=torch.long))
    assert pyplot.get_fignums() == []


# Variables.


def test_marginals_of_binary_variables_are_bars(axes: Axes) -> None:
    model = sprinkler_model()
    evidence = pc.Evidence(
        torch.tensor([[0, 1, 0], [1, 0, 0]]), torch.tensor([[0, 0, 0], [1, 0, 0]]).bool()
    )
    viz.marginals(model, evidence, row=1, variable_names=["s", "p", "r"], ax=axes)
    expected = model.marginals(evidence)[1, 1:, 1].tolist()
    bars = [patch.get_height() for patch in axes.patches]
    assert bars == pytest.approx(expected) and expected == pytest.approx([0.1, 0.8])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["s", "p", "r"]
    [point] = axes.lines
    assert point.get_xydata().tolist() == [[0.0, 1.0]]
    assert axes.get_ylim() == (0.0, 1.0) and "observed" in axes.get_xlabel()


def test_marginals_of_more_categories_are_a_heat_map(axes: Axes) -> None:
    model = pc.CircuitModel(pc.families.hmm(4, 3, 5), seed=1)
    values = torch.tensor([[4, 0, 0, 0]])
    evidence = pc.Evidence(values, torch.tensor([[True, False, False, False]]))
    viz.marginals(model, evidence, category_names=list("abcde"), ax=axes)
    [image] = axes.images
    shown = np.asarray(image.get_array().filled(np.nan))
    expected = model.marginals(evidence)[0].detach().numpy()
    np.testing.assert_allclose(shown[:, 1:], expected[1:].T, rtol=1e-6)
    assert np.isnan(shown[:, 0]).all()
    assert image.get_clim() == (0.0, pytest.approx(float(expected[1:].max())))
    assert image.get_cmap().name == "cividis"
    assert axes.lines[0].get_xydata().tolist() == [[0.0, 4.0]]
    assert [t.get_text() for t in axes.get_yticklabels()] == list("abcde")
    assert image.colorbar.ax.get_ylabel() == "probability"


def test_marginals_with_names_of_their_own(axes: Axes) -> None:
    model = pc.CircuitModel(pc.families.linear_tree(3, 2, [3, 2, 2]), seed=0)
    evidence = pc.Evidence(torch.tensor([[0, 1, 0]]), torch.tensor([[False, True, False]]))
    own = [["bike", "car", "bus"], ["dry", "wet"], ["no", "yes"]]
    names = ["travel", "road", "late"]
    viz.marginals(model, evidence, variable_names=names, category_names=own, ax=axes)
    written = {text.get_text(): text.get_position() for text in axes.texts}
    assert written == {"bike": (0, 0), "car": (0, 1), "bus": (0, 2), "no": (2, 0), "yes": (2, 1)}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["travel", "road=wet", "late"]
    [image] = axes.images
    shown = np.asarray(image.get_array().filled(np.nan))
    assert np.isnan(shown[2, 2]), "a category that the variable does not have"
    assert shown[:2, 2].sum() == pytest.approx(1.0)
    with pytest.raises(StructureError, match="for 3 variables; found them for 2"):
        viz.marginals(model, category_names=own[:2])
    with pytest.raises(StructureError, match="category names of variable 1"):
        viz.marginals(model, category_names=[own[0], own[0], own[2]])


def test_bars_with_names_of_their_own(axes: Axes) -> None:
    model = pc.CircuitModel(pc.families.mixture(2, 2, 2), seed=0)
    own = [["dry", "wet"], ["no", "yes"]]
    viz.marginals(model, variable_names=["road", "late"], category_names=own, ax=axes)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["road=wet", "late=yes"]


def test_wrong_marginals() -> None:
    model = pc.CircuitModel(pc.families.hmm(3, 2, 3))
    with pytest.raises(StructureError, match="3"):
        viz.marginals(model, kind="bars")
    with pytest.raises(StructureError, match="'pie'"):
        viz.marginals(model, kind="pie")
    with pytest.raises(EvidenceError, match="row 2"):
        viz.marginals(model, pc.Evidence(torch.zeros(2, 3, dtype=torch.long)), row=2)
    assert pyplot.get_fignums() == []


def test_dependencies_show_the_mutual_information(axes: Axes) -> None:
    model = sprinkler_model()
    viz.dependencies(model, variable_names=["season", "sprinkler", "rain"], ax=axes)
    [image] = axes.images
    shown = np.asarray(image.get_array().filled(np.nan))
    expected = model.mutual_information()[0].detach().numpy()
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(shown[off], expected[off], rtol=1e-6, atol=1e-9)
    assert np.isnan(np.diag(shown)).all()
    assert image.get_clim()[0] == 0.0
    assert [t.get_text() for t in axes.get_xticklabels()] == ["season", "sprinkler", "rain"]
    assert image.colorbar.ax.get_ylabel() == "mutual information (nats)"


def test_dependencies_leave_out_what_is_observed(axes: Axes) -> None:
    evidence = pc.Evidence(torch.zeros(1, 3).long(), torch.tensor([[False, True, False]]))
    viz.dependencies(sprinkler_model(), evidence, ax=axes)
    shown = np.asarray(axes.images[0].get_array().filled(np.nan))
    assert np.isnan(shown[1]).all() and np.isnan(shown[:, 1]).all() and shown[0, 2] > 0


def test_dependency_graph_draws_the_strongest_pairs(axes: Axes) -> None:
    model = sprinkler_model()
    information = model.mutual_information()[0].detach()
    viz.dependency_graph(model, num_edges=2, ax=axes)
    pairs = sorted(((float(information[i, j]), (i, j)) for i, j in [(0, 1), (0, 2), (1, 2)]))
    strongest = [value for value, _ in pairs[:0:-1]]
    widths = edge_lines(axes).get_linewidths()
    np.testing.assert_allclose(
        np.array(widths) / widths[0], np.array(strongest) / strongest[0], rtol=1e-5
    )
    assert texts(axes) == ["X0", "X1", "X2"]
    with pytest.raises(StructureError, match="num_edges"):
        viz.dependency_graph(model, num_edges=0)


def test_independent_variables_have_no_edges(axes: Axes) -> None:
    model = pc.CircuitModel(pc.families.factorized(3, 2)).double()
    evidence = pc.Evidence(torch.zeros(1, 3).long())
    viz.dependency_graph(model, evidence, ax=axes)
    assert edge_lines(axes).get_segments() == [] and axes.get_title() == ""


# Hidden Markov models, learning, samples.


def test_transition_and_emission_show_the_tables() -> None:
    model = pc.CircuitModel(pc.families.hmm(5, 3, 6), seed=2)
    tables = model.probabilities()
    first, second = (Figure().add_subplot() for _ in range(2))
    viz.transition(model, ax=first)
    viz.emission(model, token_names=["a", " ", "\n", "$", "e", "f"], ax=second)
    np.testing.assert_allclose(first.images[0].get_array(), tables["transition"], rtol=1e-6)
    np.testing.assert_allclose(second.images[0].get_array(), tables["emission"], rtol=1e-6)
    labels = [t.get_text() for t in second.get_xticklabels()]
    assert labels == ["a", "␣", "⏎", r"\$", "e", "f"]
    assert (first.get_ylabel(), first.get_xlabel()) == ("state", "next state")


def test_emission_shows_the_tokens_that_are_emitted_most(axes: Axes) -> None:
    model = pc.CircuitModel(pc.families.hmm(2, 2, 5))
    rows = torch.tensor([[0.1, 0.5, 0.1, 0.2, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]])
    model.set_probabilities({"emission": rows})
    viz.emission(model, num_tokens=2, ax=axes)
    np.testing.assert_allclose(axes.images[0].get_array(), rows[:, [1, 4]], rtol=1e-5)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "4"]
    assert "2 of 5" in axes.get_xlabel()


def test_wrong_tables() -> None:
    model = pc.CircuitModel(pc.families.hmm(3, 2, 3))
    with pytest.raises(ParameterError, match="no parameter 'moves'"):
        viz.transition(model, parameter="moves")
    with pytest.raises(ParameterError, match="not square"):
        viz.transition(model, parameter="emission")
    with pytest.raises(ParameterError, match="two axes"):
        viz.emission(model, parameter="initial")
    with pytest.raises(StructureError, match="num_tokens"):
        viz.emission(model, num_tokens=0)
    with pytest.raises(StructureError, match="expected 3 token names; found 1"):
        viz.emission(model, token_names=["a"])


def test_epochs_are_counted_in_whole_numbers(axes: Axes) -> None:
    records = [pc.Record(n, float(n), -9.0 / n, None, 0.1 * n) for n in range(1, 5)]
    viz.learning_curve(pc.History(tuple(records), "finished"), ax=axes)
    assert all(float(place).is_integer() for place in axes.get_xticks())


def test_learning_curves_are_the_histories(axes: Axes) -> None:
    first = pc.History(tuple(pc.Record(i, i, -9.0 + i, -8.0 + i, 2.0 * i) for i in (1, 2)), "")
    second = pc.History((pc.Record(1, 1, -5.0, None, 3.0),), "")
    viz.learning_curve({"one": first, "two": second}, by="seconds", ax=axes)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        "one, train": [[2.0, -8.0], [4.0, -7.0]],
        "one, valid": [[2.0, -7.0], [4.0, -6.0]],
        "two, train": [[3.0, -5.0]],
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "log-likelihood (nats a row)")
    assert axes.get_legend() is not None
    with pytest.raises(StructureError, match="empty"):
        viz.learning_curve(pc.History((), "interrupted"))
    with pytest.raises(StructureError, match="'minutes'"):
        viz.learning_curve(first, by="minutes")


def test_samples_as_images_rows_and_text() -> None:
    values = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    images, rows, text = (Figure().add_subplot() for _ in range(3))
    viz.samples(values, shape=(2, 3), ax=images)
    viz.samples(values, num_categories=4, ax=rows)
    viz.samples(values, token_names=["a", " ", "c"], ax=text)
    grid = np.asarray(images.images[0].get_array().filled(np.nan))
    np.testing.assert_array_equal(grid[:2, :3], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(grid[:2, 4:], [[2, 2, 2], [0, 0, 0]])
    np.testing.assert_array_equal(grid[3:, :3], np.ones((2, 3)))
    assert np.isnan(grid[2]).all() and np.isnan(grid[3:, 4:]).all()
    np.testing.assert_array_equal(rows.images[0].get_array(), values)
    assert rows.images[0].get_clim() == (-0.5, 3.5) and rows.images[0].get_cmap().N == 4
    assert texts(text) == ["a␣ca␣c", "cccaaa", "␣␣␣␣␣␣"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": torch.zeros(3).long()}, r"\(N, L\)"),
        ({"values": torch.zeros(1, 5).long(), "shape": (2, 3)}, "6 pixels"),
        ({"values": torch.full((1, 5), 2), "token_names": ["a"]}, "1 token names"),
        (
            {"values": torch.zeros(1, 4).long(), "token_names": ["a"], "shape": (2, 2)},
            "found both",
        ),
    ],
)
def test_wrong_samples(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        viz.samples(**arguments)
    assert pyplot.get_fignums() == []


def test_regions_are_the_scopes_and_splits_of_the_circuit(axes: Axes) -> None:
    viz.regions(pc.families.binary_tree(4, 2, 2), variable_names=list("abcd"), ax=axes)
    shown = texts(axes)
    assert {"a, b, c, d", "a, b", "c, d", "a", "b", "c", "d"} <= set(shown)
    assert symbols(axes) == {"input": 7, "product": 3, "sum": 0}
    assert len(edge_lines(axes).get_segments()) == 9


# Figures and notebooks.


@pytest.mark.parametrize(
    "call",
    [
        lambda ax: viz.draw(sprinkler_model(), ax=ax),
        lambda ax: viz.draw_plan(pc.compile_circuit(sprinkler()), ax=ax),
        lambda ax: viz.flows(sprinkler_model(), torch.zeros(1, 3).long(), ax=ax),
        lambda ax: viz.marginals(sprinkler_model(), ax=ax),
        lambda ax: viz.dependencies(sprinkler_model(), ax=ax),
        lambda ax: viz.dependency_graph(sprinkler_model(), ax=ax),
        lambda ax: viz.transition(pc.CircuitModel(pc.families.hmm(3, 2, 2)), ax=ax),
        lambda ax: viz.emission(pc.CircuitModel(pc.families.hmm(3, 2, 2)), ax=ax),
        lambda ax: viz.learning_curve(
            pc.History((pc.Record(1, 1.0, -1.0, None, 0.1),), "finished"), ax=ax
        ),
        lambda ax: viz.samples(torch.zeros(2, 4).long(), shape=(2, 2), ax=ax),
        lambda ax: viz.samples(torch.zeros(2, 4).long(), ax=ax),
        lambda ax: viz.samples(torch.zeros(2, 4).long(), token_names="ab", ax=ax),
        lambda ax: viz.regions(sprinkler(), ax=ax),
    ],
)
def test_axes_in_and_out(call: Callable[[Axes | None], Axes], axes: Axes) -> None:
    assert call(axes) is axes
    assert pyplot.get_fignums() == []
    own = call(None)
    assert pyplot.get_fignums() == [own.get_figure(root=True).number]
    own.get_figure(root=True).canvas.draw()


def test_html_is_whole_escaped_and_leaves_no_figure() -> None:
    circuit = pc.Circuit(pc.Input(0, num_units=1, num_categories=2, name="<script>"))
    for page in (viz.circuit_html(circuit), viz.model_html(pc.CircuitModel(circuit))):
        assert "<script>" not in page
        ElementTree.fromstring(page.replace("&nbsp;", " "))  # every element is closed
        assert page.count("<svg") == 1 and "http" not in page.replace("http://www.w3.org", "")
    assert "&lt;script&gt;" in viz.model_html(pc.CircuitModel(circuit))
    assert pyplot.get_fignums() == []


def cells(page: str) -> dict[str, str]:
    tree = ElementTree.fromstring(page.replace("&nbsp;", " "))
    rows = [[cell.text or "" for cell in row if cell.tag == "td"] for row in tree.iter("tr")]
    return dict(row for row in rows if len(row) == 2)


def test_plans_and_histories_show_their_figures_and_a_picture() -> None:
    plan = pc.compile_circuit(pc.families.hmm(5, 3, 4))
    shown = cells(plan._repr_html_())
    assert shown["operations a row"] == f"{plan.cost().operations:,}"
    assert shown["layers"] == str(len(plan.layers))
    records = (pc.Record(2, 1.0, -3.5, -4.25, 0.5), pc.Record(4, 2.0, -3.0, -4.5, 1.0))
    shown = cells(pc.History(records, "<b>stopped</b>")._repr_html_())
    assert shown["learning was"] == "<b>stopped</b>"
    assert shown["log-likelihood, training rows (nats)"] == "-3"
    assert (shown["best, validation rows (nats)"], shown["at epoch"]) == ("-4.25", "1")
    empty = pc.History((), "interrupted")._repr_html_()
    assert "<svg" not in empty and cells(empty)["records"] == "0"
    for page in (plan._repr_html_(), pc.History(records, "<b>")._repr_html_()):
        assert page.count("<svg") == 1 and "<b>" not in page
    assert pyplot.get_fignums() == []


def test_html_of_a_large_circuit_is_its_sizes() -> None:
    page = viz.model_html(pc.CircuitModel(pc.families.hmm(64, 4, 3, homogeneous=False)))
    assert "<svg" not in page and "<td style='text-align:right'>64</td>" in page
    assert "116 more" in page  # of 1 + 63 + 64 parameters
