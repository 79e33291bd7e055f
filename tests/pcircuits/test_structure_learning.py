"""LearnSPN and cutset networks: on data whose structure is known, and against closed forms."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

import pcircuits as pc
from pcircuits.errors import EvidenceError
from pcircuits.learning.chow_liu import chow_liu
from pcircuits.learning.cutset import cutset_network
from pcircuits.learning.learn_spn import _independent_groups, learn_spn
from pcircuits.learning.tables import CategoricalTable, log_distribution

Learner = Callable[..., pc.WeightedCircuit]
LEARNERS = pytest.mark.parametrize("learn", [learn_spn, cutset_network])
TINY = 1e-9


def log_values(weighted: pc.WeightedCircuit, rows: np.ndarray) -> np.ndarray:
    plan = pc.compile_circuit(weighted.circuit)
    evidence = pc.Evidence(torch.as_tensor(rows).long())
    return pc.forward(plan, weighted.log_weights, evidence).double().numpy()


def all_worlds(categories: tuple[int, ...]) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, categories))))


def chain_rows(num_rows: int, length: int, seed: int = 0, stay: float = 0.9) -> np.ndarray:
    """Binary Markov chains: neighbours depend on each other."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 2, (num_rows, length))
    for i in range(1, length):
        same = random.random(num_rows) < stay
        rows[:, i] = np.where(same, rows[:, i - 1], 1 - rows[:, i - 1])
    return rows


def mixed_rows(num_rows: int, seed: int = 0) -> np.ndarray:
    """Variables of 2, 3 and 4 categories; the second says how the third and fourth go together."""
    random = np.random.default_rng(seed)
    rows = np.stack([random.integers(0, size, num_rows) for size in (2, 3, 4, 4)], axis=1)
    tied = random.random(num_rows) < 0.9
    rows[:, 3] = np.where(tied, (rows[:, 2] + rows[:, 1]) % 4, rows[:, 3])
    return rows


def clustered_rows(num_rows: int, seed: int = 0) -> np.ndarray:
    """Three kinds of rows of eight variables, each variable noisy on its own."""
    random = np.random.default_rng(seed)
    kinds = np.random.default_rng(7).integers(0, 3, (3, 8))
    rows = kinds[random.integers(0, 3, num_rows)]
    noise = random.random(rows.shape) < 0.3
    return np.where(noise, random.integers(0, 3, rows.shape), rows)


@LEARNERS
@pytest.mark.parametrize("rows", [chain_rows(400, 5), mixed_rows(600)])
def test_result_is_a_distribution(learn: Learner, rows: np.ndarray) -> None:
    weighted = learn(rows, num_categories=rows.max(0) + 1, min_rows=40)
    worlds = all_worlds(weighted.circuit.categories)
    assert weighted.circuit.categories == tuple(rows.max(0) + 1)
    assert np.exp(log_values(weighted, worlds)).sum() == pytest.approx(1, abs=1e-5)
    assert np.isfinite(log_values(weighted, worlds)).all()
    properties = pc.validate(weighted.circuit)
    assert properties.smooth
    assert properties.decomposable


@pytest.mark.parametrize(
    ("learn", "make"), [(learn_spn, clustered_rows), (cutset_network, mixed_rows)]
)
def test_beats_simpler_models_on_new_rows(
    learn: Learner, make: Callable[[int, int], np.ndarray]
) -> None:
    train, test = make(3000, 1), make(1000, 2)
    sizes = train.max(0) + 1
    independent = sum(
        log_distribution(np.bincount(train[:, i], minlength=sizes[i]), 1.0)[test[:, i]]
        for i in range(train.shape[1])
    )
    tree = log_values(chow_liu(train, num_categories=sizes.tolist()), test)
    found = log_values(learn(train, num_categories=sizes), test)
    assert found.mean() > independent.mean() + 0.2
    assert found.mean() > tree.mean() + 0.2


@LEARNERS
def test_same_seed_same_circuit(learn: Learner) -> None:
    rows = mixed_rows(500)
    first, second = learn(rows, min_rows=20), learn(torch.as_tensor(rows), min_rows=20)
    assert pc.structure_to_json(first.circuit) == pc.structure_to_json(second.circuit)
    for name, tensor in first.log_weights.items():
        assert torch.equal(tensor, second.log_weights[name])


