"""Hidden Markov models whose transition is block-diagonal plus low-rank."""

from __future__ import annotations

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_at_least, check_length
from pcircuits.structure.families.packed import chain_root, emissions, packed, tied
from pcircuits.structure.nodes import AnyNode, Product, Sum


def block_hmm(
    length: int,
    num_states: int,
    num_categories: int,
    *,
    num_blocks: int,
    rank: int,
    homogeneous: bool = True,
) -> Circuit:
    """Hidden Markov model with K states in C blocks of M and R routes between the blocks.

    From a state the chain moves to a state of its own block, or takes one of R routes, each a
    distribution over all states: transition = block-diagonal + U V with U (K, R) and V (R, K).
    Cost: O(L K (M + 2 R)) operations a row, where a dense transition costs O(L K^2), and
    K (M + 2 R) + K V + K parameters for V categories.

    Parameters: `initial` (K,), `emission` (K, V), `route` (R, K) with the rows of V, and
    `transition` (K (M + R),) with a distribution for each state, first over the states of its block
    and then over the routes. Inhomogeneous ones end in the position, `transition_0` ...
    `transition_{L-2}`, `emission_0` ... as in `hmm`. State c M + j is unit j of the input
    `state_T_C` of position T and block C.

    Reference: the low-rank part is Chiu, Deng and Rush, "Low-rank constraints for fast inference in
    structured models", NeurIPS 2021; the blocks keep what such a rank cannot hold.

    Args:
        length: Number of variables L.
        num_states: Number of states K.
        num_categories: Number of categories V.
        num_blocks: Number of blocks C, a divisor of K. With K blocks of one state, a state returns
            to itself or takes a route.
        rank: Number of routes R; 0 for blocks that nothing leaves, a mixture of C models.
        homogeneous: Whether all positions share one transition and one emission.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range or `num_blocks` does not divide `num_states`.

    Examples:
        >>> blocks = pc.families.block_hmm(8, 64, num_categories=5, num_blocks=8, rank=4)
        >>> dense = pc.families.hmm(8, num_states=64, num_categories=5)
        >>> [pc.compile_circuit(c).cost().num_parameters for c in (blocks, dense)]
        [1408, 4480]
    """
    check_length(length)
    check_at_least("num_states", num_states, 1)
    check_at_least("num_blocks", num_blocks, 1)
    check_at_least("rank", rank, 0)
    if num_states % num_blocks:
        raise StructureError(
            f"num_blocks must divide the {num_states} states; found {num_blocks} blocks"
        )
    chain: list[AnyNode] = []
    for t in reversed(range(length)):
        states = emissions(
            t,
            num_blocks,
            num_states // num_blocks,
            num_categories,
            tied("emission", t, homogeneous),
        )
        if chain:
            steps = _step(t, chain, rank, homogeneous)
            chain = [Product(*pair) for pair in zip(states, steps, strict=True)]
        else:
            chain = states
    return chain_root(chain)


def _step(t: int, chain: list[AnyNode], rank: int, homogeneous: bool) -> list[AnyNode]:
    routes: list[AnyNode] = []
    if rank:
        name = tied("route", t, homogeneous)
        routes = [Sum(*chain, num_units=rank, parameter=name, name=f"routes_{t}")]
    name = tied("transition", t, homogeneous)
    size = chain[0].num_units
    return [
        Sum(block, *routes, num_units=size, parameter=packed(name, c, size * (size + rank)))
        for c, block in enumerate(chain)
    ]
