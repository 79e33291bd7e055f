"""Logic circuits against truth tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import StructureError
from pcircuits.execute.reference import log_value
from pcircuits.structure.families import And, Literal, Or, logic, logic_from_cnf

World = tuple[int, ...]


def values_of(circuit: pc.Circuit) -> dict[World, float]:
    worlds = list(itertools.product((0, 1), repeat=circuit.num_variables))
    values = pc.forward(pc.compile_circuit(circuit), {}, pc.Evidence(torch.tensor(worlds))).exp()
    return dict(zip(worlds, values.tolist(), strict=True))


def count(circuit: pc.Circuit) -> float:
    nothing = torch.zeros(1, circuit.num_variables, dtype=torch.bool)
    return float(log_value(circuit, {}, pc.Evidence(nothing.long(), nothing))[0].exp())


def derivations(formula: object, world: World) -> int:
    """How often a world is derived: 0 or 1 if the formula is deterministic."""
    if isinstance(formula, Literal):
        return int(world[formula.variable] == formula.positive)
    numbers = [derivations(operand, world) for operand in formula.operands]
    return math.prod(numbers) if isinstance(formula, And) else sum(numbers)


def satisfied(clauses: Sequence[Sequence[int]], world: World) -> bool:
    return all(any(world[abs(x) - 1] == (x > 0) for x in clause) for clause in clauses)


@st.composite
def formulas(draw: Callable, variables: tuple[int, ...], depth: int = 3) -> object:
    """Decomposable formulas, with constants, sharing and branches that leave variables open."""
    if not variables or depth == 0:
        if not variables:
            return draw(st.sampled_from([And(), And(), And(), Or()]))
        return Literal(draw(st.sampled_from(variables)), draw(st.booleans()))
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(variables)))
        order = draw(st.permutations(variables))
        parts = [tuple(order[:cut]), tuple(order[cut:])]
        return And(*(draw(formulas(part, depth=depth - 1)) for part in parts))
    operands = [draw(formulas(variables, depth=depth - 1)) for _ in range(draw(st.integers(1, 3)))]
    return Or(*operands, *([operands[0]] if draw(st.booleans()) else []))


@st.composite
def clause_sets(draw: Callable) -> tuple[int, list[list[int]]]:
    length = draw(st.integers(1, 7))
    literal = st.integers(1, length).flatmap(lambda v: st.sampled_from([v, -v]))
    clause = st.lists(literal, min_size=1, max_size=3)
    return length, draw(st.lists(clause, max_size=8))


def has_bare_constant(formula: object) -> bool:
    """An "or" with a constant true operand: what that counts depends on the smoothing around it."""
    if isinstance(formula, Literal):
        return False
    return not formula.operands or any(has_bare_constant(operand) for operand in formula.operands)


@settings(max_examples=100, deadline=None)
@given(formula=formulas((0, 1, 2, 3)))
def test_value_is_the_number_of_derivations(formula: object) -> None:
    worlds = list(itertools.product((0, 1), repeat=4))
    expected = {world: float(derivations(formula, world)) for world in worlds}
    if not any(expected.values()):
        with pytest.raises(StructureError, match="always false"):
            logic(formula, 4)
        return
    circuit = logic(formula, 4)
    found = values_of(circuit)
    if has_bare_constant(formula):
        assert {w for w in worlds if found[w]} == {w for w in worlds if expected[w]}
    else:
        assert found == pytest.approx(expected)
    assert circuit.parameter_shapes == {}


@settings(max_examples=100, deadline=None)
@given(given=clause_sets(), structured=st.booleans(), data=st.data())
def test_models_of_clauses(
    given: tuple[int, list[list[int]]], structured: bool, data: st.DataObject
) -> None:
    length, clauses = given
    order = data.draw(st.none() | st.permutations(range(length)))
    worlds = itertools.product((0, 1), repeat=length)
    expected = {world: float(satisfied(clauses, world)) for world in worlds}
    if not any(expected.values()):
        with pytest.raises(StructureError):
            logic_from_cnf(clauses, length, order=order, structured=structured)
        return
    circuit = logic_from_cnf(clauses, length, order=order, structured=structured)
    assert pc.validate(circuit).deterministic
    assert values_of(circuit) == pytest.approx(expected)
    assert count(circuit) == pytest.approx(sum(expected.values()), rel=1e-12)
    if structured:
        assert pc.validate(circuit).structured_decomposable


def test_exactly_one_true() -> None:
    """Deterministic by hand: the example of the documentation."""
    length = 5
    formula = Or(
        *(And(*(Literal(i, i == chosen) for i in range(length))) for chosen in range(length))
    )
    assert count(logic(formula)) == pytest.approx(length)
    pairs = [[-a, -b] for a, b in itertools.combinations(range(1, length + 1), 2)]
    assert values_of(logic_from_cnf([range(1, length + 1), *pairs], length)) == pytest.approx(
        values_of(logic(formula))
    )


def test_variables_left_open_are_free() -> None:
    assert count(logic(Literal(1), 4)) == pytest.approx(8)
    assert count(logic(And(), 3)) == pytest.approx(8)
    assert count(logic_from_cnf([], 3)) == pytest.approx(8)
    assert count(logic_from_cnf([], 3, structured=True)) == pytest.approx(8)


def test_independent_clauses_are_compiled_apart() -> None:
    """Thirty pairs: a million million million models, in a circuit of linear size."""
    clauses = [[2 * i + 1, 2 * i + 2] for i in range(30)]
    circuit = logic_from_cnf(clauses, 60)
    assert count(circuit) == pytest.approx(3.0**30, rel=1e-9)
    assert len(circuit.nodes) < 60 * 6
    # A chain of implications has one cut variable at a time: v1 -> v2 -> ... -> v60.
    chain = logic_from_cnf([[-i, i + 1] for i in range(1, 60)], 60, structured=True)
    assert count(chain) == pytest.approx(61)
    assert len(chain.nodes) < 60 * 8


def test_a_deep_formula_needs_no_recursion() -> None:
    formula: object = Literal(0)
    for i in range(1, 2000):
        formula = And(Literal(i), formula)
    nodes = logic(formula).nodes
    assert len(nodes) == 2 * 2000 - 1
    chain = logic_from_cnf([[-i, i + 1] for i in range(1, 600)], 600, order=range(600))
    assert count(chain) == pytest.approx(601)


def test_posterior_is_that_of_the_models() -> None:
    clauses, length = [[1, 2], [-2, 3, 4], [-1, -4]], 4
    potentials = torch.randn(1, length, 2, dtype=torch.float64)
    evidence = pc.Evidence(log_potentials=potentials)
    marginals = pc.CircuitModel(logic_from_cnf(clauses, length)).marginals(evidence)[0]
    expected = torch.zeros(length, 2, dtype=torch.float64)
    for world in itertools.product((0, 1), repeat=length):
        weight = satisfied(clauses, world) * math.exp(
            sum(potentials[0, i, v].item() for i, v in enumerate(world))
        )
        for i, v in enumerate(world):
            expected[i, v] += weight
    assert torch.allclose(marginals.double(), expected / expected.sum(-1, keepdim=True), atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logic(And(Literal(0), Literal(0, False))), "not decomposable"),
        (lambda: logic(Or()), "always false"),
        (lambda: logic(Literal(3), 2), r"variables \{3\}; expected variables 0 .. 1"),
        (lambda: logic(And(Literal(0), "x")), "found str"),
        (lambda: logic_from_cnf([[1], [-1]], 1), "always false"),
        (lambda: logic_from_cnf([[1], [-1]], 1, structured=True), "no model"),
        (lambda: logic_from_cnf([[], [1]], 1), "always false"),
        (lambda: logic_from_cnf([[]], 1, structured=True), "no model"),
        (lambda: logic_from_cnf([[0]], 1), "literal 0"),
        (lambda: logic_from_cnf([[2]], 1), "literal 2"),
        (lambda: logic_from_cnf([[1]], 2, order=[0]), "each of the variables 0 .. 1 once"),
    ],
)
def test_bad_input_is_named(call: Callable[[], pc.Circuit], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        call()
