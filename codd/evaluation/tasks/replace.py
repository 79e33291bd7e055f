"""Replace: one item, whichever, by a new one. Exactly one: tokens written alone replace 0 or 2."""

from __future__ import annotations

import random
from typing import ClassVar

from codd.evaluation.tasks.base import END, ClosedTask


class Replace(ClosedTask):
    """`dbca,h=` -> `dhca`, or with `h` at another place."""

    name: ClassVar[str] = "replace"
    spare_letters: ClassVar[int] = 1

    @property
    def prompt_length(self) -> int:
        """Characters of every prompt: the list, a comma, the new item."""
        return self.num_items + 2 + len(END)

    def draw_prompt(self, source: random.Random) -> str:
        """A list and an item that it does not have."""
        drawn = source.sample(self.alphabet, self.num_items + 1)
        return f"{''.join(drawn[:-1])},{drawn[-1]}{END}"

    def draw_answer(self, prompt: str, source: random.Random) -> str:
        """The list with one item replaced."""
        items, place = self.items(prompt), source.randrange(self.num_items)
        return items[:place] + _new_item(prompt) + items[place + 1 :]

    def num_answers(self) -> int:
        """One for each place."""
        return self.num_items

    def is_right(self, prompt: str, answer: str) -> bool:
        """Whether the answer differs from the list at one place, where the new item stands."""
        pairs = zip(self.items(prompt), answer, strict=True)
        return [new for old, new in pairs if new != old] == [_new_item(prompt)]


def _new_item(prompt: str) -> str:
    return prompt[-1 - len(END)]
