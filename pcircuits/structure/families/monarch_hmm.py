"""Hidden Markov models whose transition is a Monarch matrix, for thousands of states."""

from __future__ import annotations

import math

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_at_least, check_length
from pcircuits.structure.families.packed import chain_root, emissions, packed, tied
from pcircuits.structure.nodes import AnyNode, Product, Sum


def monarch_hmm(
    length: int,
    num_states: int,
    num_categories: int,
    *,
    factors: tuple[int, ...] | None = None,
    homogeneous: bool = True,
) -> Circuit:
    """Hidden Markov model whose dense transition is replaced by a product of sparse stages.

    A state is a tuple of coordinates with f_0, f_1, ... values, K states in all. A transition
    redraws one coordinate after the other, each given all coordinates as they are by then:

        p(z' | z) = p_0(z'_0 | z_0 z_1 ...) p_1(z'_1 | z'_0 z_1 ...) p_2(z'_2 | z'_0 z'_1 ...) ...

    Every stage is a block-diagonal matrix in an order of its own of the states; two of them are a
    Monarch matrix (block-diagonal, permutation, block-diagonal, permutation), and all coordinates
    binary a butterfly matrix. A node holds the states that differ in the last coordinate alone,
    which is redrawn by dense sums; the others are redrawn by mixing nodes. No unit is moved.

    Cost: O(L K (f_0 + f_1 + ...)) operations a row, 2 L K^(3/2) for two equal factors, where a
    dense transition costs O(L K^2); K (f_0 + f_1 + ...) + K V + K parameters.

    Parameters: `initial` (K,), `emission` (K, V), and `transition_A` (K f_A,) for every coordinate
    A, with the distribution of the new coordinate at `i f_A` for state i, whose coordinates before
    A are new ones. Inhomogeneous ones end in the position as in `hmm`: `transition_A_T`,
    `emission_T`. States count like digits, coordinate 0 highest; with M values of the last
    coordinate, state c M + j is unit j of the input `state_T_C` of position T.

    Reference: Zhang, Dang, Wang, Ermon, Peng and Van den Broeck, "Scaling probabilistic circuits
    via Monarch matrices", arXiv 2506.12383, 2025; Dao et al., "Monarch: expressive structured
    matrices for efficient and accurate training", ICML 2022.

    Args:
        length: Number of variables L.
        num_states: Number of states K.
        num_categories: Number of categories V.
        factors: Numbers of values of the coordinates, whose product is K. Default: two factors, as
            close to each other as K allows.
        homogeneous: Whether all positions share one transition and one emission.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range or the factors' product is not the number of
            states.

    Examples:
        >>> monarch = pc.families.monarch_hmm(8, num_states=256, num_categories=5)
        >>> dense = pc.families.hmm(8, num_states=256, num_categories=5)
        >>> [pc.compile_circuit(c).cost().num_parameters for c in (monarch, dense)]
        [9728, 67072]
    """
    check_length(length)
    check_at_least("num_states", num_states, 1)
    sizes = _balanced(num_states) if factors is None else tuple(factors)
    _check_factors(sizes, num_states)
    num_nodes = num_states // sizes[-1]
    chain: list[AnyNode] = []
    for t in reversed(range(length)):
        name = tied("emission", t, homogeneous)
        states = emissions(t, num_nodes, sizes[-1], num_categories, name)
        if chain:
            # From the end of the step to its start, as the chain runs from its last variable.
            for coordinate in reversed(range(len(sizes))):
                name = tied(f"transition_{coordinate}", t, homogeneous)
                chain = _stage(chain, sizes, coordinate, name)
            chain = [Product(*pair) for pair in zip(states, chain, strict=True)]
        else:
            chain = states
    return chain_root(chain)


def _stage(
    chain: list[AnyNode], sizes: tuple[int, ...], coordinate: int, name: str
) -> list[AnyNode]:
    """Sums one new coordinate out; the others stay."""
    units, size = sizes[-1], sizes[coordinate]
    last = coordinate == len(sizes) - 1
    # Nodes whose numbers differ in this coordinate alone are this far apart.
    stride = math.prod(sizes[coordinate + 1 : -1])
    stage: list[AnyNode] = []
    for place, node in enumerate(chain):
        first = place - place // stride % size * stride
        children = [node] if last else [chain[first + value * stride] for value in range(size)]
        part = packed(name, place, units * size)
        stage.append(Sum(*children, num_units=units, mixing=not last, parameter=part))
    return stage


def _balanced(num_states: int) -> tuple[int, int]:
    """The two factors of a number that are closest to each other, the larger one last."""
    small = next(f for f in range(math.isqrt(num_states), 0, -1) if num_states % f == 0)
    return small, num_states // small


def _check_factors(factors: tuple[int, ...], num_states: int) -> None:
    check_at_least("number of factors", len(factors), 2)
    for factor in factors:
        check_at_least("factor", factor, 1)
    if math.prod(factors) != num_states:
        raise StructureError(
            f"the product of the factors must be the {num_states} states; found {factors}"
        )
