"""Hidden Markov models as circuits: the chain is built from its last variable to its first."""

from __future__ import annotations

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.nodes import AnyNode, Input, Product, Sum


def hmm(length: int, num_states: int, num_categories: int, *, homogeneous: bool = True) -> Circuit:
    """Hidden Markov model over L categorical variables.

    Homogeneous parameters: `initial` (K,), `transition` (K, K) with row i = p(next = . | i),
    `emission` (K, V). Inhomogeneous ones: `initial`, `transition_0` ... `transition_{L-2}` (from
    position t to t + 1) and `emission_0` ... `emission_{L-1}`. The input of position t is named
    `state_t`, so latent potentials by that name weight the states of position t.
    Cost: O(L K (K + V)) operations a row.

    Args:
        length: Number of variables L.
        num_states: Number of states K.
        num_categories: Number of categories V.
        homogeneous: Whether all positions share one transition and one emission.

    Returns:
        The circuit.

    Examples:
        States that stay with probability 0.9, and show themselves:

        >>> model = pc.CircuitModel(pc.families.hmm(length=3, num_states=2, num_categories=2))
        >>> model.set_probabilities({
        ...     "initial": torch.tensor([0.5, 0.5]),
        ...     "transition": torch.tensor([[0.9, 0.1], [0.1, 0.9]]),
        ...     "emission": torch.eye(2),
        ... })
        >>> first = torch.tensor([[True, False, False]])
        >>> first_is_1 = pc.Evidence(torch.tensor([[1, 0, 0]]), observed=first)
        >>> model.marginals(first_is_1).detach()[0, :, 1]  # 1, 0.9, 0.9 * 0.9 + 0.1 * 0.1
        tensor([1.0000, 0.9000, 0.8200])
    """
    return _chain(length, num_states, num_categories, homogeneous=homogeneous, gated=False)


def gated_hmm(length: int, num_states: int, num_categories: int) -> Circuit:
    """Homogeneous hidden Markov model whose every step and emission can be overridden.

    Between positions t and t + 1 state i moves by the shared `transition` with probability
    `step_gate_t[i, 0]` and otherwise jumps to a state drawn from `jump_t` (K,), whatever i is. At
    position t state i emits by the shared `emission` with probability `emission_gate_t[i, 0]` and
    otherwise from `override_t` (1, V). These four are made to be given per example, by a network:
    with all gates at 1 it is the plain model, with all at 0 a factorised distribution.
    Cost: as `hmm` plus O(L (K + V)).

    Args:
        length: Number of variables L.
        num_states: Number of states K.
        num_categories: Number of categories V.

    Returns:
        The circuit, with inputs named as in `hmm` up to the mixing node `state_t`.

    Examples:
        With all gates closed only the overriding tables count:

        >>> plan = pc.compile_circuit(pc.families.gated_hmm(2, num_states=3, num_categories=2))
        >>> weights = pc.random_parameters(plan)
        >>> closed = torch.tensor([0.0, 1.0]).log().expand(3, 2)
        >>> weights |= {name: closed for name in weights if "gate" in name}
        >>> weights |= {f"override_{t}": torch.tensor([[0.2, 0.8]]).log() for t in range(2)}
        >>> pc.forward(plan, weights, pc.Evidence(torch.tensor([[1, 1]]))).exp()  # 0.8 * 0.8
        tensor([0.6400])
    """
    return _chain(length, num_states, num_categories, homogeneous=True, gated=True)


def _chain(
    length: int, num_states: int, num_categories: int, *, homogeneous: bool, gated: bool
) -> Circuit:
    check_length(length)

    def tied(name: str, position: int) -> str:
        return name if homogeneous else f"{name}_{position}"

    chain: AnyNode | None = None
    for t in reversed(range(length)):
        state = _emission(t, num_states, num_categories, tied("emission", t), gated)
        if chain is not None:
            step = _step(t, chain, num_states, tied("transition", t), gated)
            state = Product(state, step, name=f"suffix_{t}")
        chain = state
    assert chain is not None, "the length was checked"
    return Circuit(Sum(chain, num_units=1, parameter="initial", name="root"))


def _emission(t: int, num_states: int, num_categories: int, name: str, gated: bool) -> AnyNode:
    if not gated:
        return Input(
            t,
            num_units=num_states,
            num_categories=num_categories,
            parameter=name,
            name=f"state_{t}",
        )
    shared = Input(t, num_units=num_states, num_categories=num_categories, parameter=name)
    override = Input(t, num_units=1, num_categories=num_categories, parameter=f"override_{t}")
    return Sum(
        shared,
        override,
        num_units=num_states,
        mixing=True,
        parameter=f"emission_gate_{t}",
        name=f"state_{t}",
    )


def _step(t: int, chain: AnyNode, num_states: int, name: str, gated: bool) -> AnyNode:
    step = Sum(chain, num_units=num_states, parameter=name, name=f"step_{t}")
    if not gated:
        return step
    jump = Sum(chain, num_units=1, parameter=f"jump_{t}")
    return Sum(
        step,
        jump,
        num_units=num_states,
        mixing=True,
        parameter=f"step_gate_{t}",
        name=f"gated_step_{t}",
    )
