"""Closed-form tasks: what is right against all strings, draws, splits and files."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from codd.errors import ConfigError, CorpusError
from codd.evaluation.tasks.base import ClosedTask, make_examples
from codd.evaluation.tasks.copy import Copy
from codd.evaluation.tasks.files import write_task
from codd.evaluation.tasks.latin_square import LatinSquare
from codd.evaluation.tasks.registry import TASKS, make_task
from codd.evaluation.tasks.replace import Replace
from codd.evaluation.tasks.reverse import Reverse
from codd.evaluation.tasks.shuffle import Shuffle
from codd.training.corpus import read_splits
from codd.training.windows import encode_split

SMALL: tuple[ClosedTask, ...] = (
    Copy(3, 4),
    Reverse(3, 4),
    Replace(3, 4),
    Shuffle(3, 4),
    LatinSquare(3, 3),
)


def right_answers(task: ClosedTask, prompt: str) -> set[str]:
    """All strings of the answer's length that are right, by trying every one."""
    letters = sorted({*task.items(prompt), *prompt.replace("=", "").replace(",", ""), "z"})
    every = map("".join, itertools.product(letters, repeat=task.answer_length))
    return {answer for answer in every if task.is_right(prompt, answer)}


@pytest.mark.parametrize("task", SMALL, ids=lambda task: task.name)
def test_draws_are_the_right_answers_each_as_often(task: ClosedTask) -> None:
    source = random.Random(3)
    prompt = task.draw_prompt(source)
    assert len(prompt) == task.prompt_length and prompt.endswith("=")
    expected = right_answers(task, prompt)
    assert len(expected) == task.num_answers()
    counts = Counter(task.draw_answer(prompt, source) for _ in range(600))
    assert set(counts) == expected
    if len(expected) > 1:
        assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "prompt", "right", "wrong"),
    [
        ("copy", "dbca=", ["dbca"], ["dbc=", "abcd"]),
        ("reverse", "dbca=", ["acbd"], ["dbca"]),
        ("replace", "dbca,h=", ["hbca", "dbch"], ["dbca", "hbch", "dbce", "hdca", "bhca"]),
        ("shuffle", "dbca=", ["dbca", "acdb"], ["dbcb", "dbce"]),
        ("latin-square", "ab=", ["abba", "baab"], ["abab", "aabb", "acca"]),
        ("latin-square", "abc=", ["abcbcacab"], ["abcbcaabc", "abcacbbac", "aaaaaaaaa"]),
    ],
)
def test_answers_by_hand(name: str, prompt: str, right: list[str], wrong: list[str]) -> None:
    task = make_task(name, num_items=len(prompt.split(",")[0].rstrip("=")))
    assert all(task.is_right(prompt, answer) for answer in right)
    assert not any(task.is_right(prompt, answer) for answer in wrong)


def test_there_are_as_many_latin_squares_as_is_known() -> None:
    """1, 2, 12, 576, ...: sequence A002860."""
    assert [LatinSquare(n, 8).num_answers() for n in (2, 3, 4)] == [2, 12, 576]


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_prompt_and_seeds_repeat(name: str) -> None:
    task = make_task(name, num_items=3)
    splits = {split: make_examples(task, split, 200) for split in ("train", "valid", "test")}
    prompts = [{example.prompt for example in examples} for examples in splits.values()]
    assert all(not a & b for a, b in itertools.combinations(prompts, 2))
    assert splits["test"] == make_examples(task, "test", 200)
    assert splits["test"] != make_examples(task, "test", 200, seed=1)
    for example in splits["train"]:
        assert task.is_right(example.prompt, example.answer)
        assert len(example.text) == task.prompt_length + task.answer_length
        assert task.vocabulary().decode(task.vocabulary().encode(example.text)) == example.text


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("sort", {}, "task: expected one of copy, .*, found 'sort'"),
        ("copy", {"num_items": 1}, "copy: expected 2 to 25 items, found 1"),
        ("latin-square", {"num_items": 6}, "latin-square: expected 2 to 5 items, found 6"),
        ("shuffle", {"num_items": 5, "num_letters": 4}, "expected 5 to 26 letters for 5 items"),
        ("replace", {"num_letters": 4}, "expected 5 to 26 letters for 4 items, found 4"),
    ],
)
def test_impossible_tasks(name: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_task(name, **sizes)


def test_impossible_examples() -> None:
    with pytest.raises(ConfigError, match="split: expected one of train, valid, test, found 'dev'"):
        make_examples(Copy(), "dev", 3)
    with pytest.raises(ConfigError, match="count: expected at least 1, found 0"):
        make_examples(Copy(), "train", 0)
    with pytest.raises(ConfigError, match=r"expected prompts of the split .*take more letters"):
        for split in ("train", "valid", "test"):  # two prompts cannot be in three splits
            make_examples(Copy(2, 2), split, 1)


def test_files_are_rows_to_train_on(tmp_path: Path) -> None:
    task, counts = Shuffle(), {"train": 30, "valid": 5, "test": 6}
    written = write_task(tmp_path, task, counts, seed=2)
    assert [path.name for path in written] == [
        *("train.jsonl", "valid.jsonl", "test.jsonl", "task.json")
    ]
    first = json.loads(written[0].read_text().splitlines()[0])
    assert first["text"] == first["prompt"] + first["answer"]
    assert task.is_right(first["prompt"], first["answer"])
    corpus = read_splits(tmp_path, rows=True)
    assert corpus.rows and corpus.train[0] == first["text"]
    assert [len(split) for split in (corpus.train, corpus.valid, corpus.test)] == [30, 5, 6]
    rows = encode_split(corpus.train, task.vocabulary(), rows=True)
    assert rows.shape == (30, 9)
    assert read_splits(tmp_path).source != corpus.source  # a run on a stream is another run

    assert write_task(tmp_path, task, counts, seed=2) == []
    with pytest.raises(ConfigError, match=r"task.json: expected the task .*choose another folder"):
        write_task(tmp_path, task, counts, seed=3)
    (tmp_path / "valid.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match=r"valid.jsonl: expected at least one line, found none"):
        read_splits(tmp_path)
