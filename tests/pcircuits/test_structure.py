"""Scopes, nodes, circuits and families: what is accepted, what is refused and how it is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import CircuitError, StructureError
from tests.support.circuits import circuits

VARIABLES = st.sets(st.integers(0, 200))


def _input(variable: int = 0, units: int = 2, categories: int = 3, **names: str) -> pc.Input:
    return pc.Input(variable, num_units=units, num_categories=categories, **names)


# Scopes.


@given(VARIABLES, VARIABLES)
def test_scopes_are_sets_of_variables(a: set[int], b: set[int]) -> None:
    first, second = pc.Scope.of(a), pc.Scope.of(b)

    assert list(first) == sorted(a)
    assert len(first) == len(a)
    assert set(first | second) == a | b
    assert set(first & second) == a & b
    assert set(first ^ second) == a ^ b
    assert (first == second) == (a == b)
    assert all((variable in first) == (variable in a) for variable in range(-1, 202))
    assert bool(first & second) == bool(a & b)


@pytest.mark.parametrize(
    "variables, text",
    [
        ([], "{}"),
        ([4], "{4}"),
        ([0, 1, 2], "{0-2}"),
        ([5, 0, 1, 3, 4, 9], "{0-1, 3-5, 9}"),
    ],
)
def test_scopes_are_written_as_runs(variables: list[int], text: str) -> None:
    assert repr(pc.Scope.of(variables)) == text


def test_a_negative_variable_is_refused() -> None:
    with pytest.raises(StructureError, match="found -1"):
        pc.Scope.of([0, -1])


# Nodes.


def test_units_and_parameter_shapes() -> None:
    x, y, one = _input(0), _input(1, units=3), _input(0, units=1)

    assert x.parameter_shape == (2, 3)
    assert pc.Product(x, _input(1)).num_units == 2
    assert pc.KroneckerProduct(x, y, _input(2, units=5)).num_units == 30
    assert pc.Sum(x, one, num_units=4).parameter_shape == (4, 3)
    assert pc.Sum(x, one, num_units=1).parameter_shape == (3,)
    assert pc.Sum(x, one, num_units=2, mixing=True).parameter_shape == (2, 2)
    assert pc.Sum(one, one, one, num_units=1, mixing=True).parameter_shape == (3,)
    assert set(pc.Product(x, _input(7)).scope) == {0, 7}


def test_nodes_and_circuits_cannot_be_changed() -> None:
    node = _input(units=1)
    circuit = pc.Circuit(node)

    for thing, name in [(node, "num_units"), (pc.Product(node), "children"), (circuit, "root")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, 5)


BAD_NODES: dict[str, tuple[Callable[[], object], str]] = {
    "negative variable": (lambda: _input(-1), "variable must be an integer >= 0, found -1"),
    "true as a variable": (lambda: _input(True), "variable must be an integer >= 0, found True"),
    "true as a category": (
        lambda: pc.Input(0, num_units=1, num_categories=3, supports=((True,),)),
        "support of unit 0 holds True; expected categories 0 .. 2",
    ),
    "true as a start": (lambda: pc.Part("p", True), "start must be an integer >= 0, found True"),
    "no units": (lambda: _input(units=0), "num_units must be an integer >= 1, found 0"),
    "units not a number": (lambda: _input(units=2.0), "num_units must be .* found 2.0"),
    "no categories": (lambda: _input(categories=0), "num_categories must be .* found 0"),
    "product of nothing": (lambda: pc.Product(name="p"), r"Product, name='p': .* found none"),
    "sum of nothing": (lambda: pc.Sum(num_units=1), "Sum: expected at least one child"),
    "child not a node": (lambda: pc.Product(_input(), 3), "children must be nodes, found int"),
    "half a character": (
        lambda: _input(0, parameter="w\ud800"),
        r"parameter must be a non-empty string of Unicode characters or None, found 'w\\ud800'",
    ),
    "sum without units": (lambda: pc.Sum(_input(), num_units=0), "num_units must be .* found 0"),
    "overlap": (
        lambda: pc.Product(_input(0, name="a"), _input(0, name="b"), name="p"),
        r"name='p'.* not decomposable: its child .*name='b'.* shares variables {0}",
    ),
    "overlap of all pairs": (
        lambda: pc.KroneckerProduct(_input(0), _input(1), _input(1)),
        r"KroneckerProduct.* not decomposable.* shares variables {1}",
    ),
    "different units": (
        lambda: pc.Product(_input(0), _input(1, units=5)),
        r"same number of units; found \[2, 5\]",
    ),
    "different scopes": (
        lambda: pc.Sum(_input(0), _input(1), num_units=2, name="s"),
        r"name='s'.* not smooth: .*differ in variables {0-1}; expected equal scopes",
    ),
    "mixing other sizes": (
        lambda: pc.Sum(_input(0), _input(0, units=3), num_units=2, mixing=True),
        r"need 2 units or one; found \[2, 3\]",
    ),
    "root of two units": (lambda: pc.Circuit(_input()), "must have one unit; found 2"),
    "root not a node": (lambda: pc.Circuit("x"), "root must be a node; found .*str"),
    "missing variable": (
        lambda: pc.Circuit(pc.Product(_input(0, units=1), _input(3, units=1))),
        r"0 \.\. 3 without a gap; .* lacks {1-2}",
    ),
    "name twice": (
        lambda: pc.Circuit(pc.Product(_input(0, units=1, name="n"), _input(1, units=1, name="n"))),
        "node names must differ; 'n'",
    ),
    "other categories": (
        lambda: pc.Circuit(
            pc.Sum(_input(0, categories=2, name="a"), _input(0, name="b"), num_units=1)
        ),
        "variable 0 has 2 categories at .*'a'.* and 3 at .*'b'",
    ),
    "tied to another shape": (
        lambda: pc.Circuit(
            pc.Sum(
                _input(0, units=2, parameter="w"), _input(0, units=1, parameter="w"), num_units=1
            )
        ),
        r"parameter 'w' is shared by .*\(2, 3\).* and by .*\(1, 3\)",
    ),
    "tied to another kind": (
        lambda: pc.Circuit(
            pc.Sum(
                pc.Sum(_input(0), num_units=1, parameter="w"),
                pc.Sum(
                    _input(0, units=1), _input(0, units=1), num_units=1, mixing=True, parameter="w"
                ),
                num_units=1,
            )
        ),
        "parameter 'w' is shared by .*same kind and shape",
    ),
}


@pytest.mark.parametrize("kind", BAD_NODES)
def test_bad_structure_is_named(kind: str) -> None:
    make, message = BAD_NODES[kind]

    with pytest.raises(StructureError, match=message):
        make()


def test_all_errors_are_circuit_errors_and_value_errors() -> None:
    names = [name for name in vars(pc.errors) if name.endswith("Error")]

    assert len(names) >= 6
    for name in names:
        assert issubclass(getattr(pc.errors, name), CircuitError)
    assert issubclass(CircuitError, ValueError)


# Circuits.


@given(circuits())
def test_nodes_come_once_each_after_its_children(circuit: pc.Circuit) -> None:
    place = {node: i for i, node in enumerate(circuit.nodes)}

    assert len(place) == len(circuit.nodes)
    assert circuit.nodes[-1] is circuit.root
    for node in circuit.nodes:
        assert all(place[child] < place[node] for child in node.children)


@given(circuits())
def test_names_tell_nodes_apart_and_say_their_parameters(circuit: pc.Circuit) -> None:
    names = circuit.node_names

    assert list(names) == list(circuit.nodes)
    assert len(set(names.values())) == len(names)
    for node, name in names.items():
        assert name == (node.name or name)
    for node, parameter in circuit.parameter_names.items():
        assert parameter == (node.parameter or names[node])
    products = (pc.Product, pc.KroneckerProduct)
    assert set(circuit.parameter_names) == {n for n in names if not isinstance(n, products)}


def test_a_shared_node_is_counted_once() -> None:
    shared = _input(0)
    circuit = pc.Circuit(pc.Sum(shared, pc.Product(shared), num_units=1))

    assert len(circuit.nodes) == 3
    assert repr(circuit) == "Circuit(1 variables, 3 categories, 3 nodes, 2 parameters)"


def test_a_tower_of_sums_may_be_deeper_than_pythons_stack() -> None:
    node: pc.Sum | pc.Input = _input(0, units=1)
    for _ in range(5000):
        node = pc.Sum(node, num_units=1, parameter="same")

    circuit = pc.Circuit(node)

    assert len(circuit.nodes) == 5001
    assert pc.compile_circuit(circuit).num_variables == 1


# Families.

FAMILIES: dict[str, tuple[Callable[[], pc.Circuit], dict[str, tuple[int, ...]]]] = {
    "factorized": (
        lambda: pc.families.factorized(2, 5),
        {"input_0": (1, 5), "input_1": (1, 5)},
    ),
    "mixture": (
        lambda: pc.families.mixture(2, 4, 5),
        {"weights": (4,), "input_0": (4, 5), "input_1": (4, 5)},
    ),
    "hmm": (
        lambda: pc.families.hmm(7, 4, 5),
        {"initial": (4,), "transition": (4, 4), "emission": (4, 5)},
    ),
    "inhomogeneous hmm": (
        lambda: pc.families.hmm(2, 4, 5, homogeneous=False),
        {"initial": (4,), "transition_0": (4, 4), "emission_0": (4, 5), "emission_1": (4, 5)},
    ),
    "hmm of one step": (
        lambda: pc.families.hmm(1, 4, 5),
        {"initial": (4,), "emission": (4, 5)},
    ),
    "gated hmm": (
        lambda: pc.families.gated_hmm(2, 4, 5),
        {
            "initial": (4,),
            "transition": (4, 4),
            "emission": (4, 5),
            "jump_0": (4,),
            "step_gate_0": (4, 2),
            "override_0": (1, 5),
            "override_1": (1, 5),
            "emission_gate_0": (4, 2),
            "emission_gate_1": (4, 2),
        },
    ),
    "tree": (
        lambda: pc.families.binary_tree(3, 4, 5),
        {
            "input_0": (4, 5),
            "input_1": (4, 5),
            "input_2": (4, 5),
            "sum_1_0": (4, 4),
            "root": (4,),
        },
    ),
    "tree of all pairs": (
        lambda: pc.families.binary_tree(3, 4, 5, product="kronecker"),
        {
            "input_0": (4, 5),
            "input_1": (4, 5),
            "input_2": (4, 5),
            "sum_1_0": (4, 16),
            "root": (16,),
        },
    ),
    "tree of one": (
        lambda: pc.families.binary_tree(1, 4, 5),
        {"input_0": (4, 5), "root": (4,)},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_the_documented_parameters(family: str) -> None:
    make, shapes = FAMILIES[family]
    circuit = make()

    assert circuit.num_categories == 5
    assert dict(pc.compile_circuit(circuit).parameter_shapes) == shapes


@pytest.mark.parametrize("make", [pc.families.hmm, pc.families.gated_hmm])
def test_hidden_states_are_named_by_position(make: Callable[..., pc.Circuit]) -> None:
    names = {name: node for node, name in make(3, 4, 5).node_names.items()}

    for position in range(3):
        assert names[f"state_{position}"].num_units == 4
        assert set(names[f"state_{position}"].scope) == {position}


def test_a_tree_of_unknown_products_is_refused() -> None:
    with pytest.raises(ValueError, match="'sideways'"):
        pc.families.binary_tree(3, 4, 5, product="sideways")


@pytest.mark.parametrize(
    "make",
    [
        lambda: pc.families.factorized(0, 2),
        lambda: pc.families.mixture(0, 2, 2),
        lambda: pc.families.hmm(0, 2, 2),
        lambda: pc.families.gated_hmm(0, 2, 2),
        lambda: pc.families.binary_tree(0, 2, 2),
    ],
)
def test_families_of_no_variables_are_refused(make: Callable[[], pc.Circuit]) -> None:
    with pytest.raises(ValueError, match=r"length|at least one"):
        make()
