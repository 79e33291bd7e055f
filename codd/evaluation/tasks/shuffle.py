"""Shuffle: the list in any order. Each token alone may be any item, together none may repeat."""

from __future__ import annotations

import math
import random
from typing import ClassVar

from codd.evaluation.tasks.base import ClosedTask


class Shuffle(ClosedTask):
    """`dbca=` -> `bdca`, or any other order."""

    name: ClassVar[str] = "shuffle"

    def draw_answer(self, prompt: str, source: random.Random) -> str:
        """The items in random order."""
        return "".join(source.sample(self.items(prompt), self.num_items))

    def num_answers(self) -> int:
        """All orders of n items."""
        return math.factorial(self.num_items)

    def is_right(self, prompt: str, answer: str) -> bool:
        """Whether the answer has every item once."""
        return sorted(answer) == sorted(self.items(prompt))
