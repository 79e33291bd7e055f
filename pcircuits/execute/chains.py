"""Hidden Markov chains among plans, and what passes over them are given and give back.

A chain's passes need no look at a value to know what comes next, so they can be recorded once for
given shapes and replayed. `chain_torch` and `triton/chain` carry them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Operand, Plan, ProductLayer, SumLayer
from pcircuits.errors import BackendError
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import Weights


@dataclass(frozen=True, eq=False)
class ChainTables:
    """The log-weights of a chain of L variables and K states.

    Attributes:
        initial: (K,) of the first state.
        transitions: L - 1 tables (K, K), row i = next state given i; one object where shared.
        emission: The weights of the inputs, (1 or L, 1, K, V).
    """

    initial: Tensor
    transitions: tuple[Tensor, ...]
    emission: Weights


@dataclass(frozen=True, eq=False)
class ChainWindow:
    """What is known of the L variables of B examples, as tensors alone.

    Nothing is checked, for that would ask the device: potentials are below +inf, observed values
    are categories.

    Args:
        log_potentials: (B, L, V) floats, used where not observed; (B, L, J) with `categories`.
        values: (B, L) int64; irrelevant where not observed.
        observed: (B, L) bool.
        categories: (B, L, J) int64, what the last axis of `log_potentials` speaks of; all others
            have potential zero.
        missing: (B, L) bool, variables that are summed out whatever their potentials.
        latent: (B, L, K) log-potentials of the states.

    Examples:
        Of three variables the first is 1, and the second is 1 three times as likely as it was:

        >>> potentials = torch.zeros(1, 3, 2)
        >>> potentials[0, 1, 1] = torch.tensor(3.0).log()
        >>> values = torch.tensor([[1, 0, 0]])
        >>> known = torch.tensor([[True, False, False]])
        >>> window = pc.queries.ChainWindow(potentials, values, known)
        >>> window.with_observed(torch.zeros(1, 3, 2))[0]
        tensor([[0., 1.],
                [0., 0.],
                [0., 0.]])
    """

    log_potentials: Tensor
    values: Tensor
    observed: Tensor
    categories: Tensor | None = None
    missing: Tensor | None = None
    latent: Tensor | None = None

    def with_observed(self, found: Tensor) -> Tensor:
        """Sets (B, L, V or J) to 1 at the values of observed variables, where it is 0."""
        if self.categories is not None:
            return found.masked_fill_(
                (self.categories == self.values[..., None]) & self.observed[..., None], 1.0
            )
        at = torch.where(self.observed, self.values, 0)[..., None]
        return found.scatter_add_(2, at, self.observed[..., None].to(found.dtype))


class ChainMessages(Protocol):
    """What the passes over a chain say of its states; made for one implementation.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> passes = pc.queries.chain_passes(model.plan, model.log_parameters(), impl="torch")
        >>> rows, known = torch.tensor([[0, 1, 1]]), torch.ones(1, 3, dtype=torch.bool)
        >>> window = pc.queries.ChainWindow(torch.zeros(1, 3, 2), rows, known)
        >>> messages = passes.messages(window)
        >>> torch.allclose(messages.log_value.float(), model.log_likelihood(rows))
        True
    """

    @property
    def log_value(self) -> Tensor:
        """(B,) log of the chain's value; -inf where the evidence is impossible."""