def test_learn_spn_finds_independent_groups() -> None:
    """Two chains that know nothing of each other become the factors of the root."""
    rows = np.concatenate([chain_rows(2000, 3, seed=1), chain_rows(2000, 4, seed=2)], axis=1)
    root = learn_spn(rows).circuit.root
    assert isinstance(root, pc.Product)
    assert {tuple(child.scope) for child in root.children} == {(0, 1, 2), (3, 4, 5, 6)}


def test_learn_spn_finds_clusters() -> None:
    """Two far-apart groups of rows become the parts of a sum, weighted by their sizes."""
    random = np.random.default_rng(0)
    low, high = random.random((300, 8)) < 0.05, random.random((700, 8)) < 0.95
    rows = np.concatenate([low, high]).astype(np.int64)
    weighted = learn_spn(rows, num_clusters=2, significance=1e-6)
    assert isinstance(weighted.circuit.root, pc.Sum)
    part = weighted.circuit.root.parameter
    weights = weighted.log_weights["sums"][part.start : part.start + 2].exp()
    assert sorted(weights.tolist()) == pytest.approx([0.3, 0.7], abs=0.01)
    assert all(isinstance(child, pc.Product) for child in weighted.circuit.root.children)
    assert all(len(child.children) == 8 for child in weighted.circuit.root.children)


def test_g_test_is_scipys() -> None:
    rows = mixed_rows(150, seed=3)
    rows = np.concatenate([rows, np.zeros((150, 1), dtype=np.int64)], axis=1)  # a constant
    table = CategoricalTable.of(rows, 4)
    p_values = np.ones((5, 5))
    for i, j in itertools.combinations(range(4), 2):
        counts = np.zeros((rows[:, i].max() + 1, rows[:, j].max() + 1))
        np.add.at(counts, (rows[:, i], rows[:, j]), 1)
        p_values[i, j] = chi2_contingency(counts, correction=False, lambda_="log-likelihood")[1]
    for significance in (1e-6, 0.01, 0.2, 0.5, 0.9):
        label = _independent_groups(table.one_hot, table.sizes, significance)
        expected = {frozenset([i]) for i in range(5)}
        for i, j in np.argwhere(p_values <= significance):
            joined = frozenset().union(*(group for group in expected if {i, j} & group))
            expected = {group for group in expected if not {i, j} & group} | {joined}
        found = {frozenset(np.flatnonzero(label == g).tolist()) for g in set(label.tolist())}
        assert found == expected, significance


def test_learn_spn_of_few_rows_is_independent() -> None:
    rows = chain_rows(50, 4)
    weighted = learn_spn(rows, min_rows=51, pseudocount=0.5)
    expected = sum(
        log_distribution(np.bincount(rows[:, i], minlength=2), 0.5)[rows[:, i]] for i in range(4)
    )
    np.testing.assert_allclose(log_values(weighted, rows), expected, atol=1e-5)
    shallow = learn_spn(chain_rows(1000, 4), max_depth=1)
    assert isinstance(shallow.circuit.root, pc.Product)


def test_cutset_of_depth_zero_is_a_chow_liu_tree() -> None:
    rows = mixed_rows(500)
    sizes = (rows.max(0) + 1).tolist()
    found = cutset_network(rows, num_categories=sizes, max_depth=0, pseudocount=TINY)
    expected = chow_liu(rows, num_categories=sizes, pseudocount=TINY)
    np.testing.assert_allclose(log_values(found, rows), log_values(expected, rows), atol=1e-4)


def test_cutset_decides_what_matters_and_is_deterministic() -> None:
    """The second variable decides how the third and fourth go together: no single tree can."""
    weighted = cutset_network(mixed_rows(3000), num_categories=[2, 3, 4, 4])
    root = weighted.circuit.root
    decided = {next(iter(branch.children[0].scope)) for branch in root.children}
    assert len(decided) == 1
    assert decided <= {1, 2, 3}
    assert len(root.children) == weighted.circuit.categories[decided.pop()]
    assert pc.validate(weighted.circuit).deterministic


