"""Checkpoints: a folder with one safetensors file and one JSON file that names it.

`checkpoint.json` holds the format version, the tensor file's name, size and SHA-256, and whatever
metadata the caller gave. The tensor file is written under a new name first and the JSON replaced
last, so a crash at any moment leaves the previous checkpoint whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from codd.errors import CheckpointError

FORMAT = "codd-checkpoint"
VERSION = 1
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
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    data = safetensors.torch.save(contents)
    digest = hashlib.sha256(data).hexdigest()
    file = f"tensors-{digest[:12]}.safetensors"
    description = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": {"file": file, "bytes": len(data), "sha256": digest},
        "metadata": dict(metadata),
    }
    text = json.dumps(description, indent=1, ensure_ascii=False)
    write_atomically(folder / file, data)
    write_atomically(folder / DESCRIPTION, text.encode("utf-8"))
    for other in folder.glob("tensors-*.safetensors"):
        if other.name != file:
            other.unlink()


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Args:
        folder: What `save_checkpoint` was given.

    Raises:
        CheckpointError: If it is missing, damaged, truncated or of another format version.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    try:
        entry = description["tensors"]
        file, size, digest = folder / str(entry["file"]), entry["bytes"], entry["sha256"]
        metadata = dict(description["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: missing or damaged field: {error}"
        ) from error
    if file.parent != folder:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: expected a file name, found the path {entry['file']!r}"
        )
    return Checkpoint(_read_tensors(file, size, digest), metadata)


def has_checkpoint(folder: str | Path) -> bool:
    """Says whether `folder` holds a checkpoint, whole or not."""
    return (Path(folder) / DESCRIPTION).is_file()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file beside its place and renames it, so that a reader never sees half of it.

    Args:
        path: Where it shall be.
        data: Its contents.
    """
    beside = path.with_name(path.name + ".partial")
    with beside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint: expected the file {path}, found none")
    try:
        description: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected an object of format {FORMAT!r}, found another")
    if description.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: expected format version {VERSION}, found {description.get('version')!r}"
        )
    return description


def _read_tensors(path: Path, size: int, digest: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint: expected the file {path}, found none")
    data = path.read_bytes()
    if len(data) != size:
        raise CheckpointError(f"{path}: expected {size} bytes, found {len(data)}: truncated")
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CheckpointError(f"{path}: expected SHA-256 {digest}, found {found}: damaged")
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected safetensors, found {error}") from error
