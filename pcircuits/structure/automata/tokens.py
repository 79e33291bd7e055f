"""From an automaton over characters to one over tokens, each token a string of characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pcircuits.errors import StructureError
from pcircuits.structure.automata.derivatives import CharacterAutomaton, character_automaton
from pcircuits.structure.automata.machine import REJECT, Automaton
from pcircuits.structure.automata.syntax import parse


def pattern_automaton(
    pattern: str, vocabulary: Sequence[str | None], *, max_states: int
) -> Automaton:
    """The automaton of all token sequences whose joined text matches a pattern.

    Args:
        pattern: A pattern in the syntax of `re`.
        vocabulary: The text of every token; None for one that must not occur.
        max_states: Most states over characters before minimisation.

    Raises:
        StructureError: If the pattern is not supported or too large, or a text is empty.
    """
    for token, text in enumerate(vocabulary):
        if text is not None and (not isinstance(text, str) or not text):
            raise StructureError(
                f"vocabulary: token {token} is {text!r}; expected a string that is not empty, or "
                f"None for a token that must not occur"
            )
    alphabet = {character for text in vocabulary if text for character in text}
    machine = character_automaton(parse(pattern), alphabet, max_states=max_states)
    return Automaton.from_columns(
        _token_columns(machine, vocabulary),
        num_states=len(machine.rows),
        accepting=machine.accepting,
        start=0,
        num_tokens=len(vocabulary),
    )


def _token_columns(
    machine: CharacterAutomaton, vocabulary: Sequence[str | None]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every token with its column: where its text, character by character, takes each state.

    Few columns occur, even among the prefixes of 100,000 tokens, so each step from column to
    column is taken once.
    """
    columns = [tuple(range(len(machine.rows)))]
    places = {columns[0]: 0}
    steps: dict[tuple[int, int], int] = {}
    for token, text in enumerate(vocabulary):
        if text is None:
            continue
        place = 0
        for character in text:
            key = (place, machine.class_of[character])
            if key not in steps:
                column = _step(machine, columns[place], key[1])
                steps[key] = places.setdefault(column, len(columns))
                if steps[key] == len(columns):
                    columns.append(column)
            place = steps[key]
        yield token, columns[place]


def _step(machine: CharacterAutomaton, column: tuple[int, ...], symbol: int) -> tuple[int, ...]:
    return tuple(REJECT if state == REJECT else machine.rows[state][symbol] for state in column)
