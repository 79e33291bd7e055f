"""Mixture of factorised distributions (canonical polyadic form, naive Bayes)."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.structure.categories import categories_of
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.nodes import Input, Product, Sum


def mixture(length: int, num_components: int, num_categories: int | Sequence[int]) -> Circuit:
    """Mixture of K factorised distributions, a rank-K canonical polyadic decomposition.

    Parameters: `weights` (K,), `input_0` ... (K, V). Cost: O(L K V) parameters, O(L K) operations.

    Args:
        length: Number of variables L.
        num_components: Number of components K.
        num_categories: Number of categories V of all variables, or of each.

    Returns:
        A circuit of L inputs, one product and one sum.

    Examples:
        Two coins, one fair and one of two heads; which one it was shows after a few throws:

        >>> model = pc.CircuitModel(pc.families.mixture(3, num_components=2, num_categories=2))
        >>> coins = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
        >>> tables = {f"input_{i}": coins for i in range(3)}
        >>> model.set_probabilities({"weights": torch.tensor([0.5, 0.5]), **tables})
        >>> two_heads = pc.Evidence(torch.ones(1, 3).long(), torch.tensor([[True, True, False]]))
        >>> model.marginals(two_heads).detach()[0, 2]  # (0.2 * 0.5, 0.2 * 0.5 + 0.8)
        tensor([0.1000, 0.9000])
    """
    check_length(length)
    inputs = [
        Input(i, num_units=num_components, num_categories=size, name=f"input_{i}")
        for i, size in enumerate(categories_of(num_categories, length))
    ]
    components = Product(*inputs, name="components")
    return Circuit(Sum(components, num_units=1, parameter="weights", name="root"))
