"""Chow-Liu trees and the hidden trees above them, against brute force and networkx."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import pcircuits as pc

SIZES = (2, 3, 4, 2, 3)
DATA = Path(os.environ.get("DENSITY_DATA", "data/debd"))


def correlated_rows(seed: int, num_rows: int = 60) -> np.ndarray:
    random = np.random.default_rng(seed)
    common = random.integers(0, 12, size=num_rows)
    columns = [
        np.where(random.random(num_rows) < 0.6, common % size, random.integers(0, size, num_rows))
        for size in SIZES
    ]
    return np.stack(columns, axis=1)


def information_by_hand(
    rows: np.ndarray, i: int, j: int, pseudocount: float, weights: Sequence[float]
) -> float:
    counts = np.full((SIZES[i], SIZES[j]), pseudocount)
    for row, weight in zip(rows, weights, strict=True):
        counts[row[i], row[j]] += weight
    joint = counts / counts.sum()
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return sum(p * np.log(p / q) for p, q in zip(joint.ravel(), outer.ravel(), strict=True) if p)


@pytest.mark.parametrize("pseudocount", [0.0, 1.0])
def test_mutual_information_is_that_of_smoothed_weighted_counts(pseudocount: float) -> None:
    rows, weights = correlated_rows(0), np.random.default_rng(1).uniform(0, 3, 60)

    found = pc.pairwise_mutual_information(
        torch.from_numpy(rows), weights=weights, pseudocount=pseudocount, num_categories=SIZES
    )

    for i, j in itertools.combinations(range(len(SIZES)), 2):
        expected = information_by_hand(rows, i, j, pseudocount, weights)
        assert found[i, j] == found[j, i] == pytest.approx(expected, abs=1e-12)
    assert not found.diagonal().any()


def test_a_row_counts_for_the_pairs_that_it_has() -> None:
    rows = correlated_rows(2)
    observed = np.random.default_rng(3).random(rows.shape) < 0.7

    found = pc.pairwise_mutual_information(
        np.where(observed, rows, -7), observed=observed, num_categories=SIZES
    )

    for i, j in itertools.combinations(range(len(SIZES)), 2):
        both = rows[observed[:, i] & observed[:, j]]
        expected = information_by_hand(both, i, j, 1.0, [1.0] * len(both))
        assert found[i, j] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_tree_is_a_maximum_spanning_tree_rooted_at_its_centre(seed: int) -> None:
    random = np.random.default_rng(seed)
    length = int(random.integers(1, 14))
    scores = random.choice([0.0, 0.1, 0.5, 2.0], size=(length, length)) * random.random()
    scores = scores + scores.T

    parents = pc.spanning_tree(scores)

    edges = [(parent, i) for i, parent in enumerate(parents) if parent >= 0]
    tree = nx.Graph(edges)
    tree.add_nodes_from(range(length))
    assert nx.is_tree(tree) and parents.count(-1) == 1
    graph = nx.Graph()
    graph.add_nodes_from(range(length))
    pairs = itertools.combinations(range(length), 2)
    graph.add_weighted_edges_from((i, j, scores[i, j]) for i, j in pairs)
    best = nx.maximum_spanning_tree(graph).size("weight")
    assert sum(scores[edge] for edge in edges) == pytest.approx(best)
    assert parents.index(-1) in nx.center(tree)


def test_independent_and_constant_variables_are_joined_too() -> None:
    rows = torch.zeros(10, 4, dtype=torch.long)
    rows[:5, 0] = rows[:5, 2] = 1

    tree = pc.chow_liu_tree(rows, pseudocount=0.0)

    assert len(tree.edges) == 3
    assert {0, 2} in [set(edge) for edge in tree.edges]
    assert tree.score == pytest.approx(np.log(2))
    assert tree.num_categories == (2, 2, 2, 2)
    assert tree.parents[tree.root] == -1


def log_likelihood(weighted: pc.WeightedCircuit, rows: np.ndarray) -> np.ndarray:
    plan = pc.compile_circuit(weighted.circuit)
    values = torch.from_numpy(rows)
    return pc.queries.log_likelihood(plan, weighted.log_weights, values).numpy()


def worlds(sizes: Sequence[int]) -> np.ndarray:
    return np.array(list(itertools.product(*(range(size) for size in sizes))))


def test_a_chow_liu_circuit_is_its_conditional_frequencies() -> None:
    rows = correlated_rows(4)
    parents = pc.chow_liu_tree(rows, num_categories=SIZES, pseudocount=0.5).parents

    found = log_likelihood(pc.chow_liu(rows, num_categories=SIZES, pseudocount=0.5), rows)

    expected = np.zeros(len(rows))
    for n, row in enumerate(rows):
        for i, parent in enumerate(parents):
            same = rows if parent < 0 else rows[rows[:, parent] == row[parent]]
            added = 0.5 * max(SIZES) if parent < 0 else 0.5
            count = (same[:, i] == row[i]).sum() + added
            expected[n] += np.log(count / (len(same) + added * SIZES[i]))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    total = np.exp(log_likelihood(pc.chow_liu(rows, num_categories=SIZES), worlds(SIZES))).sum()
    assert total == pytest.approx(1, abs=1e-12)


def test_no_other_tree_makes_the_rows_likelier() -> None:
    rows = correlated_rows(5)[:, :4]
    best = log_likelihood(pc.chow_liu(rows, pseudocount=0.0), rows).sum()
    entropies = [
        -sum(p * np.log(p) for p in np.bincount(c) / len(c) if p) for c in rows.T.astype(np.int64)
    ]
    information = pc.pairwise_mutual_information(rows, pseudocount=0.0)

    totals = [
        len(rows) * (sum(information[edge] for edge in tree) - sum(entropies))
        for tree in itertools.combinations(itertools.combinations(range(4), 2), 3)
        if nx.is_connected(nx.Graph(tree)) and len(nx.Graph(tree)) == 4
    ]

    assert len(totals) == 16
    assert best == pytest.approx(max(totals))


@pytest.mark.skipif(not (DATA / "nltcs.npz").exists(), reason="DENSITY_DATA has no data sets")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("nltcs", -6.7590), ("plants", -16.5240), ("baudio", -44.3749), ("accidents", -33.1881)],
)
def test_published_chow_liu_figures(name: str, expected: float) -> None:
    with np.load(DATA / f"{name}.npz") as file:
        train, test = file["train"], file["test"].astype(np.int64)

    assert log_likelihood(pc.chow_liu(train), test).mean() == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("num_units", [1, 3])
def test_a_hidden_tree_is_the_sum_over_its_hidden_variables(num_units: int) -> None:
    parents, sizes = (1, -1, 1, 2), (2, 3, 2, 3)
    circuit = pc.families.hidden_chow_liu(parents, num_units, sizes)
    model = pc.CircuitModel(circuit, seed=1).double()
    found = model.probabilities()
    steps = found["transition"].view(3, num_units, num_units).numpy()
    transition = dict(zip((0, 2, 3), steps, strict=True))
    two, three = (found[f"emission_{v}"].view(2, num_units, v).numpy() for v in (2, 3))
    emission = (two[0], three[0], two[1], three[1])

    expected = []
    for world in worlds(sizes):
        total = 0.0
        for hidden in itertools.product(range(num_units), repeat=4):
            weight = found["initial"].numpy()[hidden[1]]
            for i, parent in enumerate(parents):
                weight *= emission[i][hidden[i], world[i]]
                weight *= transition[i][hidden[parent], hidden[i]] if parent >= 0 else 1.0
            total += weight
        expected.append(total)

    values = model.log_likelihood(torch.from_numpy(worlds(sizes))).detach().exp().numpy()
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert set(model.circuit.parameter_shapes) == {
        "initial",
        "transition",
        "emission_2",
        "emission_3",
    }
    properties = pc.validate(circuit)
    assert properties.smooth and properties.decomposable


def test_latent_potentials_weight_the_hidden_variable_of_a_variable() -> None:
    model = pc.CircuitModel(pc.families.hidden_chow_liu((-1, 0, 0), 2, 2), seed=3).double()
    only_first = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64)

    found = model.marginals(pc.Evidence(latent_log_potentials={"state_0": only_first}))

    expected = model.probabilities()["emission_2"].view(3, 2, 2)[0, 0]
    torch.testing.assert_close(found[0, 0], expected)


def test_a_wide_tree_has_few_layers() -> None:
    rows = np.random.default_rng(0).integers(0, 2, size=(50, 120))
    tree = pc.chow_liu_tree(rows)
    depth = max(nx.single_source_shortest_path_length(nx.Graph(tree.edges), tree.root).values())

    plan = pc.compile_circuit(pc.families.hidden_chow_liu(tree.parents, 2, 2))

    # Inputs, and for each step up a layer of messages and at most two kinds of products.
    assert len(plan.layers) <= 3 * (depth + 1) + 1


def test_an_hclt_has_the_tree_of_its_data_and_learns() -> None:
    rows = torch.from_numpy(correlated_rows(6))
    circuit = pc.hclt(rows, 4, num_categories=SIZES)
    model = pc.CircuitModel(circuit)

    history = pc.fit_em(model, rows, epochs=5, progress=False)

    assert circuit.categories == SIZES
    trained = [record.train for record in history]
    assert trained == sorted(trained) and trained[-1] > trained[0] + 0.1


@pytest.mark.parametrize("num_units", [1, 2, 3, 7, 8])
def test_a_start_is_positive_seeded_and_of_any_size(num_units: int) -> None:
    rows = correlated_rows(7)
    tree = pc.chow_liu_tree(rows, num_categories=SIZES)
    model = pc.CircuitModel(pc.families.hidden_chow_liu(tree.parents, num_units, SIZES))

    starts = [
        pc.hclt_start(rows, tree.parents, num_units, num_categories=SIZES, seed=seed)
        for seed in (1, 1, 2)
    ]

    model.set_probabilities(starts[0])
    assert all(bool((p > 0).all()) for p in starts[0].values())
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not torch.equal(starts[0]["emission_2"], starts[2]["emission_2"])


def test_a_start_without_noise_to_speak_of_is_the_chow_liu_tree() -> None:
    rows = correlated_rows(8)
    parents = pc.chow_liu_tree(rows, num_categories=SIZES).parents
    model = pc.CircuitModel(pc.families.hidden_chow_liu(parents, 12, SIZES))

    model.set_probabilities(
        pc.hclt_start(rows, parents, 12, num_categories=SIZES, noise=1e-6, softness=1e-6)
    )

    found = model.log_likelihood(torch.from_numpy(rows)).detach().numpy()
    tree = log_likelihood(pc.chow_liu(rows, num_categories=SIZES), rows)
    # The root's frequencies are smoothed a little differently.
    np.testing.assert_allclose(found, tree, atol=0.1)


def test_em_ends_higher_from_the_start_than_from_a_random_one() -> None:
    random = np.random.default_rng(9)
    centres = random.random((6, 24)) < 0.5
    rows = torch.from_numpy(
        (centres[random.integers(0, 6, 400)] ^ (random.random((400, 24)) < 0.15)).astype(np.int64)
    )
    parents = pc.chow_liu_tree(rows).parents
    ends = []
    for start in (None, pc.hclt_start(rows, parents, 16)):
        model = pc.CircuitModel(pc.families.hidden_chow_liu(parents, 16, 2))
        if start is not None:
            model.set_probabilities(start)
        ends.append(pc.fit_em(model, rows, epochs=25, progress=False).records[-1].train)

    assert ends[1] > ends[0] + 0.5


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ((-1, -1), "exactly one root; found 2 roots"),
        ((), "found 0 roots"),
        ((0, 2), r"parents must name a variable 0 \.\. 1"),
        ((-1, 2, 1), r"found a cycle among variables \[1, 2\]"),
    ],
)
def test_parents_that_are_no_tree_are_refused(parents: tuple[int, ...], message: str) -> None:
    with pytest.raises(pc.errors.StructureError, match=message):
        pc.families.hidden_chow_liu(parents, 2, 2)
    with pytest.raises(pc.errors.StructureError, match=message):
        pc.families.chow_liu(parents, 2)


def test_numbers_of_categories_must_fit() -> None:
    with pytest.raises(pc.errors.StructureError, match=r"each of the 2 variables; found 3 numbers"):
        pc.families.hidden_chow_liu((-1, 0), 2, (2, 2, 2))
    with pytest.raises(pc.errors.EvidenceError, match="each of the 2 variables; found 1 numbers"):
        pc.chow_liu_tree(np.zeros((3, 2), dtype=int), num_categories=(2,))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((3, 2)), {}, r"\(N, L\) integers .* found shape \(3, 2\) of float64"),
        (np.zeros((0, 2), dtype=int), {}, r"found shape \(0, 2\)"),
        (np.array([[0, -1]]), {}, r"variable 1 holds -1 \.\. -1; expected categories 0 \.\. 0"),
        (np.array([[0, 3]]), {"num_categories": 2}, r"variable 1 holds 3 \.\. 3; .* 0 \.\. 1"),
        (np.zeros((3, 2), dtype=int), {"weights": np.ones(2)}, "weights must be 3 finite numbers"),
        (np.zeros((1, 2), dtype=int), {"weights": [-1.0]}, "finite numbers >= 0"),
        (np.zeros((1, 2), dtype=int), {"observed": np.ones((1, 2))}, "bool mask of shape"),
    ],
)
def test_data_that_does_not_fit_is_named(
    values: np.ndarray, options: dict[str, object], message: str
) -> None:
    with pytest.raises(pc.errors.EvidenceError, match=message):
        pc.chow_liu_tree(values, **options)  # type: ignore[arg-type]


def test_numbers_out_of_range_are_refused() -> None:
    rows = np.zeros((2, 2), dtype=int)
    with pytest.raises(ValueError, match="finite pseudocount >= 0; found -1"):
        pc.chow_liu_tree(rows, pseudocount=-1.0)
    with pytest.raises(ValueError, match=r"coupling in \[0, 1\)"):
        pc.hclt_start(rows, (-1, 0), 2, coupling=1.0)
    with pytest.raises(ValueError, match="square matrix of finite numbers"):
        pc.spanning_tree(np.full((2, 2), np.nan))
