"""Hidden Markov models with structured transitions against dense ones computed independently."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import StructureError
from tests.support.families import (
    EXACT,
    all_worlds,
    assert_exact_family,
    random_weights,
    world_probabilities,
)

Array = np.ndarray
higher_order_hmm = pc.families.higher_order_hmm
block_hmm = pc.families.block_hmm
monarch_hmm = pc.families.monarch_hmm


def _linear(circuit: pc.Circuit, *, seed: int = 0) -> tuple[dict, dict[str, Array]]:
    """Random log-weights, and the same as numpy probabilities."""
    parameters = random_weights(circuit, seed=seed)
    return parameters, {name: w.exp().numpy() for name, w in parameters.items()}


def _dense_hmm(
    worlds: Array, initial: Array, transitions: list[Array], emissions: list[Array]
) -> Array:
    """(W,) probabilities by the forward algorithm with whole matrices, in linear space."""
    alpha = initial * emissions[0][:, worlds[:, 0]].T  # (W, K)
    for t, transition in enumerate(transitions, start=1):
        alpha = (alpha @ transition) * emissions[t][:, worlds[:, t]].T
    return alpha.sum(axis=1)


def _by_position(linear: dict[str, Array], name: str, count: int, homogeneous: bool) -> list[Array]:
    return [linear[name if homogeneous else f"{name}_{t}"] for t in range(count)]


# Higher order.


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(2, 3), st.integers(0, 99)
)
def test_higher_order_equals_the_sum_over_all_paths(
    order: int, length: int, num_states: int, num_categories: int, seed: int
) -> None:
    circuit = higher_order_hmm(length, order, num_states, num_categories)
    parameters, linear = _linear(circuit, seed=seed)
    worlds = all_worlds(circuit).numpy()
    memory = min(order, length)
    initial = linear["initial"].reshape((num_states,) * memory)
    emission = linear["emission"]
    expected = np.zeros(len(worlds))
    for path in itertools.product(range(num_states), repeat=length):
        weight = initial[path[:memory]]
        if length > order:
            transition = linear["transition"].reshape((num_states,) * (order + 1))
            for t in range(order, length):
                weight = weight * transition[path[t - order : t + 1]]
        expected += weight * np.prod([emission[z, worlds[:, t]] for t, z in enumerate(path)], 0)

    np.testing.assert_allclose(world_probabilities(circuit, parameters), expected, **EXACT)
    np.testing.assert_allclose(expected.sum(), 1.0, **EXACT)


def test_order_one_is_the_plain_model() -> None:
    parameters = random_weights(higher_order_hmm(6, 1, 3, 2))
    plain = {**parameters, "transition": parameters["transition"].reshape(3, 3)}

    np.testing.assert_allclose(
        world_probabilities(higher_order_hmm(6, 1, 3, 2), parameters),
        world_probabilities(pc.families.hmm(6, 3, 2), plain),
        **EXACT,
    )


def test_a_step_of_higher_order_sums_over_the_new_state_alone() -> None:
    order, num_states = 3, 4
    costs = [
        pc.compile_circuit(higher_order_hmm(length, order, num_states, 2)).cost().operations
        for length in (8, 9)
    ]
    tuples = num_states**order

    # One sum over K states and one product of two for every tuple, and K inputs.
    assert costs[1] - costs[0] == tuples * num_states + 2 * tuples + num_states
    assert len(higher_order_hmm(9, order, num_states, 2).nodes) <= 2 * 9 * tuples
    shapes = higher_order_hmm(9, order, num_states, 2).parameter_shapes
    assert shapes == {"initial": (64,), "transition": (256,), "emission": (4, 2)}


# Blocks and routes between them.


@given(
    st.integers(1, 5),
    st.sampled_from([(4, 2), (6, 3), (6, 2), (3, 3), (3, 1)]),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_block_chain_equals_the_dense_chain(
    length: int, sizes: tuple[int, int], rank: int, homogeneous: bool, seed: int
) -> None:
    states, blocks = sizes
    circuit = block_hmm(length, states, 2, num_blocks=blocks, rank=rank, homogeneous=homogeneous)
    parameters, linear = _linear(circuit, seed=seed)
    steps = range(length - 1)
    transitions = []
    for t in steps:
        suffix = "" if homogeneous else f"_{t}"
        route = linear[f"route{suffix}"].reshape(rank, states) if rank else np.zeros((0, states))
        transitions.append(_block_transition(linear[f"transition{suffix}"], route, blocks))
        np.testing.assert_allclose(transitions[-1].sum(1), 1.0, **EXACT)
    expected = _dense_hmm(
        all_worlds(circuit).numpy(),
        linear["initial"],
        transitions,
        _by_position(linear, "emission", length, homogeneous),
    )

    np.testing.assert_allclose(world_probabilities(circuit, parameters), expected, **EXACT)


def _block_transition(packed: Array, route: Array, num_blocks: int) -> Array:
    rank, states = route.shape
    size = states // num_blocks
    rows = packed.reshape(states, size + rank)
    dense = rows[:, size:] @ route
    for state in range(states):
        first = state // size * size
        dense[state, first : first + size] += rows[state, :size]
    return dense


def test_block_chain_costs_what_it_says() -> None:
    states, blocks, rank = 64, 8, 4
    plans = [
        pc.compile_circuit(block_hmm(n, states, 3, num_blocks=blocks, rank=rank)) for n in (8, 9)
    ]
    size = states // blocks
    # Products and inputs are 3 operations a state.
    step = states * (size + 2 * rank) + 3 * states

    assert plans[1].cost().operations - plans[0].cost().operations == step
    assert plans[0].cost().num_parameters == states * (size + 2 * rank) + 3 * states + states


# Monarch.


@given(
    st.integers(1, 4),
    st.sampled_from([(2, 2), (2, 3), (3, 2), (2, 2, 2), (3, 1, 2), (2, 3, 2), (1, 4), (4, 1)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_monarch_chain_equals_the_dense_chain(
    length: int, factors: tuple[int, ...], homogeneous: bool, seed: int
) -> None:
    states = math.prod(factors)
    circuit = monarch_hmm(length, states, 3, factors=factors, homogeneous=homogeneous)
    parameters, linear = _linear(circuit, seed=seed)
    transitions = []
    for t in range(length - 1):
        suffix = "" if homogeneous else f"_{t}"
        stages = [linear[f"transition_{a}{suffix}"] for a in range(len(factors))]
        transitions.append(_monarch_transition(stages, factors))
        np.testing.assert_allclose(transitions[-1].sum(1), 1.0, **EXACT)
    expected = _dense_hmm(
        all_worlds(circuit).numpy(),
        linear["initial"],
        transitions,
        _by_position(linear, "emission", length, homogeneous),
    )

    np.testing.assert_allclose(world_probabilities(circuit, parameters), expected, **EXACT)


def _monarch_transition(stages: list[Array], factors: tuple[int, ...]) -> Array:
    """(K, K) by the definition: the probability of every new tuple, coordinate by coordinate."""
    tuples = list(itertools.product(*map(range, factors)))
    number = {state: i for i, state in enumerate(tuples)}
    dense = np.ones((len(tuples), len(tuples)))
    for old, new in itertools.product(tuples, tuples):
        for a, size in enumerate(factors):
            given = number[new[:a] + old[a:]]
            dense[number[old], number[new]] *= stages[a].reshape(-1, size)[given, new[a]]
    return dense


def test_two_factors_are_block_diagonal_matrices_and_a_permutation() -> None:
    """The Monarch matrix of Dao et al.: P' L P R with block-diagonal L and R."""
    rows, columns = 2, 3
    states = rows * columns
    _, linear = _linear(monarch_hmm(2, states, 2, factors=(rows, columns)))
    permutation = np.eye(states).reshape(rows, columns, states).swapaxes(0, 1).reshape(states, -1)
    left, right = np.zeros((states, states)), np.zeros((states, states))
    # Blocks of the first stage are states with one second coordinate, consecutive when permuted.
    first = linear["transition_0"].reshape(rows, columns, rows)
    for j in range(columns):
        left[j * rows : (j + 1) * rows, j * rows : (j + 1) * rows] = first[:, j]
    second = linear["transition_1"].reshape(rows, columns, columns)
    for i in range(rows):
        right[i * columns : (i + 1) * columns, i * columns : (i + 1) * columns] = second[i]
    product = permutation.T @ left @ permutation @ right
    stages = [linear["transition_0"], linear["transition_1"]]

    np.testing.assert_allclose(product, _monarch_transition(stages, (rows, columns)), **EXACT)


