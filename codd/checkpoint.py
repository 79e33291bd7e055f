"""Checkpoints: a folder with one safetensors file and one JSON file that names it.

`checkpoint.json` holds the format version, the tensor file's name, size and SHA-256, whatever
metadata the caller gave, and a checksum of all of that. The tensor file is written under a new name
first and the JSON replaced last, so a crash at any moment leaves the previous checkpoint whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import pcircuits as pc
from codd.errors import CheckpointError

FORMAT = "codd-checkpoint"
# Version 2 added the checksum of the description's own content.
VERSION = 2
_READABLE = {(FORMAT, 1): False, (FORMAT, VERSION): True}
DESCRIPTION = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        tensors: Name to tensor, on the CPU.
        metadata: The JSON the caller stored.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def save_checkpoint(
    folder: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Writes a checkpoint, replacing the folder's previous one in a single step.

    Args:
        folder: Made if missing.
        tensors: Name to tensor; copied, so tensors that share memory are fine.
        metadata: Anything JSON can hold.

    Raises:
        OSError: If a file cannot be written; names it. The previous checkpoint is still there.
    """
    pc.files.write_described(
        Path(folder) / DESCRIPTION,
        "tensors",
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()},
        {"format": FORMAT, "version": VERSION},
        {"metadata": dict(metadata)},
    )


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Args:
        folder: What `save_checkpoint` was given.

    Raises:
        CheckpointError: If it is missing, damaged, truncated or of another format version.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"checkpoint: expected the file {path}, found none")
    try:
        description, tensors = pc.files.read_described(path, _READABLE)
    except pc.errors.FormatError as error:
        raise CheckpointError(str(error)) from error
    metadata = description.get("metadata")
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: missing or damaged field: metadata is {metadata!r:.60}")
    return Checkpoint(tensors, metadata)


def has_checkpoint(folder: str | Path) -> bool:
    """Says whether `folder` holds a checkpoint, whole or not."""
    return (Path(folder) / DESCRIPTION).is_file()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file beside its place and renames it, so that a reader never sees half of it.

    Args:
        path: Where it shall be.
        data: Its contents.

    Raises:
        OSError: If it cannot be written; names the file. What was there before is still there.
    """
    pc.files.write_atomically(path, data)
