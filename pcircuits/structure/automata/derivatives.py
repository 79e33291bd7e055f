"""From a regular expression to the smallest automaton over characters, by derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pcircuits.errors import StructureError
from pcircuits.structure.automata.machine import REJECT
from pcircuits.structure.automata.syntax import (
    EMPTY,
    NOTHING,
    Characters,
    Choice,
    Concatenation,
    Expression,
    Repeat,
    choose,
    concatenate,
    repeat,
)


@dataclass(frozen=True)
class CharacterAutomaton:
    """A deterministic automaton over characters; state 0 is the start.

    Attributes:
        rows: For every state the next state by each class of characters, `REJECT` for none.
        class_of: Character -> its class; the characters that the pattern cannot tell apart.
        accepting: The states in which a text may end.
    """

    rows: tuple[tuple[int, ...], ...]
    class_of: dict[str, int]
    accepting: frozenset[int]


def character_automaton(
    expression: Expression, alphabet: Iterable[str], *, max_states: int
) -> CharacterAutomaton:
    """The minimal automaton of an expression (Brzozowski, "Derivatives of Regular Expressions").

    A state is what is left to match; its derivative by a character is what is left after it.

    Args:
        expression: The expression.
        alphabet: All characters that may occur.
        max_states: Most states before minimisation; some patterns need exponentially many.

    Raises:
        StructureError: If there would be more states.
    """
    class_of, members = _character_classes(expression, alphabet)
    states = {expression: 0}
    order = [expression]
    rows = []
    for state in order:  # grows on the way
        row = []
        for member in members:
            left = _derivative(state, member)
            if left != NOTHING and left not in states:
                states[left] = len(order)
                order.append(left)
            row.append(states.get(left, REJECT))
        rows.append(tuple(row))
        _check_growth(len(order), max_states)
    accepting = frozenset(place for state, place in states.items() if state.nullable)
    return _minimised(CharacterAutomaton(tuple(rows), class_of, accepting))


def _check_growth(num_states: int, max_states: int) -> None:
    if num_states > max_states:
        raise StructureError(
            f"the pattern needs more than max_states={max_states} states; such growth comes from "
            f"counted repetitions after a wildcard, as in '.*a.{{20}}'"
        )


def _character_classes(
    expression: Expression, alphabet: Iterable[str]
) -> tuple[dict[str, int], list[frozenset[str]]]:
    """Character -> class, and for every class the sets of the expression that it lies in."""
    sets = {pattern: re.compile(pattern) for pattern in sorted(_character_sets(expression))}
    classes: dict[frozenset[str], int] = {}
    class_of = {}
    for character in sorted(alphabet):
        member = frozenset(p for p, compiled in sets.items() if compiled.fullmatch(character))
        class_of[character] = classes.setdefault(member, len(classes))
    return class_of, list(classes)


def _character_sets(expression: Expression) -> Iterator[str]:
    match expression:
        case Characters():
            yield expression.pattern
        case Repeat():
            yield from _character_sets(expression.part)
        case Concatenation():
            for part in expression.parts:
                yield from _character_sets(part)
        case Choice():
            for option in expression.options:
                yield from _character_sets(option)


def _derivative(expression: Expression, member: frozenset[str]) -> Expression:
    """What is left to match after a character that lies in the given sets."""
    match expression:
        case Characters():
            return EMPTY if expression.pattern in member else NOTHING
        case Choice():
            return choose(_derivative(option, member) for option in expression.options)
        case Repeat():
            least, most = expression.least, expression.most
            rest = repeat(expression.part, max(least - 1, 0), None if most is None else most - 1)
            return concatenate((_derivative(expression.part, member), rest))
        case Concatenation():
            return choose(_concatenation_derivatives(expression.parts, member))


def _concatenation_derivatives(
    parts: tuple[Expression, ...], member: frozenset[str]
) -> Iterator[Expression]:
    for place, part in enumerate(parts):
        left = _derivative(part, member)
        if left != NOTHING:
            yield concatenate((left, *parts[place + 1 :]))
        if not part.nullable:
            return


def _minimised(automaton: CharacterAutomaton) -> CharacterAutomaton:
    """Joins states from which the same texts are accepted (Moore's partition refinement)."""
    rows = automaton.rows
    block = [int(state in automaton.accepting) for state in range(len(rows))]
    count = 0
    while len(set(block)) > count:
        count = len(set(block))
        block = _refined(block, rows)
    first: dict[int, int] = {}
    for state, name in enumerate(block):
        first.setdefault(name, state)
    merged = tuple(
        tuple(REJECT if target == REJECT else block[target] for target in rows[state])
        for state in first.values()
    )
    accepting = frozenset(block[state] for state in automaton.accepting)
    return CharacterAutomaton(merged, automaton.class_of, accepting)


def _refined(block: list[int], rows: tuple[tuple[int, ...], ...]) -> list[int]:
    """Splits blocks whose states move to different blocks; blocks are numbered as they appear."""
    names: dict[tuple[int, ...], int] = {}
    refined = []
    for state, row in enumerate(rows):
        targets = (REJECT if target == REJECT else block[target] for target in row)
        refined.append(names.setdefault((block[state], *targets), len(names)))
    return refined
