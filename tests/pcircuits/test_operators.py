"""What an operator makes has, in every world, the value that it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import operators
from pcircuits.errors import EvidenceError, ParameterError, StructureError
from pcircuits.parameters import WeightedCircuit, row_totals
from pcircuits.validate import compatible
from tests.support.circuits import SEEDS, circuits
from tests.support.deterministic import decision_circuits
from tests.support.structured import (
    compatible_circuits,
    normalised_weights,
    weighted_by,
    world_values,
)

EXACT = {"rtol": 1e-9, "atol": 1e-300}


PACKED = [
    pc.families.higher_order_hmm(4, 2, 2, 2),
    pc.families.monarch_hmm(3, 4, 2),
    pc.families.random_binary_tree(5, 2, 2, seed=0, repetitions=2, product="kronecker"),
]
"""Nodes whose weights are parts of larger parameters."""


@st.composite
def weighted_circuits(draw: st.DrawFn) -> WeightedCircuit:
    """Any circuit: of any structure, of indicators, of decisions."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(compatible_circuits(1))[0]
    if kind == 1:
        return weighted_by(draw, draw(st.sampled_from(PACKED)))
    return weighted_by(draw, draw(circuits() if kind == 2 else decision_circuits()))


def _table(weighted: WeightedCircuit) -> np.ndarray:
    """The value of every world, one axis for each variable."""
    return world_values(weighted).reshape(weighted.circuit.categories)


# condition and marginalise


@given(weighted_circuits(), st.data())
def test_condition_is_the_circuit_times_the_evidence(
    weighted: WeightedCircuit, data: st.DataObject
) -> None:
    sizes = weighted.circuit.categories
    observed = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    values = {v: data.draw(st.integers(0, sizes[v] - 1)) for v in observed}
    soft = {
        v: [data.draw(st.sampled_from([-math.inf, 0.0, -1.5, 0.7])) for _ in range(sizes[v])]
        for v in set(range(len(sizes))) - observed
        if data.draw(st.booleans())
    }

    found = operators.condition(weighted, values, log_potentials=soft)

    factor = np.ones(sizes)
    for variable, size in enumerate(sizes):
        own = np.exp(np.array(soft.get(variable, np.zeros(size))))
        if variable in values:
            own = np.eye(size)[values[variable]]
        factor = factor * own.reshape([-1 if v == variable else 1 for v in range(len(sizes))])
    np.testing.assert_allclose(_table(found), _table(weighted) * factor, **EXACT)


@given(weighted_circuits(), st.data())
def test_condition_that_drops_what_is_observed(
    weighted: WeightedCircuit, data: st.DataObject
) -> None:
    sizes = weighted.circuit.categories
    kept = data.draw(st.integers(0, len(sizes) - 1))
    others = st.sampled_from([v for v in range(len(sizes)) if v != kept] or [None])
    observed = sorted(data.draw(st.sets(others)) - {None})
    values = {v: data.draw(st.integers(0, sizes[v] - 1)) for v in observed}

    found = operators.condition(weighted, values, keep=False)

    index = tuple(values.get(v, slice(None)) for v in range(len(sizes)))
    np.testing.assert_allclose(_table(found), _table(weighted)[index], **EXACT)


@given(weighted_circuits(), st.data())
def test_marginalise_sums_out(weighted: WeightedCircuit, data: st.DataObject) -> None:
    length = weighted.circuit.num_variables
    kept = data.draw(st.sets(st.sampled_from(range(length)), min_size=1))
    dropped = set(range(length)) - kept

    found = operators.marginalise(weighted, dropped)

    np.testing.assert_allclose(_table(found), _table(weighted).sum(tuple(dropped)), **EXACT)


