"""Vtrees and compatibility: what fits is split alike, what does not is shown to differ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given

import pcircuits as pc
from pcircuits.validate import Clash, Vtree, compatible, validate
from tests.support.circuits import circuits


def _leaf(variable: int) -> pc.Input:
    return pc.Input(variable, num_units=1, num_categories=2)


def _product(*parts: int | tuple, name: str | None = None) -> pc.Product | pc.Input:
    """Nested variables as nested products."""
    factors = [_leaf(part) if isinstance(part, int) else _product(*part) for part in parts]
    return pc.Product(*factors, name=name)


def _sum(*products: tuple) -> pc.Circuit:
    return pc.Circuit(pc.Sum(*(_product(*parts) for parts in products), num_units=1))


def _products(circuit: pc.Circuit) -> Iterator[pc.Product | pc.KroneckerProduct]:
    return (n for n in circuit.nodes if isinstance(n, (pc.Product, pc.KroneckerProduct)))


def _follows(circuit: pc.Circuit, vtree: Vtree) -> bool:
    """Whether each factor of a product lies inside one part of the vtree's node, or is cut off."""
    at = {scope.bits: [vtree.scopes[p].bits for p in parts]
          for scope, parts in zip(vtree.scopes, vtree.parts, strict=True)}  # fmt: skip
    for product in _products(circuit):
        stack = [product.scope.bits]
        factors = [child.scope.bits for child in product.children]
        while stack:
            bits = stack.pop()
            inside = [factor for factor in factors if factor & bits]
            if inside == [bits]:
                continue
            if any(sum(bool(factor & part) for part in at[bits]) != 1 for factor in inside):
                return False
            stack += at[bits]
    return True


@given(circuits())
def test_a_vtree_is_followed_and_a_clash_is_one(circuit: pc.Circuit) -> None:
    properties = validate(circuit)

    if properties.vtree is not None:
        assert _follows(circuit, properties.vtree)
        assert properties.vtree.num_variables == circuit.num_variables
    else:
        assert "are not structured" in str(properties)
    assert properties.structured_decomposable == bool(compatible(circuit, circuit))


@given(circuits(), circuits())
def test_a_circuit_that_follows_a_vtree_fits_one_that_does(
    first: pc.Circuit, second: pc.Circuit
) -> None:
    found = compatible(first, second)
    vtree = validate(first).vtree

    if first.categories != second.categories:
        assert not found and found.clash is None
    elif vtree is not None and _follows_or_fails(second, vtree):
        assert found
    if found.clash is not None:
        _check_clash(first, second, found.clash)
    assert bool(compatible(second, first)) == bool(found)


def _follows_or_fails(circuit: pc.Circuit, vtree: Vtree) -> bool:
    try:
        return _follows(circuit, vtree)
    except KeyError:  # a product's scope is no node of the vtree
        return False


def _check_clash(first: pc.Circuit, second: pc.Circuit, clash: Clash) -> None:
    """No variable can be separated from the others without cutting a factor of either product."""
    for circuit, name, split in zip((first, second), clash.products, clash.splits, strict=True):
        node = next(n for n, own in circuit.node_names.items() if own == name)
        assert split <= {child.scope.bits for child in node.children}
    reached = 1 << next(iter(clash.scope))
    for _ in range(len(clash.scope)):
        for part in (*clash.splits[0], *clash.splits[1]):
            reached |= part if part & reached else 0
    assert reached == clash.scope.bits


@pytest.mark.parametrize(
    ("circuit", "text"),
    [
        (pc.families.factorized(3, 2), "(0 1 2)"),
        (pc.families.hmm(4, 2, 2), "(0 (1 (2 3)))"),
        (pc.families.binary_tree(5, 2, 2), "(((0 1) (2 3)) 4)"),
        (pc.Circuit(_leaf(0)), "0"),
        (_sum((0, 1, 2, 3), ((0, 1), (2, 3))), "((0 1) (2 3))"),
        (_sum(((0, 1), 2, 3), (0, 1, (2, 3))), "((0 1) (2 3))"),
        (_sum((0, (2, 1)), ((1, 2), 0)), "(0 (1 2))"),
        (_sum(((0, 1, 2), 3), (0, (1, 2), 3)), "((0 (1 2)) 3)"),
    ],
)
def test_vtrees(circuit: pc.Circuit, text: str) -> None:
    vtree = validate(circuit).vtree

    assert vtree is not None
    assert vtree.to_text() == str(vtree) == text
    assert str(vtree.nested()).replace(",", "") == text


def test_three_splits_that_overlap_in_a_circle() -> None:
    circuit = _sum(((0, 1), 2, 3), ((1, 2), 0, 3), ((2, 3), 0, 1))

    assert not compatible(circuit, circuit)
    assert "split {0-2} into {0-1} | {2} and into {0} | {1-2}" in str(validate(circuit))


def test_what_a_wide_product_does_not_say_is_checked_further_down() -> None:
    circuit = _sum((((0, 1), 2), 3), (0, (1, 2), 3))

    assert not compatible(circuit, circuit)
    assert "split {0-2} into {0} | {1-2} and into {0-1} | {2}" in str(validate(circuit))


def test_sizes_of_a_vtree() -> None:
    tree = validate(pc.families.binary_tree(5, 2, 2)).vtree
    chain = validate(pc.families.hmm(3000, 1, 2)).vtree

    assert repr(tree) == "Vtree(5 variables, binary, depth 3)"
    assert (chain.depth, chain.num_variables) == (2999, 3000)
    assert chain.to_text().startswith("(0 (1 (2 ")
    assert not validate(pc.families.factorized(3, 2)).vtree.binary


@given(circuits())
def test_independent_variables_fit_everything(circuit: pc.Circuit) -> None:
    inputs = [
        pc.Input(v, num_units=1, num_categories=size) for v, size in enumerate(circuit.categories)
    ]
    factorized = pc.Circuit(pc.Product(*inputs))

    assert compatible(circuit, factorized)
    assert compatible(factorized, circuit)


def test_incompatible_circuits_are_explained() -> None:
    chain = pc.Circuit(_product(0, (1, 2), name="chain"))
    other = pc.Circuit(_product((0, 1), 2, name="other"))

    assert str(compatible(chain, other)) == (
        "not compatible: product 'chain' of the first circuit splits {0-2} into {0} | {1-2} and "
        "product 'other' of the second into {0-1} | {2}"
    )
    assert "different variables, with 3 of 2, 2, 2 categories and 2 of 2, 2 categories" in str(
        compatible(chain, pc.Circuit(_product(0, 1)))
    )


def test_what_is_left_of_a_product_may_not_fit() -> None:
    """Both cut off variable 4; what is left of them differs, and one is a product of products."""
    first = pc.Circuit(pc.Product(_product(0, 1), _product(2, 3), _leaf(4), name="first"))
    second = pc.Circuit(pc.Product(_product((0, 2), (1, 3)), _leaf(4)))

    clash = compatible(first, second).clash

    assert clash is not None
    assert clash.products[0] == "first"
    assert clash.texts() == ("{0-1} | {2-3}", "{0, 2} | {1, 3}")
    assert validate(second).structured_decomposable


def test_the_page_for_notebooks_holds_what_is_printed() -> None:
    circuit = pc.Circuit(pc.Sum(_product(0, (1, 2)), _product((0, 1), 2, name="a<b"), num_units=1))
    properties = validate(circuit)

    html = properties._repr_html_()

    assert "a&lt;b" in html and "a<b" not in html
    for word in ("smooth", "decomposable", "structured-decomposable", "deterministic", "depth"):
        assert word in html and word in str(properties)
