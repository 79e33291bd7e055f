"""What closed-form tasks have in common: prompts of one length, answers of one length, a rule.

The tasks are small versions of those with which ParallelBench (Kang et al. 2025, arXiv 2510.04767)
shows where parallel decoding fails: a denoiser may know every single token's distribution exactly
and still write wrong answers when the tokens of a right one depend on each other.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from codd.errors import ConfigError
from codd.vocabulary import REPLACEMENT, CharacterVocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = "="
SPLITS = {"train": range(20, 100), "valid": range(10, 20), "test": range(10)}


@dataclass(frozen=True)
class Example:
    """A prompt and one of its right answers.

    Attributes:
        prompt: Ends in `END`.
        answer: Drawn uniformly from the right ones.
    """

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """Both, as a row to train on."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class ClosedTask(ABC):
    """Lists of different letters, and what is to be done with them.

    Attributes:
        num_items: n, letters of a list.
        num_letters: Letters of the alphabet that lists are drawn from.
    """

    name: ClassVar[str]
    fewest_items: ClassVar[int] = 2
    most_items: ClassVar[int] = len(LETTERS) - 1
    spare_letters: ClassVar[int] = 0  # letters of the alphabet that no list may have

    num_items: int = 4
    num_letters: int = 8

    def __post_init__(self) -> None:
        """Checks both sizes.

        Raises:
            ConfigError: If one is impossible.
        """
        if not self.fewest_items <= self.num_items <= self.most_items:
            raise ConfigError(
                f"{self.name}: expected {self.fewest_items} to {self.most_items} items, found "
                f"{self.num_items}"
            )
        least = self.num_items + self.spare_letters
        if not least <= self.num_letters <= len(LETTERS):
            raise ConfigError(
                f"{self.name}: expected {least} to {len(LETTERS)} letters for {self.num_items} "
                f"items, found {self.num_letters}"
            )

    @property
    def alphabet(self) -> str:
        """The letters that lists are drawn from."""
        return LETTERS[: self.num_letters]

    @property
    def prompt_length(self) -> int:
        """Characters of every prompt."""
        return self.num_items + len(END)

    @property
    def answer_length(self) -> int:
        """Characters of every answer."""
        return self.num_items

    def draw_prompt(self, source: random.Random) -> str:
        """A prompt, uniformly from all."""
        return "".join(source.sample(self.alphabet, self.num_items)) + END

    @abstractmethod
    def draw_answer(self, prompt: str, source: random.Random) -> str:
        """A right answer, uniformly from all of this prompt's."""

    @abstractmethod
    def num_answers(self) -> int:
        """The number of right answers of a prompt."""

    @abstractmethod
    def is_right(self, prompt: str, answer: str) -> bool:
        """Whether an answer of the right length is one of them."""

    def items(self, prompt: str) -> str:
        """The list that a prompt begins with."""
        return prompt[: self.num_items]

    def vocabulary(self) -> CharacterVocabulary:
        """The characters of prompts and answers."""
        return CharacterVocabulary(tuple(sorted({*self.alphabet, ",", END, REPLACEMENT})))


def make_examples(task: ClosedTask, split: str, count: int, *, seed: int = 0) -> list[Example]:
    """Draws examples of one split.

    No two splits share a prompt.

    Args:
        task: What is asked.
        split: "train", "valid" or "test".
        count: Number of examples, drawn with replacement.
        seed: Seed of everything random.

    Raises:
        ConfigError: If there is no such split, `count` is below 1, or so few prompts exist that
            the split has none.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    if count < 1:
        raise ConfigError(f"count: expected at least 1, found {count}")
    source = random.Random(f"{task.name} {split} {seed}")
    return [_example(task, split, source) for _ in range(count)]


def _example(task: ClosedTask, split: str, source: random.Random) -> Example:
    for _ in range(10_000):
        prompt = task.draw_prompt(source)
        if _bucket(prompt) in SPLITS[split]:
            return Example(prompt, task.draw_answer(prompt, source))
    raise ConfigError(
        f"{task.name}: expected prompts of the split {split!r}, found none; take more letters"
    )


def _bucket(prompt: str) -> int:
    """A number in 0 .. 99 that depends on the prompt only."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 100