def test_what_is_tied_stays_tied() -> None:
    hmm = normalised_weights(pc.families.hmm(6, 3, 4))

    shorter = operators.marginalise(hmm, [1, 5])
    fixed = operators.condition(hmm, {0: 1, 2: 3})

    assert shorter.log_weights.keys() == hmm.log_weights.keys()
    assert fixed.circuit.parameter_shapes == {
        "initial": (3,),
        "transition": (3, 3),
        "emission": (9, 4),  # as it is, at 1, at 3
    }
    for name, tensor in shorter.log_weights.items():
        assert torch.equal(tensor, hmm.log_weights[name])
    assert {"state_0", "suffix_0", "step_0"} <= set(shorter.circuit.node_names.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: operators.condition(w, {9: 0}), "variable 9 does not exist; .* 0 .. 2"),
        (lambda w: operators.condition(w, {0: 2}), "variable 0 is to have category 2; .* 0 .. 1"),
        (lambda w: operators.condition(w, {0: 1}, log_potentials={0: [0, 0]}), r"variables \[0\]"),
        (lambda w: operators.condition(w, log_potentials={1: [0.0]}), r"shape \(1,\); expected"),
        (lambda w: operators.condition(w, log_potentials={1: [0.0, math.nan]}), "NaN"),
        (lambda w: operators.condition(w, {0: 0, 1: 0, 2: 0}, keep=False), "all 3 variables"),
        (lambda w: operators.marginalise(w, range(3)), "all 3 variables would be gone"),
        (lambda w: operators.marginalise(w, [-1]), "variable -1 does not exist"),
    ],
)
def test_bad_evidence_is_refused(call: object, message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        call(normalised_weights(pc.families.hmm(3, 2, 2)))


def test_soft_evidence_about_variables_of_one_tied_input() -> None:
    hmm = normalised_weights(pc.families.hmm(3, 2, 2))

    found = operators.condition(hmm, log_potentials={0: [0.0, -1.0], 2: [0.5, -math.inf]})

    factor = np.exp([0.0, -1.0])[:, None, None] * np.array([np.exp(0.5), 0.0])
    np.testing.assert_allclose(_table(found), _table(hmm) * factor, **EXACT)


# multiply


@given(compatible_circuits(2))
def test_multiply(pair: tuple[WeightedCircuit, WeightedCircuit]) -> None:
    first, second = pair
    expected = _table(first) * _table(second)

    if expected.any():
        found = operators.multiply(first, second)
        np.testing.assert_allclose(_table(found), expected, **EXACT)
    else:
        _zero_or_refused(first, second)


def _zero_or_refused(first: WeightedCircuit, second: WeightedCircuit) -> None:
    """Zeros that only meet in sums of sums may leave a circuit, which is zero everywhere."""
    try:
        found = operators.multiply(first, second)
    except ParameterError as error:
        assert "zero in every world" in str(error)
    else:
        assert not _table(found).any()


@given(circuits(), st.data())
def test_multiply_by_independent_variables_whatever_the_structure(
    circuit: pc.Circuit, data: st.DataObject
) -> None:
    first = weighted_by(data.draw, circuit)
    inputs = [
        pc.Input(v, num_units=1, num_categories=size) for v, size in enumerate(circuit.categories)
    ]
    second = weighted_by(data.draw, pc.Circuit(pc.Product(*inputs)))

    for a, b in ((first, second), (second, first)):
        expected = _table(a) * _table(b)
        if expected.any():
            np.testing.assert_allclose(_table(operators.multiply(a, b)), expected, **EXACT)


FAMILIES = [
    pc.families.hmm(4, 3, 2),
    pc.families.gated_hmm(4, 2, 2),
    pc.families.mixture(4, 3, 2),
    pc.families.factorized(4, 2),
    pc.families.binary_tree(4, 2, 2),
    pc.families.binary_tree(4, 2, 2, product="kronecker"),
    pc.families.logic_from_cnf([[1, 2], [-2, 3, 4], [-1, -4]], 4, structured=True),
]


@pytest.mark.parametrize("first", FAMILIES, ids=repr)
@pytest.mark.parametrize("second", FAMILIES, ids=repr)
def test_multiply_families(first: pc.Circuit, second: pc.Circuit) -> None:
    a, b = normalised_weights(first, 1), normalised_weights(second, 2)

    if compatible(first, second):
        np.testing.assert_allclose(_table(operators.multiply(a, b)), _table(a) * _table(b), **EXACT)
    else:
        with pytest.raises(StructureError, match="multiply needs compatible circuits; not comp"):
            operators.multiply(a, b)


def test_potentials_over_units_of_a_factor_are_those_of_its_pairs() -> None:
    hmm = normalised_weights(FAMILIES[0], 1)
    pattern = pc.families.regular_expression("(ab|b)+", 4, ["a", "b"])
    both = operators.multiply(hmm, WeightedCircuit(pattern, {}))
    names = [name for name in both.circuit.node_names.values() if name.startswith("state_1 * in")]
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 4)
    own = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).expand(len(worlds), -1)

    def value(weighted: WeightedCircuit, names: list[str]) -> torch.Tensor:
        evidence = pc.Evidence(worlds, latent_log_potentials=dict.fromkeys(names, own))
        return pc.forward(pc.compile_circuit(weighted.circuit), weighted.log_weights, evidence)

    free, found = value(hmm, ["state_1"]), value(both, names)
    allowed = pc.forward(pc.compile_circuit(pattern), {}, pc.Evidence(worlds)) == 0
    torch.testing.assert_close(found, free.masked_fill(~allowed, -torch.inf))
    assert names and bool(allowed.any()) and not torch.equal(free, value(hmm, []))


