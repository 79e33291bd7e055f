"""Generated word problems: true, disjoint by their numbers, and checked exactly."""

from __future__ import annotations

import re

import pytest

from codd.errors import ConfigError
from codd.evaluation.tasks.arithmetic import (
    QUESTION_LENGTH,
    SOLUTION_LENGTH,
    Problem,
    arithmetic_vocabulary,
    make_problems,
    read_answer,
    row_text,
)
from codd.evaluation.tasks.base import SPLITS
from codd.training.windows import encode_rows

PROBLEMS = {split: make_problems(split, 400) for split in SPLITS}
VOCABULARY = arithmetic_vocabulary()


def numbers(problem: Problem) -> tuple[str, ...]:
    """The kind and the numbers of a problem, read from its question."""
    kind = re.sub(r"\d+|[A-Z]\w+ (?=has)|\w+(?=,| and)", "", problem.question)
    return (kind, *re.findall(r"\d+", problem.question))


@pytest.mark.parametrize("split", SPLITS)
def test_every_equation_is_true_and_leads_to_the_answer(split: str) -> None:
    for problem in PROBLEMS[split]:
        steps = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", problem.solution)
        assert len(steps) == 2
        for left, sign, right, result in steps:
            a, b = int(left), int(right)
            assert {"+": a + b, "-": a - b, "*": a * b}[sign] == int(result)
        assert steps[0][3] in steps[1][::2]
        asked = re.findall(r"\d+", problem.question)
        assert sorted(asked) == sorted([steps[0][0], steps[0][2], _other(steps)])
        assert int(steps[1][3]) == problem.answer
        assert problem.is_solved_by(problem.solution)


def _other(steps: list[tuple[str, ...]]) -> str:
    """The operand of the second step that is not the result of the first."""
    operands = [steps[1][0], steps[1][2]]
    operands.remove(steps[0][3])
    return operands[0]


def test_no_two_splits_share_the_numbers_of_a_problem() -> None:
    found = {s: {numbers(p) for p in problems} for s, problems in PROBLEMS.items()}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["valid"]
    assert not found["valid"] & found["test"]


def test_problems_are_seeded() -> None:
    assert make_problems("test", 5) == PROBLEMS["test"][:5]
    assert make_problems("test", 5, seed=1) != PROBLEMS["test"][:5]


def test_solutions_are_written_in_many_ways() -> None:
    shapes = {re.sub(r"\d+", "", p.solution).split("#")[0] for p in PROBLEMS["train"]}
    assert len(shapes) > 60


def test_rows_hold_question_and_solution_in_their_fields() -> None:
    problems = PROBLEMS["train"]
    rows = encode_rows([row_text(p) for p in problems], VOCABULARY)
    assert rows.shape == (400, QUESTION_LENGTH + SOLUTION_LENGTH)
    for problem, row in zip(problems, rows, strict=True):
        asked = VOCABULARY.decode(row[:QUESTION_LENGTH])
        solved = VOCABULARY.decode(row[QUESTION_LENGTH:])
        assert _squeezed(asked) == _squeezed(problem.question)
        assert _squeezed(solved) == _squeezed(problem.solution)
        assert problem.is_solved_by(solved)


def _squeezed(text: str) -> str:
    return text.replace("<pad>", "").replace(" ", "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 42", 42),
        ("4 + 1 = 5 . #### 4 2 <pad> <pad>", 42),
        ("#### 7 <pad> 3", 7),
        ("#### 4 2 . #### 5", 42),
        ("#### 4 2 figs", 42),
        ("####", None),
        ("#### figs 4 2", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_answer_is_the_number_after_the_sign(text: str, answer: int | None) -> None:
    assert read_answer(text) == answer
    assert Problem("", "", 42).is_solved_by(text) == (answer == 42)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"split: expected one of .*, found 'dev'"):
        make_problems("dev", 1)
    with pytest.raises(ConfigError, match="count: expected at least 1, found 0"):
        make_problems("test", 0)
