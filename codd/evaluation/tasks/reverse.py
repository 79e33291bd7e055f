"""Reverse: the list from its end. Every token is certain here too, but far from its source."""

from __future__ import annotations

import random
from typing import ClassVar

from codd.evaluation.tasks.base import ClosedTask


class Reverse(ClosedTask):
    """`dbca=` -> `acbd`."""

    name: ClassVar[str] = "reverse"

    def draw_answer(self, prompt: str, source: random.Random) -> str:
        """The list from its end."""
        return self.items(prompt)[::-1]

    def num_answers(self) -> int:
        """One."""
        return 1

    def is_right(self, prompt: str, answer: str) -> bool:
        """Whether the answer is the list from its end."""
        return answer == self.items(prompt)[::-1]
