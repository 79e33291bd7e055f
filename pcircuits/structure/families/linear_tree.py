"""Linear trees: variables are split off one at a time, as in a tensor train."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.partitions import Partition
from pcircuits.structure.region_graph import RegionGraph
from pcircuits.structure.scope import Scope


def linear_tree(
    length: int,
    num_units: int,
    num_categories: int | Sequence[int],
    *,
    order: Sequence[int] | None = None,
    product: str = "elementwise",
    num_input_units: int | None = None,
) -> Circuit:
    """Tree whose every partition splits one variable off the rest.

    With elementwise products it is an inhomogeneous hidden Markov model whose last transition is
    part of the last emission, with all pairs a tensor train (matrix product state) of non-negative
    numbers.
    Parameters and sizes: see `RegionGraph.to_circuit`. Structured decomposable. Cost: L - 1
    products, O(L K^2) operations a row with elementwise products, O(L K^3) for all pairs; O(L)
    layers, where balanced trees have O(log L).

    Reference: Oseledets, "Tensor-train decomposition", SIAM Journal on Scientific Computing 33(5),
    2011; Loconte et al., "What is the relationship between tensor factorizations and circuits (and
    how can we exploit it)?", TMLR 2025.

    Args:
        length: Number of variables L.
        num_units: Number of units K of every region.
        num_categories: Number of categories of all variables, or of each.
        order: The variables as they are split off, first to last. Default: 0 .. L-1.
        product: "elementwise", or "kronecker" for all pairs.
        num_input_units: Number of units of the inputs. Default: K.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range, `order` is not an order of the variables or
            `product` is neither.

    Examples:
        >>> circuit = pc.families.linear_tree(4, num_units=2, num_categories=3, order=[3, 1, 0, 2])
        >>> str(pc.validate(circuit).vtree)
        '(((0 2) 1) 3)'
    """
    graph = linear_tree_regions(length, order=order)
    return graph.to_circuit(
        num_units, num_categories, product=product, num_input_units=num_input_units
    )


def linear_tree_regions(length: int, *, order: Sequence[int] | None = None) -> RegionGraph:
    """The region graph of `linear_tree`.

    Args:
        length: Number of variables L.
        order: The variables as they are split off, first to last. Default: 0 .. L-1.

    Returns:
        The region graph, a chain of L - 1 partitions.

    Raises:
        StructureError: If the length is out of range or `order` is not an order of the variables.

    Examples:
        >>> graph = pc.families.linear_tree_regions(5)
        >>> graph.num_partitions, len(graph.leaves)
        (4, 5)
    """
    check_length(length)
    variables = list(range(length) if order is None else order)
    if sorted(variables) != list(range(length)):
        raise StructureError(
            f"order must hold each of the variables 0 .. {length - 1} once; found {variables}"
        )
    region = Scope.of(variables[-1:])
    partitions: dict[Scope, tuple[Partition, ...]] = {}
    for variable in reversed(variables[:-1]):
        first, rest = Scope.of((variable,)), region
        region = first | rest
        partitions[region] = ((first, rest),)
    return RegionGraph(region, partitions)
