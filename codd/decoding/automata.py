"""A constraint cut into blocks: what an automaton allows in one block, from each of its states.

A right-linear circuit without parameters (as `pcircuits.families.automaton` makes them) decides one
token after the other: a node over the tokens from i on is a state of the automaton before token i.
States without an accepted rest have no node, so whatever a block's circuit allows can be completed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.errors import DecodingError
from codd.vocabulary import REPLACEMENT, Vocabulary

START = "start"
Branch = tuple[pc.Input, Any]


@dataclass(frozen=True, eq=False)
class Unrolled:
    """An automaton over N tokens, state by state.

    Attributes:
        circuit: The constraint.
        states: For each token the nodes that are states before it; the first is the root alone.
    """

    circuit: pc.Circuit
    states: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, circuit: pc.Circuit) -> Unrolled:
        """Reads a circuit as an automaton.

        Raises:
            DecodingError: If it does not decide its tokens from left to right.
        """
        states: list[tuple[Any, ...]] = [(circuit.root,)]
        for place in range(circuit.num_variables - 1):
            rests = (rest for state in states[-1] for _, rest in branches(state, place))
            states.append(tuple(dict.fromkeys(rests)))
        return cls(circuit, tuple(states))

    def block(self, first: int, stop: int, length: int) -> pc.Circuit:
        """What may stand in the tokens first .. stop - 1, as the last of `length` variables.

        The variables before are free. With several states before the block the root has a parameter
        `START` (S,) that says in which the automaton is.
        """
        shift, size = length - (stop - first), self.circuit.num_categories
        known: dict[Any, Any] = {None: None}
        for place in reversed(range(first, stop)):
            moved = {}
            for state in self.states[place]:
                parts = [
                    (replace(own, variable=place - first + shift), rest)
                    for own, rest in branches(state, place)
                ]
                if place == stop - 1:
                    parts = [(own, None) for own, _ in parts]
                moved[state] = _sum(
                    [own if rest is None else pc.Product(own, known[rest]) for own, rest in parts]
                )
            known = moved
        free = [
            pc.Input(i, num_units=1, num_categories=size, supports=(tuple(range(size)),))
            for i in range(shift)
        ]
        roots = []
        for state in self.states[first]:
            root = known[state]
            for own in reversed(free):
                root = pc.Product(own, root)
            roots.append(root)
        if len(roots) == 1:
            return pc.Circuit(roots[0])
        return pc.Circuit(pc.Sum(*roots, num_units=1, parameter=START))

    def walk(self, tokens: Tensor) -> Tensor:
        """(B,) index of the state after (B, n) tokens, n < N; -1 where they are not allowed."""
        state = tokens.new_zeros(len(tokens))
        for place, column in enumerate(tokens.unbind(1)):
            keys, targets = self._moves(place, tokens.device)
            key = state * self.circuit.num_categories + column  # of no state: below all keys
            found = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
            state = torch.where(keys[found] == key, targets[found], -1)
        return state

    def _moves(self, place: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Ascending state * V + token of all moves at a place, and the states they lead to."""
        index = {state: i for i, state in enumerate(self.states[place + 1])}
        keys, targets = [], []
        for i, state in enumerate(self.states[place]):
            for own, rest in branches(state, place):
                allowed = torch.tensor(_support(own))
                keys.append(i * self.circuit.num_categories + allowed)
                targets.append(torch.full_like(allowed, index[rest]))
        ordered, order = torch.cat(keys).sort()
        return ordered.to(device), torch.cat(targets)[order].to(device)


def matching(
    pattern: str, length: int, vocabulary: Vocabulary, *, end_id: int | None = None
) -> pc.Circuit:
    """The constraint that the text of the new tokens matches a regular expression.

    Args:
        pattern: As of `re.fullmatch`; see `pcircuits.families.regular_expression`.
        length: N, new tokens.
        vocabulary: Gives each token's text. Tokens that are no whole text of their own, such as a
            single byte of a longer character, do not occur.
        end_id: The token that ends a text and fills what is left; None for exactly N tokens.

    Raises:
        DecodingError: If the pattern is wrong or nothing of this length matches.
    """
    texts = [_whole(vocabulary.decode([token])) for token in range(vocabulary.size)]
    try:
        return pc.families.regular_expression(pattern, length, texts, pad=end_id)
    except pc.errors.CircuitError as error:
        raise DecodingError(f"constraint: no text of {length} tokens: {error}") from error


def _whole(text: str) -> str | None:
    return None if not text or REPLACEMENT in text else text


def at_the_end(constraint: pc.Circuit, length: int) -> pc.Circuit:
    """The constraint on the last tokens of `length`; those before may be anything.

    Args:
        constraint: Over N variables.
        length: Tokens in all, at least N.
    """
    shift, size = length - constraint.num_variables, constraint.num_categories
    moved: dict[object, Any] = {}
    for node in constraint.nodes:
        if isinstance(node, pc.Input):
            moved[node] = replace(node, variable=node.variable + shift)
            continue
        children = [moved[child] for child in node.children]
        if isinstance(node, pc.Sum):
            moved[node] = pc.Sum(*children, num_units=node.num_units, weighted=False)
        else:
            moved[node] = type(node)(*children)
    root = moved[constraint.root]
    for variable in reversed(range(shift)):
        free = pc.Input(variable, num_units=1, num_categories=size, supports=(tuple(range(size)),))
        root = pc.Product(free, root)
    return pc.Circuit(root)


def branches(state: Any, place: int) -> list[Branch]:
    """What a state allows as token `place`, and the state before the next; None after the last.

    Raises:
        DecodingError: If the node does not decide this token first.
    """
    if isinstance(state, pc.Sum) and not state.weighted:
        return [branch for child in state.children for branch in branches(child, place)]
    if isinstance(state, pc.Input) and state.variable == place:
        return [(state, None)]
    if isinstance(state, pc.Product) and len(state.children) == 2:
        own, rest = sorted(state.children, key=lambda child: len(child.scope))
        if isinstance(own, pc.Input) and own.variable == place:
            return [(own, rest)]
    raise DecodingError(
        f"constraint: to be carried from block to block it has to decide tokens from left to "
        f"right, as an automaton does; found {state!r} at token {place}"
    )


def _support(own: pc.Input) -> Sequence[int]:
    assert own.supports is not None  # constraints have no parameters
    return own.supports[0]


def _sum(terms: Sequence[Any]) -> Any:
    return terms[0] if len(terms) == 1 else pc.Sum(*terms, num_units=1, weighted=False)
