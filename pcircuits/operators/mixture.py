"""Mixtures of whole circuits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pcircuits.errors import ParameterError, StructureError
from pcircuits.operators.assembly import Assembler
from pcircuits.operators.condition import gathered_root
from pcircuits.operators.rewriting import copied, rewritten
from pcircuits.operators.tables import Weight, dtype_of
from pcircuits.operators.units import Units
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import Input


def mixture(
    components: Sequence[WeightedCircuit], weights: Sequence[float] | None = None
) -> WeightedCircuit:
    """Weighted sum of circuits of the same variables.

    Nodes and parameters of component i are named as before with `component_i.` in front; the new
    root's parameter is `mixture_weights`. Nothing is shared between components.

    Args:
        components: The circuits.
        weights: One non-negative factor for each; default: equal shares.

    Returns:
        The mixture, as normalised as its components and weights are.

    Raises:
        StructureError: If there is no component or the components' variables differ.
        ParameterError: If the weights are not as many non-negative numbers, or all zero.

    Examples:
        >>> ones, zeros = (
        ...     pc.chow_liu(torch.full((1, 2), v), pseudocount=0, num_categories=2) for v in (1, 0)
        ... )
        >>> both = pc.CircuitModel.of(pc.operators.mixture([ones, zeros], weights=[0.3, 0.7]))
        >>> worlds = torch.tensor([[1, 1], [0, 0], [0, 1]])
        >>> both.log_likelihood(worlds).exp().detach()
        tensor([0.3000, 0.7000, 0.0000], dtype=torch.float64)
    """
    if not components:
        raise StructureError("a mixture needs at least one component; found none")
    for number, component in enumerate(components):
        expected, found = components[0].circuit.categories, component.circuit.categories
        if found != expected:
            raise StructureError(
                f"component {number} of the mixture has variables of {found} categories; component "
                f"0 has {expected}"
            )
    shares = _checked(weights, len(components))
    assembler = Assembler(dtype_of(*components))
    roots = [
        _component(assembler, component, f"component_{i}.")
        for i, component in enumerate(components)
    ]
    table = torch.tensor([shares], dtype=assembler.dtype).log()
    weight = Weight(table, "mixture_weights", "mixture_weights")
    return assembler.build(assembler.sum(roots, 1, weight, name="mixture"))


def _component(assembler: Assembler, weighted: WeightedCircuit, prefix: str) -> int:
    def leaf(node: Input) -> Units:
        return copied(assembler, weighted, node, prefix=prefix)

    return gathered_root(assembler, rewritten(assembler, weighted, leaf, prefix=prefix))


def _checked(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    shares = [float(weight) for weight in weights]
    if len(shares) != count:
        raise ParameterError(f"expected one weight for each of {count} components; found {shares}")
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not any(shares):
        raise ParameterError(f"weights must be finite, >= 0 and not all zero; found {shares}")
    return shares