@given(compatible_circuits(1))
def test_square(one: tuple[WeightedCircuit]) -> None:
    expected = _table(one[0]) ** 2
    if expected.any():
        np.testing.assert_allclose(_table(operators.square(one[0])), expected, **EXACT)


# mixture, normalise, power


@given(compatible_circuits(3), st.booleans())
def test_mixture(components: tuple[WeightedCircuit, ...], given_weights: bool) -> None:
    weights = [0.5, 0.0, 2.0]

    found = operators.mixture(components, weights if given_weights else None)

    shares = weights if given_weights else [1 / 3] * 3
    expected = sum(w * _table(c) for w, c in zip(shares, components, strict=True))
    np.testing.assert_allclose(_table(found), expected, **EXACT)


@given(weighted_circuits())
def test_normalise(weighted: WeightedCircuit) -> None:
    values = _table(weighted)
    if not values.sum() > 0:
        with pytest.raises(ParameterError, match="log sum over all worlds is -inf"):
            operators.normalise(weighted)
        return

    found, log_partition = operators.normalise(weighted)

    np.testing.assert_allclose(float(log_partition), np.log(values.sum()), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(_table(found), values / values.sum(), **EXACT)
    _check_rows_sum_to_one(found)


def _check_rows_sum_to_one(weighted: WeightedCircuit) -> None:
    plan = pc.compile_circuit(weighted.circuit)
    for name, tensor in weighted.log_weights.items():
        totals = row_totals(plan, name, tensor.exp())
        np.testing.assert_allclose(totals.numpy(), 1.0, rtol=1e-9)
    for node in weighted.circuit.nodes:
        assert not isinstance(node, pc.Sum) or node.weighted or node.num_inputs == 1


def test_a_normalised_circuit_stays_as_it_is() -> None:
    hmm = normalised_weights(pc.families.hmm(6, 3, 4))

    found, log_partition = operators.normalise(hmm)

    assert float(log_partition) == 0.0
    for name, tensor in found.log_weights.items():
        assert torch.equal(tensor, hmm.log_weights[name])


def test_plain_sums_of_one_shape_and_different_kind() -> None:
    """Two units of two terms each: all units of one child, or unit by unit of two children."""

    def leaf() -> pc.Input:
        supports = ((0,), (1,))
        return pc.Input(0, num_units=2, num_categories=3, supports=supports)

    dense = pc.Sum(leaf(), num_units=2, weighted=False)
    mixing = pc.Sum(leaf(), leaf(), num_units=2, mixing=True, weighted=False)
    circuit = pc.Circuit(pc.Sum(dense, mixing, num_units=1, weighted=False))

    found, log_partition = operators.normalise(WeightedCircuit(circuit, {}))

    values = _table(WeightedCircuit(circuit, {}))
    np.testing.assert_allclose(_table(found), values / values.sum(), **EXACT)
    np.testing.assert_allclose(float(log_partition), np.log(values.sum()), **EXACT)


@given(decision_circuits(), st.sampled_from([0.5, 2.0, -1.0, 3.0]), st.data())
def test_power_of_deterministic_circuits(
    circuit: pc.Circuit, exponent: float, data: st.DataObject
) -> None:
    weighted = weighted_by(data.draw, circuit)
    values = _table(weighted)

    found = _table(operators.power(weighted, exponent))

    with np.errstate(divide="ignore"):
        expected = np.where(values > 0, values**exponent, 0.0)
    np.testing.assert_allclose(found, expected, **EXACT)


def test_power_says_what_is_missing() -> None:
    weighted = normalised_weights(pc.families.mixture(2, 2, 2))

    with pytest.raises(StructureError, match=r"unit 0 of sum 'root' adds .* positive in the world"):
        operators.power(weighted, 0.5)
    with pytest.raises(ParameterError, match="exponent must be finite"):
        operators.power(weighted, math.inf)


def test_learned_zeros_count_for_power() -> None:
    """A mixture whose components exclude each other because of zero weights."""
    weighted = normalised_weights(pc.families.mixture(2, 2, 2))
    apart = {**weighted.log_weights, "input_0": torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])}
    deterministic = WeightedCircuit(weighted.circuit, apart)

    found = operators.power(deterministic, 0.5)

    np.testing.assert_allclose(_table(found), _table(deterministic) ** 0.5, **EXACT)


