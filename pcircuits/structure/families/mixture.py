"""Mixture of factorised distributions (canonical polyadic form, naive Bayes)."""

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.nodes import Input, Product, Sum


def mixture(length: int, num_components: int, num_categories: int) -> Circuit:
    """Mixture of K factorised distributions, a rank-K canonical polyadic decomposition.

    Parameters: `weights` (K,), `input_0` ... (K, V). Cost: O(L K V) parameters, O(L K) operations.

    Args:
        length: Number of variables L.
        num_components: Number of components K.
        num_categories: Number of categories V.

    Returns:
        A circuit of L inputs, one product and one sum.
    """
    check_length(length)
    inputs = [
        Input(i, num_units=num_components, num_categories=num_categories, name=f"input_{i}")
        for i in range(length)
    ]
    components = Product(*inputs, name="components")
    return Circuit(Sum(components, num_units=1, parameter="weights", name="root"))