@pytest.mark.parametrize(
    "states, expected", [(4096, (64, 64)), (12, (3, 4)), (7, (1, 7)), (1, (1, 1))]
)
def test_default_factors_are_as_close_as_they_can_be(
    states: int, expected: tuple[int, int]
) -> None:
    shapes = monarch_hmm(2, states, 2).parameter_shapes

    assert shapes["transition_0"] == (states * expected[0],)
    assert shapes["transition_1"] == (states * expected[1],)


@pytest.mark.parametrize("factors", [(4, 4), (4, 2, 2), (2, 2, 2, 2)])
def test_monarch_chain_costs_what_it_says(factors: tuple[int, ...]) -> None:
    plans = [pc.compile_circuit(monarch_hmm(n, 16, 3, factors=factors)) for n in (8, 9)]

    # Products and inputs are 3 operations a state.
    step = 16 * sum(factors) + 3 * 16
    assert plans[1].cost().operations - plans[0].cost().operations == step
    assert plans[0].cost().num_parameters == 16 * sum(factors) + 16 * 3 + 16


# All of them.


@pytest.mark.parametrize(
    "circuit",
    [
        higher_order_hmm(10, 2, 2, 2),
        higher_order_hmm(6, 3, 2, 3),
        block_hmm(10, 6, 2, num_blocks=2, rank=2),
        block_hmm(6, 4, 3, num_blocks=4, rank=1, homogeneous=False),
        monarch_hmm(10, 6, 2),
        monarch_hmm(6, 8, 3, factors=(2, 2, 2), homogeneous=False),
    ],
    ids=repr,
)
def test_queries_of_chains_equal_enumeration(circuit: pc.Circuit) -> None:
    assert assert_exact_family(circuit).structured_decomposable


