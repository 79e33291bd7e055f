"""Copy: the answer is the list. Every token is certain, so parallel decoding loses nothing."""

from __future__ import annotations

import random
from typing import ClassVar

from codd.evaluation.tasks.base import ClosedTask


class Copy(ClosedTask):
    """`dbca=` -> `dbca`."""

    name: ClassVar[str] = "copy"

    def draw_answer(self, prompt: str, source: random.Random) -> str:
        """The list itself."""
        return self.items(prompt)

    def num_answers(self) -> int:
        """One."""
        return 1

    def is_right(self, prompt: str, answer: str) -> bool:
        """Whether the answer is the list."""
        return answer == self.items(prompt)
