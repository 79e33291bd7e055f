"""A task's examples as files: one JSON object a line, and what made them beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codd.checkpoint import write_atomically
from codd.errors import ConfigError
from codd.evaluation.tasks.base import ClosedTask, Example, make_examples

DESCRIPTION = "task.json"


def write_task(
    folder: Path, task: ClosedTask, counts: Mapping[str, int], *, seed: int = 0
) -> list[Path]:
    """Writes a task's splits and its description; what is there of the same task is kept.

    Args:
        folder: Exists.
        task: What is asked.
        counts: Split -> number of examples.
        seed: Seed of the examples.

    Returns:
        The files written; none if the folder holds just this.

    Raises:
        ConfigError: If the folder holds another task, or an argument is impossible.
    """
    description = describe(task, counts, seed)
    file = folder / DESCRIPTION
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != description:
            raise ConfigError(
                f"{file}: expected the task {description}, found {found}; choose another folder"
            )
        return []
    splits = {split: make_examples(task, split, n, seed=seed) for split, n in counts.items()}
    files = [folder / f"{split}.jsonl" for split in splits]
    for path, examples in zip(files, splits.values(), strict=True):
        write_atomically(path, _lines(examples).encode("utf-8"))
    # Last, so that a folder with a description is complete.
    write_atomically(file, (json.dumps(description, indent=1) + "\n").encode("utf-8"))
    return [*files, file]


def describe(task: ClosedTask, counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """What made a task's files, as JSON: name, sizes, lengths of prompt and answer, seed."""
    return {
        "task": task.name,
        **asdict(task),
        "prompt_length": task.prompt_length,
        "answer_length": task.answer_length,
        "examples": dict(counts),
        "seed": seed,
    }


def _lines(examples: Sequence[Example]) -> str:
    return "".join(f"{json.dumps({'text': e.text, **asdict(e)})}\n" for e in examples)
