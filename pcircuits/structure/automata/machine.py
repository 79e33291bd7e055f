"""Deterministic finite automata over tokens, their transition table kept by classes of tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pcircuits.errors import StructureError

REJECT = -1
"""The target where a state has no move."""

Tokens = int | range | tuple[int, ...] | frozenset[int] | None
"""One token, several, or (None) every token that the state does not name otherwise."""


@dataclass(frozen=True)
class Automaton:
    """A deterministic finite automaton over the tokens 0 .. V-1.

    Tokens with the same column of the transition table form a class, so that a vocabulary of
    100,000 tokens costs as much as the few classes that the automaton tells apart.

    Args:
        num_states: Number of states S.
        columns: For each class of tokens the next state of every state, `REJECT` for none.
        classes: The tokens of each class, ascending. Tokens of no class are rejected everywhere.
        accepting: The states in which a sequence may end.
        start: The state before the first token.
        num_tokens: Number of tokens V.
    """

    num_states: int
    columns: tuple[tuple[int, ...], ...]
    classes: tuple[tuple[int, ...], ...]
    accepting: frozenset[int]
    start: int
    num_tokens: int

    @classmethod
    def from_columns(
        cls,
        columns: Iterable[tuple[int, tuple[int, ...]]],
        *,
        num_states: int,
        accepting: frozenset[int],
        start: int,
        num_tokens: int,
    ) -> Automaton:
        """Groups tokens by their columns.

        Args:
            columns: Pairs of a token, in ascending order, and its column.
            num_states: Number of states S.
            accepting: The states in which a sequence may end.
            start: The state before the first token.
            num_tokens: Number of tokens V.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for token, column in columns:
            groups.setdefault(column, []).append(token)
        alive = {c: tokens for c, tokens in groups.items() if any(q != REJECT for q in c)}
        classes = tuple(tuple(tokens) for tokens in alive.values())
        return cls(num_states, tuple(alive), classes, accepting, start, num_tokens)

    @classmethod
    def from_moves(
        cls,
        transitions: Sequence[Mapping[Tokens, int]],
        *,
        accepting: Collection[int],
        start: int,
        num_tokens: int,
    ) -> Automaton:
        """Reads one mapping from tokens to the next state for every state.

        Raises:
            StructureError: If a state or token does not exist, or a state names a token twice.
        """
        _check_states(len(transitions), accepting, start)
        columns: list[list[int]] = [[]]
        class_of = [0] * num_tokens
        for state, moves in enumerate(transitions):
            named = _named_moves(state, moves, len(transitions), num_tokens)
            _split_classes(columns, class_of, named, moves.get(None, REJECT))
        return cls.from_columns(
            ((token, tuple(columns[c])) for token, c in enumerate(class_of)),
            num_states=len(transitions),
            accepting=frozenset(accepting),
            start=start,
            num_tokens=num_tokens,
        )

    @cached_property
    def moves(self) -> tuple[dict[int, int], ...]:
        """For every state: next state -> bit mask of the classes that lead to it."""
        moves: list[dict[int, int]] = [{} for _ in range(self.num_states)]
        for place, column in enumerate(self.columns):
            for state, target in enumerate(column):
                if target != REJECT:
                    moves[state][target] = moves[state].get(target, 0) | 1 << place
        return tuple(moves)

    def tokens_of(self, mask: int) -> tuple[int, ...]:
        """The tokens of the classes in a bit mask, ascending."""
        chosen = (tokens for i, tokens in enumerate(self.classes) if mask >> i & 1)
        return tuple(sorted(token for tokens in chosen for token in tokens))

    def padded(self, token: int) -> Automaton:
        """The automaton that accepts what this one accepts, followed by any number of a token.

        The token has no other meaning any more.
        """
        padding = self.num_states
        columns = {
            other: (*column, REJECT)
            for column, tokens in zip(self.columns, self.classes, strict=True)
            for other in tokens
        }
        ends = [padding if state in self.accepting else REJECT for state in range(padding)]
        columns[token] = (*ends, padding)
        return Automaton.from_columns(
            sorted(columns.items()),
            num_states=padding + 1,
            accepting=self.accepting | {padding},
            start=self.start,
            num_tokens=self.num_tokens,
        )


def _check_states(count: int, accepting: Collection[int], start: int) -> None:
    for what, state in (("start", start), *(("accepting", state) for state in accepting)):
        if not isinstance(state, int) or not 0 <= state < count:
            raise StructureError(
                f"automaton: the {what} state {state!r} does not exist; expected one of the "
                f"{count} states 0 .. {count - 1} that have transitions"
            )


def _named_moves(
    state: int, moves: Mapping[Tokens, int], num_states: int, num_tokens: int
) -> dict[int, int]:
    """The moves of one state by single tokens, without the default."""
    named: dict[int, int] = {}
    for tokens, target in moves.items():
        if not isinstance(target, int) or not 0 <= target < num_states:
            raise StructureError(
                f"automaton: state {state} moves to {target!r}; expected a state 0 .. "
                f"{num_states - 1}"
            )
        for token in _single(tokens):
            if not isinstance(token, int) or not 0 <= token < num_tokens:
                raise StructureError(
                    f"automaton: state {state} has a move by token {token!r}; expected 0 .. "
                    f"{num_tokens - 1}"
                )
            if named.setdefault(token, target) != target:
                raise StructureError(
                    f"automaton: state {state} moves to {named[token]} and to {target} by token "
                    f"{token}; expected one next state"
                )
    return named


def _single(tokens: Tokens) -> Iterator[int]:
    if isinstance(tokens, int):
        yield tokens
    elif tokens is not None:
        yield from tokens


def _split_classes(
    columns: list[list[int]], class_of: list[int], named: Mapping[int, int], default: int
) -> None:
    """Adds one state to the columns, moving tokens it names to classes of their own."""
    split: dict[tuple[int, int], int] = {}
    for token, target in named.items():
        key = (class_of[token], target)
        if key not in split:
            split[key] = len(columns)
            columns.append([*columns[key[0]], target])
        class_of[token] = split[key]
    for column in columns[: len(columns) - len(split)]:
        column.append(default)
