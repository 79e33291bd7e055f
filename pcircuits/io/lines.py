"""Files of one node a line: words with the place they stand at, so that errors name it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pcircuits.errors import CircuitError, FormatError, shown
from pcircuits.files import read_text
from pcircuits.parameters import WeightedCircuit
from pcircuits.scalars import ScalarBuilder
from pcircuits.structure.scope import Scope

LARGEST_VARIABLE = 1_000_000
"""Scopes are bit masks: an absurd index would cost memory before any other check."""


@dataclass(frozen=True)
class Line:
    """The words of a line.

    Attributes:
        where: File and number of the line, from 1.
        words: The words.
        most: Largest number of a variable, counted from 1, that the file can have.
    """

    where: str
    words: Sequence[str]
    most: int = LARGEST_VARIABLE

    def error(self, text: str) -> FormatError:
        """An error that names the line."""
        return FormatError(f"{self.where}: {text}")

    def expect(self, number: int, form: str, *, more: bool = False) -> None:
        """Checks the number of words.

        Args:
            number: Number of words expected, with the first one.
            form: What is expected, for the message.
            more: Whether there may be more.

        Raises:
            FormatError: If there are not as many.
        """
        if len(self.words) < number or (len(self.words) > number and not more):
            raise self.error(f"expected {form!r}; found {' '.join(self.words)[:80]!r}")

    def integer(self, place: int, what: str, *, smallest: int = 0) -> int:
        """A word as an integer.

        Raises:
            FormatError: If it is none, or too small.
        """
        try:
            value = int(self.words[place])
        except (IndexError, ValueError):
            value = smallest - 1
        if value < smallest:
            found = self.words[place] if place < len(self.words) else "nothing"
            raise self.error(f"expected {what}, an integer >= {smallest}; found {found!r}")
        return value

    def integers(self, start: int, what: str) -> list[int]:
        """All words from a place on as integers of any sign."""
        try:
            return [int(word) for word in self.words[start:]]
        except ValueError as error:
            raise self.error(f"expected {what}, integers; {error}") from error

    def number(self, place: int, what: str) -> float:
        """A word as a number; `-inf` is one, NaN and infinity are not.

        Raises:
            FormatError: If it is none.
        """
        try:
            value = float(self.words[place])
        except (IndexError, ValueError):
            value = math.nan
        if not value < math.inf:
            found = self.words[place] if place < len(self.words) else "nothing"
            raise self.error(f"expected {what}, a number; found {found!r}")
        return value

    def literal(self, place: int) -> tuple[int, bool]:
        """A word as a literal, +v or -v for variable v - 1: the variable and whether it is true.

        Raises:
            FormatError: If it is none.
        """
        values = self.integers(place, "a literal")
        if not values or not values[0]:
            raise self.error(f"expected a literal, +v or -v; found {self.words[place:][:1]}")
        self._check_variable(abs(values[0]))
        return abs(values[0]) - 1, values[0] > 0

    def variable(self, place: int, *, first: int = 1) -> int:
        """A word as a variable, counted in the file from `first` and here from 0.

        Raises:
            FormatError: If it is none.
        """
        value = self.integer(place, "a variable", smallest=first)
        self._check_variable(value + 1 - first)
        return value - first

    def _check_variable(self, number: int) -> None:
        if number > self.most:
            raise self.error(
                f"variable {shown(number)} is too large; a file like this has at most {self.most}"
            )


def read_lines(path: str | Path, *, comment: str = "c", most: int | None = None) -> Iterator[Line]:
    """The lines of a text file that are neither blank nor comments.

    Args:
        path: The file.
        comment: First word of a comment.
        most: Largest number of variables; default one for each line, since every variable has one,
            or a thousand, which cost nothing.

    Raises:
        FormatError: If the file cannot be read or is not UTF-8.
    """
    lines = read_text(path).splitlines()
    limit = min(LARGEST_VARIABLE, max(1000, len(lines))) if most is None else most
    for number, text in enumerate(lines, start=1):
        words = text.split()
        if words and words[0] != comment:
            yield Line(f"{path}:{number}", words, limit)


@dataclass
class LineNodes:
    """The nodes of a file, by the numbers that the file gives them.

    Attributes:
        path: The file.
        builder: Where nodes are collected.
        made: Number in the file -> number of the builder.
    """

    path: str | Path
    builder: ScalarBuilder = field(default_factory=ScalarBuilder)
    made: dict[int, int] = field(default_factory=dict)

    def define(self, line: Line, key: int, node: int) -> None:
        """Gives a node the number that its line says."""
        if key in self.made:
            raise line.error(f"node {key} is there already")
        self.made[key] = node

    def child(self, line: Line, key: int) -> int:
        """A node by the number that the file gives it."""
        if key not in self.made:
            raise line.error(f"node {key} is not defined on a line before")
        return self.made[key]

    def product(self, line: Line, children: Sequence[int]) -> int:
        """A product of the builder's nodes, or the only one."""
        if not children:
            raise line.error("a product needs children")
        seen = 0
        for child in children:
            scope = self.builder.scope(child)
            if seen & scope:
                raise line.error(
                    f"the product is not decomposable: two children share {Scope(seen & scope)}"
                )
            seen |= scope
        return children[0] if len(children) == 1 else self.builder.add_product(children)

    def sum(self, line: Line, children: Sequence[int], log_weights: Sequence[float]) -> int:
        """A weighted sum of the builder's nodes."""
        if not children:
            raise line.error("a sum needs children")
        scopes = {self.builder.scope(child) for child in children}
        if len(scopes) > 1:
            first, second = sorted(scopes)[:2]
            raise line.error(
                f"the sum is not smooth: it sums over {Scope(first)} and {Scope(second)}"
            )
        return self.builder.add_sum(children, log_weights)

    def literal(self, variable: int, positive: bool) -> int:
        """An indicator of one value of a binary variable."""
        return self.builder.add_indicator(variable, (int(positive),), 2)

    def build(self, root: int | None) -> WeightedCircuit:
        """The circuit under a node of the builder.

        Raises:
            FormatError: If there is none, or it lacks variables.
        """
        if root is None:
            raise FormatError(f"{self.path} has no nodes")
        try:
            return self.builder.build(root)
        except CircuitError as error:
            raise FormatError(f"{self.path}: {error}") from error
