"""Which checkpoint a run continues from, and in what it is another run's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codd.checkpoint import Checkpoint, has_checkpoint, load_checkpoint
from codd.errors import CheckpointError


def checkpoint_of(
    folder: str | Path, identity: Mapping[str, Any], *, resume: bool
) -> Checkpoint | None:
    """The checkpoint to continue from, or None in a folder without one.

    Args:
        folder: Where checkpoints go.
        identity: JSON values that must be equal for the checkpoint to belong to this run.
        resume: Whether continuing is wanted.

    Raises:
        CheckpointError: If there is one although not resuming, or it belongs to another run.
    """
    if not has_checkpoint(folder):
        return None
    if not resume:
        raise CheckpointError(
            f"{folder}: expected a folder without a checkpoint, found one; resume it or choose "
            "another folder"
        )
    checkpoint = load_checkpoint(folder)
    # Through JSON and back, as the stored one went: tuples become lists.
    for name, expected in json.loads(json.dumps(dict(identity))).items():
        found = checkpoint.metadata.get(name)
        if found != expected:
            raise CheckpointError(
                f"{folder}: the checkpoint belongs to another run: "
                f"{first_difference(name, expected, found)}"
            )
    return checkpoint


def first_difference(name: str, expected: Any, found: Any) -> str:
    """Says where two JSON values differ first.

    Args:
        name: What they are.
        expected: One of them.
        found: The other.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if expected.get(key) != found.get(key):
                return first_difference(f"{name}.{key}", expected.get(key), found.get(key))
    return f"{name}: expected {_short(expected)}, found {_short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
