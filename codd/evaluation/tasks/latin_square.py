"""Latin squares: n rows of n symbols, in every row and every column each symbol once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import ClassVar

from codd.evaluation.tasks.base import ClosedTask

Square = tuple[tuple[int, ...], ...]


class LatinSquare(ClosedTask):
    """`bda=` -> `bdadababd`: three rows of three; n is at most 5, of which there are 161,280."""

    name: ClassVar[str] = "latin-square"
    most_items: ClassVar[int] = 5

    @property
    def answer_length(self) -> int:
        """Characters of every answer, row by row."""
        return self.num_items**2

    def draw_answer(self, prompt: str, source: random.Random) -> str:
        """A square of the prompt's symbols."""
        items = self.items(prompt)
        return "".join(items[i] for row in source.choice(_squares(self.num_items)) for i in row)

    def num_answers(self) -> int:
        """2, 12, 576 or 161,280 for n from 2 to 5."""
        return len(_squares(self.num_items))

    def is_right(self, prompt: str, answer: str) -> bool:
        """Whether rows and columns have every symbol once."""
        n, symbols = self.num_items, sorted(self.items(prompt))
        lines = [answer[i * n : (i + 1) * n] for i in range(n)] + [answer[i::n] for i in range(n)]
        return len(answer) == n * n and all(sorted(line) == symbols for line in lines)


@cache
def _squares(n: int) -> tuple[Square, ...]:
    """All Latin squares of order n over 0 .. n - 1."""
    return tuple(_completions((), tuple(itertools.permutations(range(n)))))


def _completions(rows: Square, permutations: Square) -> Iterator[Square]:
    if len(rows) == len(permutations[0]):
        yield rows
        return
    for row in permutations:
        if all(a != b for above in rows for a, b in zip(above, row, strict=True)):
            yield from _completions((*rows, row), permutations)
