"""Arithmetic word problems with a short worked solution, generated and checked by program.

A problem is two steps with whole numbers below 100. Its solution may be written in many ways: with
or without words before, between and after the steps, and with summands in either order. Each way
moves all later tokens, so tokens that are written in parallel have to agree on one: a digit of one
way beside a word of another is no solution.

    Ann has 7 bags of 6 figs, loses 5. Left?
    First, 6*7=42; 42-5=37 figs. #### 37

A token is a word, a digit or a sign; spaces are none.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codd.errors import ConfigError, VocabularyError
from codd.evaluation.tasks.base import SPLITS
from codd.vocabulary import BPEVocabulary, Vocabulary

QUESTION_LENGTH = 16
SOLUTION_LENGTH = 32
PADDING = "<pad>"

_NAMES = ("Ann", "Ben", "Eva", "Ian", "Leo", "Mia", "Sam", "Zoe")
_THINGS = ("cups", "eggs", "figs", "hats", "keys", "nuts", "pens", "toys")
_OPENINGS = ("", "First, ", "{name} first has ")
_JOINTS = (", then ", ". Now ", "; ", ". So {name} has ")
_ENDINGS = ("", " {thing}", " {thing} in the end")
_TOKEN = re.compile(r"<pad>|\d|[A-Za-z]+|#+|[^\sA-Za-z\d]")
_ANSWER = re.compile(r"#### ((?:\d ?)+)")


@dataclass(frozen=True)
class Problem:
    """A question, one way to solve it, and the answer.

    Attributes:
        question: At most `QUESTION_LENGTH` tokens.
        solution: At most `SOLUTION_LENGTH` tokens; it ends in "#### " and the answer.
        answer: From 1 to 99.
    """

    question: str
    solution: str
    answer: int

    def is_solved_by(self, text: str) -> bool:
        """Whether a text's answer is right: the number after its first "####"."""
        return read_answer(text) == self.answer


@dataclass(frozen=True)
class _Step:
    left: int
    sign: str
    right: int

    @property
    def result(self) -> int:
        if self.sign == "-":
            return self.left - self.right
        return self.left + self.right if self.sign == "+" else self.left * self.right

    def written(self, source: random.Random) -> str:
        """As text; operands that may be swapped are, half of the time."""
        swapped = self.sign != "-" and source.random() < 0.5
        left, right = (self.right, self.left) if swapped else (self.left, self.right)
        return f"{left}{self.sign}{right}={self.result}"


@dataclass(frozen=True)
class _Case:
    """A question as a template for a name and a thing, and the steps that answer it."""

    question: str
    first: _Step
    second: _Step


def make_problems(split: str, count: int, *, seed: int = 0) -> list[Problem]:
    """Draws problems of one split.

    No two splits share the numbers of a problem of one kind, so none is solved from memory.

    Args:
        split: "train", "valid" or "test".
        count: Number of problems, drawn with replacement.
        seed: Seed of everything random.

    Raises:
        ConfigError: If there is no such split, or `count` is below 1.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {list(SPLITS)}, found {split!r}")
    if count < 1:
        raise ConfigError(f"count: expected at least 1, found {count}")
    source = random.Random(f"{split} {seed}")
    return [_problem(source, SPLITS[split]) for _ in range(count)]


def read_answer(text: str) -> int | None:
    """The number after the first "####"; None if there is none.

    Args:
        text: Its digits may stand apart, as a vocabulary of single digits decodes them.
    """
    found = _ANSWER.search(text)
    return None if found is None else int(found[1].replace(" ", ""))


def arithmetic_vocabulary() -> Vocabulary:
    """One category for each word, digit and sign of the problems; needs the package `tokenizers`.

    Raises:
        VocabularyError: If it is not installed.
    """
    asked = [kind(random.Random(0)).question for kind in _KINDS]
    written = [_filled(t, "", "") for t in (*_OPENINGS, *_JOINTS, *_ENDINGS, *asked)]
    text = " ".join([*written, *_NAMES, *_THINGS, "0123456789+-*=."])
    members = sorted(set(_TOKEN.findall(text)))
    return BPEVocabulary(_word_tokenizer([PADDING, "####", *members]))


def row_text(problem: Problem) -> str:
    """Question and solution as a row to train on, each in a field of a fixed number of tokens.

    The question ends where its field ends, the solution begins where its field begins.
    """
    asked, solved = (_TOKEN.findall(text) for text in (problem.question, problem.solution))
    before = [PADDING] * (QUESTION_LENGTH - len(asked))
    after = [PADDING] * (SOLUTION_LENGTH - len(solved))
    return " ".join([*before, *asked, *solved, *after])


def _word_tokenizer(members: Sequence[str]) -> str:
    try:
        import tokenizers
    except ImportError as error:
        raise VocabularyError(
            "arithmetic vocabulary: expected the package 'tokenizers', found none; "
            "pip install tokenizers"
        ) from error
    ids = {member: i for i, member in enumerate(members)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token=PADDING))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_TOKEN.pattern), "removed", invert=True
    )
    return json.dumps(json.loads(tokenizer.to_str()))


def _problem(source: random.Random, split: range) -> Problem:
    kind = source.randrange(len(_KINDS))
    while True:
        case = _KINDS[kind](source)
        if _possible(case) and _bucket(kind, case) in split:
            break
    name, thing = source.choice(_NAMES), source.choice(_THINGS)
    parts = (
        source.choice(_OPENINGS),
        case.first.written(source),
        source.choice(_JOINTS),
        case.second.written(source),
        source.choice(_ENDINGS),
        f". #### {case.second.result}",
    )
    question, solution = (_filled(t, name, thing) for t in (case.question, "".join(parts)))
    return Problem(question, solution, case.second.result)


def _filled(template: str, name: str, thing: str) -> str:
    return template.format(name=name, thing=thing)


def _possible(case: _Case) -> bool:
    return all(1 <= step.result <= 99 for step in (case.first, case.second))


def _bucket(kind: int, case: _Case) -> int:
    """A number in 0 .. 99 that depends on the kind and the numbers of a problem only."""
    key = f"{kind} {case.first} {case.second}"
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100


def _digit(source: random.Random) -> int:
    return source.randint(2, 9)


def _buys(source: random.Random) -> _Case:
    x, y, z = (_digit(source) for _ in range(3))
    text = f"{{name}} has {x} {{thing}}, buys {y}, loses {z}. Left?"
    return _Case(text, _Step(x, "+", y), _Step(x + y, "-", z))


def _finds(source: random.Random) -> _Case:
    x, y, z = 10 + _digit(source), _digit(source), _digit(source)
    text = f"{{name}} has {x} {{thing}}, loses {y}, finds {z}. Now?"
    return _Case(text, _Step(x, "-", y), _Step(x - y, "+", z))


def _bags(source: random.Random) -> _Case:
    x, y, z = (_digit(source) for _ in range(3))
    text = f"{{name}} has {x} bags of {y} {{thing}}, loses {z}. Left?"
    return _Case(text, _Step(x, "*", y), _Step(x * y, "-", z))


def _boxes(source: random.Random) -> _Case:
    x, y, z = (_digit(source) for _ in range(3))
    text = f"{{name}} has {x} boxes of {y} {{thing}} and {z} more. In all?"
    return _Case(text, _Step(x, "*", y), _Step(x * y, "+", z))


_KINDS: tuple[Callable[[random.Random], _Case], ...] = (_buys, _finds, _bags, _boxes)