class ChainPasses(Protocol):
    """Passes over one chain with shared parameters, none of which asks the device anything.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> passes = pc.queries.chain_passes(model.plan, model.log_parameters(), impl="torch")
        >>> nothing = torch.zeros(1, 3, dtype=torch.bool)
        >>> window = pc.queries.ChainWindow(torch.zeros(1, 3, 2), nothing.long(), nothing)
        >>> messages = passes.messages(window)
        >>> uniforms = torch.rand(1, 5, 3, 2, dtype=torch.float64)
        >>> tuple(passes.sample(window, messages, uniforms).shape)  # five samples
        (1, 5, 3)
    """

    def messages(self, window: ChainWindow, *, soft: bool = True) -> ChainMessages:
        """Messages from both sides to every state.

        Args:
            window: The evidence.
            soft: Whether potentials count; else what is not observed is summed out.
        """

    def leaves(self, window: ChainWindow) -> Tensor:
        """(B, L, K) log-values of the states' emissions, without latent potentials."""

    def marginals(self, window: ChainWindow, messages: ChainMessages) -> Tensor:
        """(B, L, V or J) posterior of every variable; one-hot where observed, zero where missing.

        Args:
            window: The evidence.
            messages: What `messages` made of it with `soft`.
        """

    def moved(
        self,
        window: ChainWindow,
        messages: ChainMessages,
        target: Tensor,
        size: float,
        largest: float,
    ) -> Tensor:
        """Potentials after one sweep of proportional fitting.

        (1 - size) potentials + size min(target - log leave-one-out prediction, largest), and -inf
        where the target is; the prediction is normalised over all V categories.

        Args:
            window: The evidence, with the potentials of before.
            messages: Of some evidence on the same variables; a variable's own does not count.
            target: (B, L, V or J) log-probabilities.
            size: How far to move, in (0, 1].
            largest: Largest log-potential.
        """

    def sample(
        self,
        window: ChainWindow,
        messages: ChainMessages,
        uniforms: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """(B, S, L) int64 joint samples by inversion; observed values are kept.

        Args:
            window: The evidence.
            messages: What `messages` made of it with `soft`.
            uniforms: (B, S, L, 2) in [0, 1): for the states, and for the categories given them.
            temperature: Of the categories given the states; 0 = the most likely.
        """


def chain_tables(plan: Plan, prepared: PreparedParameters) -> ChainTables:
    """Reads a plan as a hidden Markov chain with shared parameters.

    Raises:
        BackendError: If the plan is another circuit, or parameters are given per example.
    """
    if not is_chain(plan):
        raise BackendError(
            "the circuit is not a hidden Markov chain as `families.hmm` builds it, with a layer "
            "of inputs and then, by turns, one dense sum and one product"
        )
    if prepared.batch_size is not None:
        raise BackendError(
            f"the chain's parameters are given for {prepared.batch_size} examples; expected "
            f"shared ones"
        )
    length, own = plan.num_variables, prepared.weights
    emission = own[0]
    assert isinstance(emission, Weights)
    seen: dict[int, Tensor] = {}
    transitions = []
    for t in range(length - 1):
        weights = own[2 * (length - 2 - t) + 1]
        transitions.append(seen.setdefault(id(weights), weights.log[0, 0]))
    return ChainTables(own[2 * length - 1].log[0, 0, 0], tuple(transitions), emission)


def latent_states(plan: Plan, potentials: Mapping[str, Tensor] | None) -> Tensor | None:
    """(B, L, K) potentials of a chain's states from potentials by node name.

    Raises:
        BackendError: If a name is not that of a state.
    """
    if not potentials:
        return None
    by_fold = {}
    for name, own in potentials.items():
        layer, fold = plan.places.get(name, (-1, -1))
        if layer != 0:
            raise BackendError(f"latent potentials name {name!r}, which is no state of the chain")
        by_fold[fold] = own
    zero = torch.zeros_like(next(iter(by_fold.values())))
    return torch.stack([by_fold.get(t, zero) for t in range(plan.num_variables)], dim=1)


def is_chain(plan: Plan) -> bool:
    """Whether a plan is a hidden Markov chain as `families.hmm` builds it.

    Args:
        plan: The compiled circuit.

    Returns:
        Whether `chain_passes` can be made for it.

    Examples:
        >>> chain = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> tree = pc.compile_circuit(pc.families.binary_tree(4, num_units=2, num_categories=2))
        >>> pc.queries.is_chain(chain), pc.queries.is_chain(tree)
        (True, False)
    """
    layers, length = plan.layers, plan.num_variables
    inputs, root = layers[0], layers[-1]
    if len(layers) != 2 * length or not isinstance(inputs, InputLayer):
        return False
    if inputs.variables.tolist() != list(range(length)) or len(set(plan.circuit.categories)) > 1:
        return False
    below = (0, length - 1)
    for t in range(length - 1):
        step, joined = layers[2 * t + 1], layers[2 * t + 2]
        if not isinstance(step, SumLayer) or not isinstance(joined, ProductLayer):
            return False
        if _places(step.operands) != [below] or step.num_units != inputs.num_units:
            return False
        if _places(joined.operands) != [(0, length - 2 - t), (2 * t + 1, 0)]:
            return False
        below = (2 * t + 2, 0)
    return isinstance(root, SumLayer) and root.num_units == 1 and _places(root.operands) == [below]


def _places(operands: tuple[Operand, ...]) -> list[tuple[int, int]]:
    """Layer and fold of all that a layer of one fold reads, in order; twice what is read twice."""
    return sorted(
        (source.layer, int(fold))
        for operand in operands
        for source in operand.sources
        for fold in source.folds()
    )