# prune and grow


@st.composite
def circuits_of_many_zeros(draw: st.DrawFn) -> WeightedCircuit:
    """Any circuit, half of its weights zero, but never a whole row."""
    weighted = draw(weighted_circuits())
    generator = torch.Generator().manual_seed(draw(SEEDS))
    weights = {}
    for name, tensor in weighted.log_weights.items():
        mask = torch.rand(tensor.shape, generator=generator) < 0.5
        mask &= ~mask.all(dim=-1, keepdim=True)
        weights[name] = tensor.masked_fill(mask, -math.inf)
    return WeightedCircuit(weighted.circuit, weights)


@settings(max_examples=200)
@given(circuits_of_many_zeros())
def test_prune_of_zeros_changes_nothing(weighted: WeightedCircuit) -> None:
    values = _table(weighted)
    if not values.any():
        with pytest.raises(ParameterError, match="nothing would be left"):
            operators.prune(weighted)
        return

    found, bound = operators.prune(weighted)

    assert bound == 0.0
    np.testing.assert_allclose(_table(found), values, **EXACT)
    assert _size(found) <= _size(weighted)


def _size(weighted: WeightedCircuit) -> int:
    return sum(node.num_units for node in weighted.circuit.nodes)


@given(weighted_circuits(), st.sampled_from([0.01, 0.1, 0.3]))
def test_prune_of_little_removes_at_most_the_bound(
    weighted: WeightedCircuit, threshold: float
) -> None:
    values = _table(weighted)
    if not values.any():
        return
    try:
        found, bound = operators.prune(weighted, threshold)
    except ParameterError as error:
        assert f"used at most {threshold} times" in str(error)
        return

    left = _table(found)
    assert (left <= values * (1 + 1e-9)).all()
    assert left.sum() >= values.sum() * (1 - bound) * (1 - 1e-9)


def test_prune_leaves_out_units_edges_and_nodes() -> None:
    hmm = normalised_weights(pc.families.hmm(4, 3, 2))
    dead = {name: tensor.clone() for name, tensor in hmm.log_weights.items()}
    dead["initial"][1] = dead["transition"][:, 1] = -math.inf  # state 1 is never entered

    found, _ = operators.prune(WeightedCircuit(hmm.circuit, dead))

    assert found.circuit.parameter_shapes == {
        "emission": (2, 2),
        "transition": (2, 2),
        "initial": (2,),
    }
    components = [normalised_weights(pc.families.hmm(3, 2, 2), seed) for seed in range(3)]
    mixed = operators.mixture(components, [0.4, 0.0, 0.6])
    left, _ = operators.prune(mixed)
    assert not any(name.startswith("component_1") for name in left.log_weights)
    assert left.circuit.parameter_shapes["mixture_weights"] == (2,)


def test_tied_sums_that_lose_different_terms_are_not_tied_any_more() -> None:
    zero = -math.inf

    def tied(variable: int) -> pc.Sum:
        leaf = pc.Input(variable, num_units=3, num_categories=2, name=f"input_{variable}")
        return pc.Sum(leaf, num_units=1, parameter="shared")

    weights = {
        "shared": torch.tensor([0.1, 0.2, 0.7]).log(),
        "input_0": torch.tensor([[zero, zero], [0.0, 0.0], [0.0, -1.0]]),
        "input_1": torch.tensor([[0.0, 0.0], [0.0, -1.0], [zero, zero]]),
    }
    weighted = WeightedCircuit(pc.Circuit(pc.Product(tied(0), tied(1))), weights)

    found, _ = operators.prune(weighted)

    np.testing.assert_allclose(_table(found), _table(weighted), **EXACT)
    assert found.circuit.parameter_shapes["shared"] == (4,)


def test_a_rare_component_is_pruned_and_bounded() -> None:
    circuit = pc.families.factorized(3, 2)
    mixed = operators.mixture([normalised_weights(circuit, s) for s in range(2)], [0.999, 0.001])

    found, bound = operators.prune(mixed, 0.001 * (1 + 1e-6))
    both, nothing = operators.prune(mixed, 0.0009)

    assert bound == pytest.approx(0.001)
    assert not any(name.startswith("component_1") for name in found.log_weights)
    assert nothing == 0.0
    assert both.circuit.parameter_shapes["mixture_weights"] == (2,)
    with pytest.raises(ParameterError, match="used at most 100"):
        operators.prune(mixed, 100)
    with pytest.raises(ParameterError, match="threshold must be a number >= 0"):
        operators.prune(mixed, -1.0)


