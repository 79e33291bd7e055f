"""Mutual information of all pairs of variables of a hidden Markov chain, in one sweep.

Given evidence, the states of a chain are a Markov chain again, with a table p(next state | state,
evidence) a step. So the joint distribution of a variable and a later state is moved on by a product
with that table, for all earlier variables together, and summed out against p(variable | state,
evidence). All numbers are probabilities, rows add up to one, and nothing has to be scaled. Each
uncertain variable costs V K^2 operations a step; separating its values costs passes over all L
variables, up and down, for each of the V.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.execute.chain_torch import TorchChain
from pcircuits.execute.chains import ChainWindow, chain_tables, is_chain, latent_states
from pcircuits.execute.prepare import require_numbers
from pcircuits.queries.likelihood import require_possible
from pcircuits.queries.posterior import Posterior

# Numbers of the tables and joint distributions of the examples that are swept together.
_ENTRIES = 1 << 26


def can_sweep(given: Posterior) -> bool:
    """Whether this is a chain without potentials but of its states and variables.

    Its examples share its parameters, and no gradient is asked for.
    """
    inputs = [weights.log for weights in given.prepared.weights.values()]
    inputs += [given.log_potentials, *given.latent.values()]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    of_states = all(given.plan.places[name][0] == 0 for name in given.latent)
    shared = given.prepared.batch_size is None
    return not wanted and shared and of_states and is_chain(given.plan)


def chain_information(given: Posterior) -> Tensor:
    """(B, L, L) mutual information in nats, entropies on the diagonal.

    Args:
        given: A chain that `can_sweep`.

    Raises:
        EvidenceError: If the evidence is impossible.
    """
    length, categories = given.log_potentials.shape[1:]
    units = given.plan.layers[0].num_units
    at_once = max(1, _ENTRIES // (units * (units + length * categories)))
    index = torch.arange(given.batch_size, device=given.log_potentials.device)
    return torch.cat([_swept(given.take(part)) for part in index.split(at_once)])


def _swept(given: Posterior) -> Tensor:
    """The same for all examples at once."""
    chain = _Chain(given)
    batch, length, categories = given.log_potentials.shape
    uncertain = ((given.log_potentials > -torch.inf).sum(2) > 1).any(0).nonzero()[:, 0].tolist()
    found = given.log_potentials.new_zeros(batch, length, length)
    if not uncertain:
        return found
    states = chain.first_states()
    # (B, U, V, K): uncertain variables so far, together with the present state.
    moved = states.new_empty(batch, len(uncertain), categories, states.shape[-1])
    seen = 0
    for t in range(uncertain[-1] + 1):
        if t in uncertain:
            emission = chain.emission(t)
            own = states[..., None] * emission  # (B, K, V)
            entropy = _entropy(own.sum(1), 1)
            found[:, t, t] = entropy
            if seen:
                earlier = uncertain[:seen]
                together = _entropy(moved[:, :seen] @ emission[:, None], 2)
                singles = found.diagonal(dim1=1, dim2=2)[:, earlier]
                shared = (singles + entropy[:, None] - together).clamp_min(0.0)
                found[:, earlier, t] = found[:, t, earlier] = shared
            moved[:, seen] = own.transpose(1, 2)
            seen += 1
        if t < uncertain[-1]:
            table = chain.transition(t)
            states = (states[:, None] @ table)[:, 0]
            if seen:
                moved[:, :seen] = moved[:, :seen] @ table[:, None]
    return found


class _Chain:
    """A chain given its evidence: probabilities of states and variables."""

    def __init__(self, given: Posterior) -> None:
        self._tables = chain_tables(given.plan, given.prepared)
        self._given = given
        potentials = given.log_potentials
        window = ChainWindow(
            potentials,
            torch.zeros_like(potentials[..., 0], dtype=torch.long),
            torch.zeros_like(potentials[..., 0], dtype=torch.bool),
            latent=latent_states(given.plan, given.latent or None),
        )
        messages = TorchChain(self._tables).messages(window)
        require_numbers(given.prepared, messages.log_value)
        require_possible(messages.log_value)
        # (B, L, K) what a state's own variable and all later ones say of it.
        self._ahead = messages.leaves + messages.right

    def first_states(self) -> Tensor:
        """(B, K) p(first state | evidence)."""
        return self._share(self._tables.initial.double() + self._ahead[:, 0])

    def transition(self, t: int) -> Tensor:
        """(B, K, K) p(state t + 1 | state t, evidence); zero rows where that is impossible."""
        table = self._tables.transitions[t].double()
        return self._share(table + self._ahead[:, t + 1, None])

    def emission(self, t: int) -> Tensor:
        """(B, K, V) p(variable t | state t, evidence); zero rows where that is impossible."""
        tables = self._tables.emission.log
        own = tables[t % len(tables), 0].double()  # (K, V)
        return self._share(own + self._given.log_potentials[:, t, None].double())

    def _share(self, log: Tensor) -> Tensor:
        return log.softmax(-1).nan_to_num(0.0).to(self._given.log_potentials)


def _entropy(table: Tensor, axes: int) -> Tensor:
    """Entropy in nats of distributions over the last axes."""
    found: Tensor = torch.special.entr(table).flatten(-axes).sum(-1)
    return found
