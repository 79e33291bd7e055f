"""Determinism is decided as by looking at every world, and refuted by a world that refutes it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.validate import determinism, validate
from pcircuits.validate.categories import CategoryBits, category_set
from tests.support.circuits import SEEDS, circuits
from tests.support.deterministic import all_worlds, decision_circuits, positive_terms

Zeros = Mapping[str, np.ndarray]


def _indicator(variable: int, *supports: tuple[int, ...], name: str | None = None) -> pc.Input:
    return pc.Input(
        variable, num_units=len(supports), num_categories=3, supports=supports, name=name
    )


def _check(circuit: pc.Circuit, zeros: Zeros | None = None) -> bool:
    """Compares with enumeration, evaluates the counterexample, and returns the answer."""
    found = determinism(circuit, zeros and {name: mask.tolist() for name, mask in zeros.items()})
    terms = positive_terms(circuit, zeros)
    assert found.holds == all((column.sum(axis=1) <= 1).all() for column in terms.values())
    assert (found.overlap is None) == found.holds
    if found.overlap is not None:
        node = next(n for n, name in circuit.node_names.items() if name == found.overlap.node)
        assert set(found.overlap.world) == set(node.scope)
        worlds = all_worlds(circuit)
        agree = [worlds[:, v] == category for v, category in found.overlap.world.items()]
        assert (terms[node, found.overlap.unit][np.all(agree, axis=0)].sum(axis=1) > 1).all()
    return found.holds


@given(circuits(), SEEDS, st.sampled_from([0.2, 0.5, 0.7]))
def test_random_circuits_with_zero_weights(circuit: pc.Circuit, seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    zeros = {n: generator.random(shape) < share for n, shape in circuit.parameter_shapes.items()}
    _check(circuit, zeros)


@given(circuits())
def test_random_circuits_without_zeros(circuit: pc.Circuit) -> None:
    _check(circuit)


@given(decision_circuits())
def test_decisions_are_deterministic(circuit: pc.Circuit) -> None:
    assert _check(circuit)


@given(decision_circuits(careless=True))
def test_careless_decisions(circuit: pc.Circuit) -> None:
    _check(circuit)


def test_both_answers_occur_among_careless_decisions() -> None:
    answers = set()

    @given(decision_circuits(careless=True))
    def collect(circuit: pc.Circuit) -> None:
        answers.add(determinism(circuit).holds)

    collect()
    assert answers == {True, False}


def test_units_of_different_splits_need_more_than_pairs() -> None:
    """x0 = x1 and x1 = x2, once as (01)(2) and once as (0)(12): they meet where all are equal."""

    def equal(a: int, b: int, *values: int) -> pc.Sum:
        pairs = [pc.Product(_indicator(a, (v,)), _indicator(b, (v,))) for v in values]
        return pc.Sum(*pairs, num_units=1, weighted=False)

    def circuit(first: tuple[int, ...], second: tuple[int, ...]) -> pc.Circuit:
        left = pc.Product(equal(0, 1, *first), _indicator(2, (0, 1)))
        right = pc.Product(_indicator(0, (0, 2)), equal(1, 2, *second))
        return pc.Circuit(pc.Sum(left, right, num_units=1))

    assert _check(circuit((1, 2), (1, 2)))  # x0 = x1 = 2 is possible, but x2 = x1 is not
    assert not _check(circuit((0, 1), (0, 1)))  # 0 0 0


def test_the_sentence_names_sum_terms_and_world() -> None:
    root = pc.Sum(
        _indicator(0, (0, 1), name="low"), _indicator(0, (1, 2), name="high"), num_units=1
    )
    overlap = validate(pc.Circuit(root)).overlap

    assert str(overlap) == (
        "unit 0 of sum 'sum_2' adds unit 0 of 'low' and unit 0 of 'high', which are both positive "
        "in the world {0: 1}"
    )


def test_a_term_that_is_added_twice_is_not_deterministic() -> None:
    once = _indicator(0, (0,))
    assert not _check(pc.Circuit(pc.Sum(once, once, num_units=1)))


def test_units_that_do_not_reach_the_root_do_not_count() -> None:
    inner = pc.Sum(_indicator(0, (0,), (0, 1)), num_units=2, name="inner")
    circuit = pc.Circuit(pc.Sum(inner, num_units=1, name="root"))
    inner_zeros = np.array([[False, True], [False, False]])

    assert not _check(circuit, {"inner": inner_zeros, "root": np.array([False, False])})
    assert _check(circuit, {"inner": inner_zeros, "root": np.array([False, True])})


def test_zeros_of_packed_parameters() -> None:
    """Two sums in one vector, two inputs in one table: each has its own zeros."""

    def leaf(row: int) -> pc.Input:
        return pc.Input(0, num_units=1, num_categories=2, parameter=pc.Part("table", row))

    first = pc.Sum(leaf(0), leaf(1), num_units=1, parameter=pc.Part("sums", 0), name="first")
    second = pc.Sum(leaf(0), leaf(1), num_units=1, parameter=pc.Part("sums", 2), name="second")
    circuit = pc.Circuit(pc.Sum(first, second, num_units=1, name="root"))
    table = [[True, False], [False, True]]

    assert determinism(circuit, {"table": table}).overlap.node == "root"
    assert determinism(circuit, {"sums": [False, True, True, True]}).holds
    assert determinism(circuit, {"table": table, "sums": [False, True, True, False]}).holds
    assert determinism(circuit, {"sums": [False, True, False, True]}).overlap.node == "root"
    assert determinism(circuit, {"sums": [False, True, False, False]}).overlap.node == "second"


def test_a_search_that_reaches_its_limit_says_nothing() -> None:
    """Even and odd numbers of ones: no variable alone tells them apart."""
    low, high = _indicator(0, (0,)), _indicator(0, (1,))
    for variable in range(1, 6):
        zero, one = _indicator(variable, (0,)), _indicator(variable, (1,))
        even = pc.Sum(pc.Product(low, zero), pc.Product(high, one), num_units=1)
        odd = pc.Sum(pc.Product(low, one), pc.Product(high, zero), num_units=1)
        low, high = even, odd
    circuit = pc.Circuit(pc.Sum(low, high, num_units=1))

    assert determinism(circuit).holds
    assert determinism(circuit, limit=2).holds is None
    properties = validate(circuit, limit=2)
    assert properties.deterministic is None
    assert "unknown" in str(properties)


def test_categories_that_all_terms_exclude_need_no_search() -> None:
    def term(category: int) -> pc.Product:
        fixed = _indicator(1, (category,))
        free = [pc.Product(fixed, _indicator(2, (other,))) for other in range(2)]
        return pc.Product(_indicator(0, (0, 1)), pc.Sum(*free, num_units=1))

    circuit = pc.Circuit(pc.Sum(term(0), term(1), num_units=1))

    assert determinism(circuit, limit=0).holds


@pytest.mark.parametrize("sizes", [(2,), (3, 2), (1, 4, 2), (70,), (3, 100, 64)])
def test_bits_of_categories(sizes: tuple[int, ...]) -> None:
    """Also of so many categories that those which no set tells apart are one class."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        masks = [[_some(generator, size) for size in sizes] for _ in range(3)]
        absent = [[category_set(np.flatnonzero(~m), len(m)) for m in row] for row in masks]
        bits = CategoryBits(sizes, list(zip(*absent, strict=True)))
        excluded = [sum(bits.excluding(v, out) for v, out in enumerate(row)) for row in absent]
        both = [a & b for a, b in zip(*masks[:2], strict=True)]
        assert bits.contradictory(excluded[0] | excluded[1]) == any(not m.any() for m in both)
        counts = [sum(row[v].astype(int) for row in masks) for v in range(len(sizes))]
        assert bits.separated(excluded) == any((count <= 1).all() for count in counts)
        for variable, mask in enumerate(masks[0]):
            assert mask[bits.first_left(variable, excluded[0])]


def test_a_large_vocabulary_of_few_classes() -> None:
    """Three moves over 5,000 tokens; one more that overlaps with another in one token."""
    thirds = [tuple(range(start, 5000, 3)) for start in range(3)]
    supports = [*thirds, (1, 4999)]
    terms = [pc.Input(0, num_units=1, num_categories=5000, supports=(s,)) for s in supports]

    assert determinism(pc.Circuit(pc.Sum(*terms[:3], num_units=1))).holds
    overlap = determinism(pc.Circuit(pc.Sum(*terms, num_units=1))).overlap
    assert overlap is not None
    assert overlap.world[0] in (1, 4999)


def _some(generator: np.random.Generator, size: int) -> np.ndarray:
    mask = generator.random(size) < 0.4
    mask[generator.integers(size)] = True
    return mask
