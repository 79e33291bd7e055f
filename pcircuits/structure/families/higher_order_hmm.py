"""Hidden Markov models of higher order: the next state depends on several states before it."""

from __future__ import annotations

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_at_least, check_length
from pcircuits.structure.nodes import AnyNode, Input, Part, Product, Sum


def higher_order_hmm(length: int, order: int, num_states: int, num_categories: int) -> Circuit:
    """Homogeneous hidden Markov model with p(z_t | z_{t-order}, ..., z_{t-1}).

    The chain remembers the last n = `order` states, K^n tuples, and a step only sums over the new
    state: O(L K^(n+1)) operations a row and not O(L K^(2n)), by 2 L K^n nodes of one unit. With
    order 1 it is `hmm` with other node names.

    Parameters: `initial` (K^n,) of the first n states together, `transition` (K^(n+1),) with the
    distribution of z_t at `i K` for the tuple number i, and `emission` (K, V). Tuples count like
    digits, the oldest state first: i = z_{t-n} K^(n-1) + ... + z_{t-1}. A chain of L <= n variables
    has no transition, and `initial` (K^L,). The input of position t and state k is `state_T_K`.

    Reference: Mari, Haton and Kriouile, "Automatic word recognition based on second-order hidden
    Markov models", IEEE Transactions on Speech and Audio Processing 5(1), 1997, for order 2.

    Args:
        length: Number of variables L.
        order: Number of states n that the next one depends on.
        num_states: Number of states K.
        num_categories: Number of categories V.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range.

    Examples:
        >>> circuit = pc.families.higher_order_hmm(6, order=2, num_states=3, num_categories=5)
        >>> model = pc.CircuitModel(circuit)
        >>> {name: tuple(table.shape) for name, table in model.probabilities().items()}
        {'emission': (3, 5), 'transition': (27,), 'initial': (9,)}
    """
    check_length(length)
    check_at_least("order", order, 1)
    check_at_least("num_states", num_states, 1)
    memory = min(order, length)
    states = [_states(t, num_states, num_categories) for t in range(length)]
    # One node for each tuple of states t - n + 1 .. t: what comes after t, given the tuple.
    suffix: list[AnyNode] | None = None
    for t in range(length - 1, memory - 1, -1):
        suffix = _step(suffix, states[t], num_states**memory)
    worlds = [
        Product(*_emissions(i, states[:memory]), *([] if suffix is None else [suffix[i]]))
        for i in range(num_states**memory)
    ]
    return Circuit(Sum(*worlds, num_units=1, parameter="initial", name="root"))


def _states(t: int, num_states: int, num_categories: int) -> list[AnyNode]:
    return [
        Input(
            t,
            num_units=1,
            num_categories=num_categories,
            parameter=Part("emission", k),
            name=f"state_{t}_{k}",
        )
        for k in range(num_states)
    ]


def _step(suffix: list[AnyNode] | None, states: list[AnyNode], num_tuples: int) -> list[AnyNode]:
    """Sums the new state out: given a tuple of the states before it, nothing else is left open."""
    size = len(states)
    if suffix is None:
        emitted: list[AnyNode] = [states[i % size] for i in range(num_tuples)]
    else:
        emitted = [Product(states[i % size], suffix[i]) for i in range(num_tuples)]
    # The tuples that follow tuple i are its last states and the new one: i K mod K^n onwards.
    return [
        Sum(
            *(emitted[(i * size + k) % num_tuples] for k in range(size)),
            num_units=1,
            parameter=Part("transition", i * size),
        )
        for i in range(num_tuples)
    ]


def _emissions(number: int, states: list[list[AnyNode]]) -> list[AnyNode]:
    """The inputs of the tuple of states with the given number."""
    chosen: list[AnyNode] = []
    for inputs in reversed(states):
        number, state = divmod(number, len(inputs))
        chosen.append(inputs[state])
    return chosen[::-1]
