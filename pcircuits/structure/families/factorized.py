"""Fully factorised distribution."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.structure.categories import categories_of
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.nodes import Input, Product


def factorized(length: int, num_categories: int | Sequence[int]) -> Circuit:
    """Product of independent categorical distributions.

    Parameters `input_0` ... of shape (1, V). Cost: O(L V) parameters.

    Args:
        length: Number of variables L.
        num_categories: Number of categories V of all variables, or of each.

    Returns:
        A circuit of L inputs under one product.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(length=2, num_categories=2))
        >>> tables = {"input_0": torch.tensor([[0.5, 0.5]]), "input_1": torch.tensor([[0.2, 0.8]])}
        >>> model.set_probabilities(tables)
        >>> model.log_likelihood(torch.tensor([[1, 1]])).exp().detach()  # 0.5 * 0.8
        tensor([0.4000])
    """
    check_length(length)
    inputs = [
        Input(i, num_units=1, num_categories=size, name=f"input_{i}")
        for i, size in enumerate(categories_of(num_categories, length))
    ]
    return Circuit(Product(*inputs, name="root"))
