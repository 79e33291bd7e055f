"""Structural properties, also of circuits whose own checks were circumvented."""

from __future__ import annotations

import pytest
from hypothesis import given

import pcircuits as pc
from pcircuits.validate import validate
from tests.support.circuits import circuits


def _input(variable: int, name: str | None = None) -> pc.Input:
    return pc.Input(variable, num_units=1, num_categories=2, name=name)


@given(circuits())
def test_every_circuit_that_can_be_made_is_smooth_and_decomposable(circuit: pc.Circuit) -> None:
    properties = validate(circuit)

    assert properties.smooth
    assert properties.decomposable
    assert properties.structured_decomposable == (not properties.violations)
    assert properties.num_nodes == len(circuit.nodes)


@pytest.mark.parametrize(
    "circuit",
    [
        pc.families.factorized(4, 2),
        pc.families.mixture(4, 3, 2),
        pc.families.hmm(5, 3, 2),
        pc.families.gated_hmm(5, 3, 2),
        pc.families.binary_tree(6, 3, 2, product="kronecker"),
    ],
    ids=repr,
)
def test_families_are_structured(circuit: pc.Circuit) -> None:
    assert validate(circuit).structured_decomposable


def test_two_splits_of_one_scope_are_not_structured() -> None:
    def split(a: int, b: int, c: int, name: str) -> pc.Product:
        return pc.Product(_input(a), pc.Product(_input(b), _input(c)), name=name)

    circuit = pc.Circuit(pc.Sum(split(0, 1, 2, "first"), split(2, 0, 1, "second"), num_units=1))

    properties = validate(circuit)

    assert not properties.structured_decomposable
    assert properties.violations == (
        "products 'first' and 'second' are not structured: they split {0-2} into {0} | {1-2} and "
        "into {0-1} | {2}",
    )


def test_the_order_of_factors_and_products_of_one_child_do_not_matter() -> None:
    first = pc.Product(_input(0), _input(1))
    second = pc.KroneckerProduct(_input(1), _input(0))
    circuit = pc.Circuit(pc.Sum(first, pc.Product(second), num_units=1))

    assert validate(circuit).structured_decomposable


def test_counts() -> None:
    shared = pc.Input(0, num_units=3, num_categories=2)
    circuit = pc.Circuit(pc.Sum(shared, pc.Product(shared), num_units=1))

    properties = validate(circuit)

    assert (properties.num_nodes, properties.num_edges) == (3, 3)
    assert (properties.num_units, properties.depth) == (7, 2)


def test_a_circumvented_check_is_noticed() -> None:
    product = pc.Product(_input(0), _input(1), name="product")
    total = pc.Sum(product, num_units=1, name="sum")
    object.__setattr__(product, "children", (_input(0), pc.Product(_input(0), _input(1))))
    object.__setattr__(total, "children", (product, _input(0)))

    properties = validate(pc.Circuit(total))

    assert not properties.smooth
    assert not properties.decomposable
    assert not properties.structured_decomposable
    assert properties.violations == (
        "sum 'sum' is not smooth: it sums over {0} and {0-1}",
        "product 'product' is not decomposable: it multiplies {0} and {0-1}",
    )
