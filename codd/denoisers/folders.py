"""Folders that hold a published network: its config.json, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codd.denoisers.base import Origin
from codd.errors import CheckpointError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_JSON = 64 * 2**20  # bytes; the index of the largest published network has under 1 MB
_LARGEST_HEADER = 100 * 2**20  # of a safetensors file, as in its format
_WANTED = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]


@dataclass(frozen=True)
class NetworkFolder:
    """A published network on the disk.

    Attributes:
        name: What the user asked for: a folder, or an id on the Hugging Face hub.
        path: The folder itself.
        revision: The commit on the hub, or None for a folder.
        config: Its config.json.
    """

    name: str
    path: Path
    revision: str | None
    config: dict[str, Any]

    def origin(self, kind: str) -> Origin:
        """Where the network of that kind is, with its fingerprint."""
        return Origin(kind, self.name, self.revision, fingerprint(self.path))

    def read_json(self, file: str) -> dict[str, Any]:
        """Another JSON file of the folder; empty if it is not there.

        Raises:
            CheckpointError: If it is there and no JSON object.
        """
        return read_json(self.path / file) if (self.path / file).is_file() else {}


def open_folder(name: str | Path, revision: str | None = None) -> NetworkFolder:
    """Finds a published network, fetching it from the hub if it is no folder.

    Args:
        name: A folder, or an id "owner/name" on the Hugging Face hub (extra `hub`).
        revision: Branch, tag or commit on the hub; None for the newest.

    Raises:
        CheckpointError: If there is no such folder or id, or it has no config.json.
    """
    path = Path(name)
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{name}: expected no revision of a folder, found {revision!r}; only networks on "
                "the hub have one"
            )
        return NetworkFolder(str(path.resolve()), path, None, read_json(path / CONFIG))
    path = _fetch(str(name), revision)
    # The hub's client keeps each commit in a folder of that name.
    return NetworkFolder(str(name), path, path.name, read_json(path / CONFIG))


def fingerprint(folder: Path) -> str:
    """SHA-256 of the configuration and of the list of tensors, with their types and shapes.

    It tells networks of another kind, size or layout apart, without reading their weights.
    """
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.name)
    index = folder / INDEX
    if index.is_file():
        digest.update(index.read_bytes())
    for file in files:
        digest.update(file.name.encode() + str(file.stat().st_size).encode() + _header(file))
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object of reasonable size.

    Raises:
        CheckpointError: If it is missing, too large, or no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: expected the file {path.name}, found none")
    if path.stat().st_size > LARGEST_JSON:
        raise CheckpointError(
            f"{path}: expected at most {LARGEST_JSON:,} bytes, found {path.stat().st_size:,}"
        )
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        raise CheckpointError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _header(file: Path) -> bytes:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > min(_LARGEST_HEADER, file.stat().st_size):
            raise CheckpointError(f"{file}: expected safetensors, found a header of {size:,} bytes")
        return stream.read(size)


def _fetch(name: str, revision: str | None) -> Path:
    if name.count("/") != 1 or Path(name).is_absolute() or name.startswith("."):
        raise CheckpointError(
            f"denoiser: expected a folder or a hub id 'owner/name', found {name!r}"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"denoiser: no folder {name!r}; to fetch a network of that id install the extra `hub`"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"denoiser: cannot fetch {name!r}: {error}") from error
