"""What an operator makes has, in every world, the value that it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import operators
from pcircuits.errors import EvidenceError, ParameterError, StructureError
from pcircuits.parameters import WeightedCircuit, row_totals
from pcircuits.validate import compatible
from tests.support.circuits import circuits
from tests.support.deterministic import decision_circuits
from tests.support.structured import (
    compatible_circuits,
    normalised_weights,
    weighted_by,
    world_values,
)

EXACT = {"rtol": 1e-9, "atol": 1e-300}


@st.composite
def weighted_circuits(draw: st.DrawFn) -> WeightedCircuit:
    """Any circuit: of any structure, of indicators, of decisions."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return draw(compatible_circuits(1))[0]
    return weighted_by(draw, draw(circuits() if kind == 1 else decision_circuits()))


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
