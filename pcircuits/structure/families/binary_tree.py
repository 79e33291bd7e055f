"""Balanced binary trees of sums and products."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.structure.categories import categories_of
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum


def binary_tree(
    length: int,
    num_units: int,
    num_categories: int | Sequence[int],
    *,
    product: str = "elementwise",
) -> Circuit:
    """Balanced binary tree over L variables with K units at every node.

    Neighbouring nodes are multiplied and mixed, level by level, until one is left. Parameters:
    `input_0` ... (K, V), `sum_LEVEL_PLACE` (K, K), or (K, K * K) for all pairs, `root` with one
    row. Cost: O(L K^2) operations a row for elementwise products, O(L K^3) for all pairs.

    Args:
        length: Number of variables L.
        num_units: Number of units K.
        num_categories: Number of categories V of all variables, or of each.
        product: "elementwise", or "kronecker" for all pairs.

    Returns:
        The circuit.

    Raises:
        ValueError: If `product` is neither.

    Examples:
        >>> circuit = pc.families.binary_tree(length=8, num_units=4, num_categories=3)
        >>> cost = pc.compile_circuit(circuit).cost()
        >>> cost.num_layers, cost.num_parameters  # 8 inputs and 6 sums of 4 units, and the root
        (7, 196)
        >>> str(pc.validate(circuit).vtree)
        '(((0 1) (2 3)) ((4 5) (6 7)))'
    """
    check_length(length)
    if product not in ("elementwise", "kronecker"):
        raise ValueError(f"product must be 'elementwise' or 'kronecker', found {product!r}")
    make = Product if product == "elementwise" else KroneckerProduct
    level: list[AnyNode] = [
        Input(i, num_units=num_units, num_categories=size, name=f"input_{i}")
        for i, size in enumerate(categories_of(num_categories, length))
    ]
    depth = 0
    while len(level) > 1:
        depth += 1
        pairs = [make(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        # The top sum is the root itself: a sum of sums would add weights without adding functions.
        top = len(pairs) == 1 and len(level) == 2
        mixed: list[AnyNode] = [
            Sum(pair, num_units=1 if top else num_units, name="root" if top else f"sum_{depth}_{i}")
            for i, pair in enumerate(pairs)
        ]
        level = mixed + level[2 * len(pairs) :]
    return Circuit(level[0] if length > 1 else Sum(level[0], num_units=1, name="root"))