def test_cutset_weights_have_the_largest_likelihood() -> None:
    """Closed form: in a deterministic circuit the counted weights are a fixed point of EM."""
    rows = torch.as_tensor(mixed_rows(800))
    weighted = cutset_network(rows, num_categories=[2, 3, 4, 4], pseudocount=TINY)
    assert isinstance(weighted.circuit.root, pc.Sum)
    model = pc.CircuitModel.of(weighted)
    before = model.log_likelihood(rows).double().mean().item()
    with pytest.warns(UserWarning, match="exactly zero"):  # what never occurs, at TINY before
        pc.fit_em(model, rows, epochs=1, pseudocount=0.0)
    assert model.log_likelihood(rows).double().mean().item() == pytest.approx(before, abs=1e-5)


def test_cutset_decisions_raise_the_likelihood() -> None:
    rows = mixed_rows(2000)
    means = [
        log_values(cutset_network(rows, max_depth=depth, penalty=0.0, min_rows=20), rows).mean()
        for depth in (0, 1, 2)
    ]
    assert means[0] < means[1] <= means[2]
    kept = cutset_network(rows, penalty=1e6)
    assert len(kept.circuit.root.children) == 1  # a tree: no decision is worth that much


def test_exact_queries_on_a_cutset_network() -> None:
    """Its determinism makes entropy and maximum exact."""
    weighted = cutset_network(mixed_rows(1500), num_categories=[2, 3, 4, 4])
    worlds = all_worlds(weighted.circuit.categories)
    log_p = log_values(weighted, worlds)
    plan = pc.compile_circuit(weighted.circuit)
    nothing = pc.Evidence(torch.zeros(1, 4).long(), torch.zeros(1, 4, dtype=torch.bool))
    entropy = pc.queries.entropy(plan, weighted.log_weights, nothing)
    assert bool(entropy.exact.all())
    assert float(entropy.estimate[0]) == pytest.approx(-(np.exp(log_p) * log_p).sum(), abs=1e-4)
    best = pc.queries.map(plan, weighted.log_weights, nothing)
    assert bool(best.exact.all())
    assert best.values[0].tolist() == worlds[log_p.argmax()].tolist()


@LEARNERS
@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (np.zeros(3, dtype=int), {}, r"values must be \(N, L\) integers"),
        (np.zeros((3, 2)), {}, "float64"),
        (np.array([[0, 3]]), {"num_categories": 2}, r"values\[0, 1\] is 3; expected a category"),
        (np.array([[0, -1]]), {}, r"values\[0, 1\] is -1"),
        (np.zeros((3, 2), dtype=int), {"num_categories": [2, 2, 2]}, "each of the 2 variables"),
    ],
)
def test_bad_rows_are_named(
    learn: Learner, rows: np.ndarray, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(EvidenceError, match=message):
        learn(rows, **arguments)


@pytest.mark.parametrize(
    ("learn", "name", "value"),
    [
        (learn_spn, "significance", 0.0),
        (learn_spn, "min_rows", 1),
        (learn_spn, "max_depth", 0),
        (learn_spn, "num_clusters", 1),
        (learn_spn, "pseudocount", 0.0),
        (cutset_network, "min_rows", 0),
        (cutset_network, "max_depth", -1),
        (cutset_network, "penalty", -1.0),
        (cutset_network, "pseudocount", 0.0),
    ],
)
def test_bad_settings_are_named(learn: Learner, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*found {value}"):
        learn(chain_rows(10, 2), **{name: value})


@LEARNERS
def test_one_variable_and_one_row(learn: Learner) -> None:
    weighted = learn(np.array([[1]]), num_categories=3, pseudocount=1.0)
    np.testing.assert_allclose(
        np.exp(log_values(weighted, np.array([[0], [1], [2]]))), [0.25, 0.5, 0.25], atol=1e-6
    )


DATA = Path(os.environ.get("DENSITY_DATA", "data/debd")) / "nltcs.npz"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_file(), reason="DENSITY_DATA names no folder with nltcs.npz")
@pytest.mark.parametrize(("learn", "published"), [(learn_spn, -6.11), (cutset_network, -6.10)])
def test_nltcs_is_at_the_published_figure(learn: Learner, published: float) -> None:
    data = np.load(DATA)
    found = log_values(learn(data["train"], num_categories=2), data["test"]).mean()
    assert published - 0.02 < found < -5.41  # the entropy of the test rows
