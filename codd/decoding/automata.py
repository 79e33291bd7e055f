"""A constraint as an automaton: which tokens lead from which state to which.

A right-linear circuit without parameters (as `pcircuits.families.automaton` makes them) decides one
token after the other: a node over the tokens from i on is a state of the automaton before token i.
States without an accepted rest have no node, so from every state the rest can be completed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pcircuits as pc
from codd.errors import DecodingError
from codd.vocabulary import REPLACEMENT, Vocabulary

Branch = tuple[pc.Input, Any]


class Move(NamedTuple):
    """From a state before a token to a state after it.

    Attributes:
        source: Number of the state before.
        support: Number of the set of tokens that lead on.
        target: Number of the state after.
    """

    source: int
    support: int
    target: int


@dataclass(frozen=True, eq=False)
class Unrolled:
    """An automaton over N tokens, place by place.

    Attributes:
        num_categories: V.
        supports: The sets of tokens that moves name, each in ascending order.
        moves: For each token its moves; before the first and after the last token there is one
            state, elsewhere every state has a move.
    """

    num_categories: int
    supports: tuple[tuple[int, ...], ...]
    moves: tuple[tuple[Move, ...], ...]

    @classmethod
    def of(cls, circuit: pc.Circuit) -> Unrolled:
        """Reads a circuit as an automaton.

        Raises:
            DecodingError: If it does not decide its tokens from left to right.
        """
        supports, moves = _Supports(), []
        states: tuple[Any, ...] = (circuit.root,)
        for place in range(circuit.num_variables):
            found = [
                (i, own, rest)
                for i, state in enumerate(states)
                for own, rest in branches(state, place)
            ]
            states = tuple(dict.fromkeys(rest for _, _, rest in found))  # (None,) after the last
            number = {state: i for i, state in enumerate(states)}
            moves.append(tuple(Move(i, supports.number(o), number[rest]) for i, o, rest in found))
        return cls(circuit.num_categories, tuple(supports.known), tuple(moves))

    @cached_property
    def num_states(self) -> tuple[int, ...]:
        """Number of states before each token, and after the last."""
        return (*(len({move.source for move in own}) for own in self.moves), 1)

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """For each token the first one that has the same moves."""
        first: dict[tuple[Move, ...], int] = {}
        return tuple(first.setdefault(own, place) for place, own in enumerate(self.moves))


class _Supports:
    """Sets of tokens, numbered; they are long for large vocabularies, and shared by inputs."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], int] = {}
        self._same: dict[int, int] = {}

    def number(self, own: pc.Input) -> int:
        """The number of what an input allows."""
        assert own.supports is not None  # constraints have no parameters
        support = own.supports[0]
        if id(support) not in self._same:
            self._same[id(support)] = self.known.setdefault(support, len(self.known))
        return self._same[id(support)]


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


def branches(state: Any, place: int) -> list[Branch]:
    """What a state allows as token `place`, and the state before the next; None after the last.

    Raises:
        DecodingError: If the node does not decide this token first.
    """
    if isinstance(state, pc.Sum) and not state.weighted and state.num_units == 1:
        return [branch for child in state.children for branch in branches(child, place)]
    if isinstance(state, pc.Input) and state.variable == place and state.num_units == 1:
        return [(state, None)]
    if isinstance(state, pc.Product) and len(state.children) == 2 and state.num_units == 1:
        own, rest = sorted(state.children, key=lambda child: len(child.scope))
        if isinstance(own, pc.Input) and own.variable == place:
            return [(own, rest)]
    raise DecodingError(
        "constraint: to be carried over blocks and windows it has to decide tokens from left to "
        f"right, as an automaton does; found {state!r} at token {place}"
    )