def test_hidden_states_are_named_by_position_and_node() -> None:
    names = set(monarch_hmm(3, 6, 2).node_names.values())

    assert {f"state_{t}_{c}" for t in range(3) for c in range(2)} <= names


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "no variables": (lambda: monarch_hmm(0, 4, 2), "length must be an integer >= 1; found 0"),
    "no states": (lambda: monarch_hmm(3, 0, 2), "num_states must be .* found 0"),
    "one factor": (lambda: monarch_hmm(3, 4, 2, factors=(4,)), "factors must be .* >= 2; found 1"),
    "other product": (
        lambda: monarch_hmm(3, 4, 2, factors=(2, 3)),
        r"product of the factors must be the 4 states; found \(2, 3\)",
    ),
    "negative factors": (
        lambda: monarch_hmm(3, 4, 2, factors=(-2, -2)),
        "factor must be .* found -2",
    ),
    "blocks that do not divide": (
        lambda: block_hmm(3, 4, 2, num_blocks=3, rank=1),
        "must divide the 4 states; found 3 blocks",
    ),
    "negative rank": (
        lambda: block_hmm(3, 4, 2, num_blocks=2, rank=-1),
        "rank must be .* found -1",
    ),
    "no order": (lambda: higher_order_hmm(3, 0, 2, 2), "order must be .* found 0"),
    "no states of higher order": (
        lambda: higher_order_hmm(3, 2, 0, 2),
        "num_states must be .* found 0",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_chains_are_named(kind: str) -> None:
    make, message = BAD[kind]

    with pytest.raises(StructureError, match=message):
        make()
