"""Regular expressions in Python's syntax, read into expressions that can be derived."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pcircuits.errors import StructureError


@dataclass(frozen=True)
class Characters:
    """One character out of a set, given as a pattern that matches single characters."""

    pattern: str
    nullable = False


@dataclass(frozen=True)
class Concatenation:
    """Parts one after the other; no part is the empty string."""

    parts: tuple[Expression, ...]

    @cached_property
    def nullable(self) -> bool:
        """Whether it matches the empty string."""
        return all(part.nullable for part in self.parts)


@dataclass(frozen=True)
class Choice:
    """One of several options; no option matches nothing."""

    options: frozenset[Expression]

    @cached_property
    def nullable(self) -> bool:
        """Whether it matches the empty string."""
        return any(option.nullable for option in self.options)


@dataclass(frozen=True)
class Repeat:
    """A part between `least` and `most` times; None is without end."""

    part: Expression
    least: int
    most: int | None

    @cached_property
    def nullable(self) -> bool:
        """Whether it matches the empty string."""
        return self.least == 0 or self.part.nullable


Expression = Characters | Concatenation | Choice | Repeat

EMPTY = Concatenation(())
NOTHING = Choice(frozenset())


def concatenate(parts: Iterable[Expression]) -> Expression:
    """Parts one after the other, in one flat normal form."""
    flat: list[Expression] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        flat.extend(part.parts if isinstance(part, Concatenation) else (part,))
    return flat[0] if len(flat) == 1 else Concatenation(tuple(flat))


def choose(options: Iterable[Expression]) -> Expression:
    """One of several options, in one flat normal form."""
    flat: set[Expression] = set()
    for option in options:
        flat.update(option.options if isinstance(option, Choice) else (option,))
    return flat.pop() if len(flat) == 1 else Choice(frozenset(flat))


def repeat(part: Expression, least: int, most: int | None) -> Expression:
    """A part repeated, in normal form."""
    if most == 0 or part == EMPTY:
        return EMPTY
    return part if (least, most) == (1, 1) else Repeat(part, least, most)


def parse(pattern: str) -> Expression:
    """Reads a pattern of Python's `re`, which has to match as by `re.fullmatch`.

    Raises:
        StructureError: If `re` refuses it, or it uses what is no regular expression in the strict
            sense or is not supported: references, look-around, word boundaries, flags, possessive
            repetition, and anchors anywhere but at the ends.
    """
    if not isinstance(pattern, str):
        raise StructureError(f"a pattern must be a string; found {type(pattern).__name__}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise StructureError(f"pattern {pattern!r} is not valid: {error}") from error
    return _Parser(pattern).parse()


_COUNTS = re.compile(r"\{(\d*)(,?)(\d*)\}")
_ESCAPE = re.compile(
    r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}"
    r"|0[0-7]{0,2}|[1-3][0-7]{2}|[dDwWsSafnrtv]|[^0-9a-zA-Z])",
    re.DOTALL,
)
_SET = re.compile(r"\[\^?\]?(\\.|[^\]\\])*\]", re.DOTALL)
_GROUP = re.compile(r"\((\?:|\?P<\w+>|(?!\?))")
_START, _END = re.compile(r"\^|\\A"), re.compile(r"\$|\\[Zz]")


class _Parser:
    """Recursive descent over a pattern that `re` has already found valid."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0

    def parse(self) -> Expression:
        return self._choice(outermost=True)

    def _choice(self, *, outermost: bool) -> Expression:
        options = [self._concatenation(outermost)]
        while self._takes("|"):
            options.append(self._concatenation(outermost))
        return choose(options)

    def _concatenation(self, outermost: bool) -> Expression:
        if outermost:  # the whole sequence is matched anyway, so anchors at its ends say nothing
            self._match(_START)
        parts = []
        while self._next() not in ("", "|", ")"):
            if outermost and self._match(_END):
                if self._next() not in ("", "|"):
                    raise self._unsupported("an anchor inside the pattern")
                break
            parts.append(self._repeated(self._atom()))
        return concatenate(parts)

    def _atom(self) -> Expression:
        if self._match(_GROUP):
            inner = self._choice(outermost=False)
            self._place += 1
            return inner
        if characters := self._match(_SET) or self._match(_ESCAPE):
            return Characters(characters)
        character = self._next()
        if character in "\\(^$":
            raise self._unsupported(_UNSUPPORTED[character])
        self._place += 1
        return Characters(character if character == "." else re.escape(character))

    def _repeated(self, part: Expression) -> Expression:
        bounds = self._bounds()
        if bounds is None:
            return part
        if self._next() == "+":
            raise self._unsupported("possessive repetition")
        self._takes("?")  # how greedy a repetition is does not change what is matched
        return repeat(part, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, most in (("*", None), ("?", 1)):
            if self._takes(sign):
                return (0, most)
        if self._takes("+"):
            return (1, None)
        counts = _COUNTS.match(self._pattern, self._place)
        if counts is None or counts[0] == "{}":
            return None
        self._place = counts.end()
        low, comma, high = counts.groups()
        if not comma:
            return (int(low), int(low))
        return (int(low or 0), int(high) if high else None)

    def _next(self) -> str:
        return self._pattern[self._place : self._place + 1]

    def _takes(self, sign: str) -> bool:
        taken = self._next() == sign
        self._place += taken
        return taken

    def _match(self, token: re.Pattern[str]) -> str:
        found = token.match(self._pattern, self._place)
        if found is None:
            return ""
        self._place = found.end()
        return found[0]

    def _unsupported(self, what: str) -> StructureError:
        return StructureError(
            f"pattern {self._pattern!r} has {what} at position {self._place}, which is not "
            f"supported; expected characters, sets, groups, | and the repetitions * + ? {{m,n}}"
        )


_UNSUPPORTED = {
    "\\": "a reference, word boundary or anchor",
    "(": "a look-around, flag or other special group",
    "^": "an anchor inside the pattern",
    "$": "an anchor inside the pattern",
}