@given(weighted_circuits(), st.integers(1, 3))
def test_grow_without_noise_changes_nothing(weighted: WeightedCircuit, factor: int) -> None:
    found = operators.grow(weighted, factor, noise=0.0)

    np.testing.assert_allclose(_table(found), _table(weighted), **EXACT)


@pytest.mark.parametrize("circuit", FAMILIES[:-1], ids=repr)
def test_grow_with_noise_makes_different_normalised_copies(circuit: pc.Circuit) -> None:
    weighted = normalised_weights(circuit)

    found = operators.grow(weighted, 2, noise=0.2, seed=3)
    again = operators.grow(weighted, 2, noise=0.2, seed=3)
    other = operators.grow(weighted, 2, noise=0.2, seed=4)

    np.testing.assert_allclose(_table(found).sum(), 1.0, rtol=1e-9)
    assert set(weighted.log_weights) <= set(found.log_weights)
    for name, tensor in found.log_weights.items():
        assert torch.equal(tensor, again.log_weights[name])
    assert any(not torch.equal(t, other.log_weights[n]) for n, t in found.log_weights.items())
    difference = np.abs(_table(found) - _table(weighted)).max()
    assert 1e-6 < difference < 0.5


def test_grow_keeps_names_and_ties() -> None:
    found = operators.grow(normalised_weights(pc.families.hmm(5, 3, 4)), 3)

    assert found.circuit.parameter_shapes == {
        "emission": (9, 4),
        "transition": (9, 9),
        "initial": (9,),
    }
    rows = found.log_weights["emission"].reshape(3, 3, 4)
    assert not torch.equal(rows[0], rows[1])
    for bad in (0, 1.5):
        with pytest.raises(ParameterError, match="factor must be an integer >= 1"):
            operators.grow(found, bad)
    with pytest.raises(ParameterError, match="noise must be a number >= 0"):
        operators.grow(found, noise=-1.0)


# what they have in common


def test_deep_circuits() -> None:
    """No operator recurses: a chain of 3,000 variables is deeper than Python's stack."""
    length = 3000
    chain = normalised_weights(pc.families.hmm(length, 1, 2))

    halved = operators.marginalise(chain, range(1, length, 2))
    fixed = operators.condition(chain, dict.fromkeys(range(length), 1))
    squared = operators.square(chain)
    found, log_partition = operators.normalise(squared)
    grown = operators.grow(operators.prune(chain)[0])
    mixed = operators.mixture([chain, chain])

    assert halved.circuit.num_variables == length // 2
    once = chain.log_weights["emission"].exp()
    expected = length * float((once**2).sum().log())
    np.testing.assert_allclose(float(log_partition), expected, rtol=1e-9)
    for weighted in (fixed, found, grown, mixed):
        assert weighted.circuit.num_variables == length
    assert operators.power(chain, 0.5).circuit is chain.circuit


def test_types_of_weights_are_kept() -> None:
    """Logic has no weights, so no type: the other circuit's is taken."""
    circuit = pc.families.hmm(4, 3, 2)
    hmm = WeightedCircuit(circuit, pc.random_parameters(pc.compile_circuit(circuit)))
    logic = WeightedCircuit(FAMILIES[-1], {})

    results = [
        operators.multiply(hmm, logic),
        operators.multiply(logic, hmm),
        operators.normalise(operators.multiply(logic, hmm))[0],
        operators.condition(hmm, {0: 1}, keep=False),
        operators.mixture([hmm, hmm]),
        operators.grow(hmm),
        operators.prune(hmm, 1e-9)[0],
    ]

    for found in results:
        assert {tensor.dtype for tensor in found.log_weights.values()} == {torch.float32}
    assert operators.multiply(logic, logic).circuit.parameter_shapes == {}


def test_names_that_circuits_make_up_do_not_clash() -> None:
    """The sum that an operator adds would be called as one of the inputs is."""
    inputs = [
        pc.Input(0, num_units=1, num_categories=2, name="sum_3"),
        pc.Input(1, num_units=1, num_categories=2, name="first"),
    ]
    circuit = pc.Circuit(pc.Product(*inputs))

    found = operators.grow(normalised_weights(circuit), noise=0.0)

    assert isinstance(found.circuit.root, pc.Sum)
    assert {"sum_3", "first"} <= set(found.circuit.node_names.values())
