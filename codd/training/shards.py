"""The files of a cache's shards: where they are, whether they are whole, what is in some rows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codd.errors import CheckpointError
from codd.training.cache_layout import CHECKSUMS, CacheLayout

_IDENTITY = "identity"
_SHARDS = "shard-*.safetensors"
# What safetensors raises at files that are damaged in one way or another.
UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError)


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def shard_metadata(layout: CacheLayout) -> dict[str, str]:
    """What the header of every shard says of the cache it belongs to."""
    return {_IDENTITY: layout.identity}


def row_checksums(tensors: Mapping[str, Tensor]) -> Tensor:
    """(rows,) int64 CRC-32 of all bytes of every row, the checksums themselves left out."""
    parts = [
        tensor.contiguous().flatten(1).view(torch.uint8)
        for name, tensor in sorted(tensors.items())
        if name != CHECKSUMS
    ]
    rows = torch.cat(parts, dim=1).numpy()
    return torch.tensor([zlib.crc32(row) for row in rows], dtype=torch.int64)


def shard_numbers(folder: Path) -> set[int]:
    """Numbers of the shards whose files are there."""
    names = [path.name[len("shard-") : -len(".safetensors")] for path in folder.glob(_SHARDS)]
    return {int(name) for name in names if name.isascii() and name.isdigit()}


def has_shard(folder: Path, layout: CacheLayout, shard: int) -> bool:
    """Whether a shard is there, whole.

    Raises:
        CheckpointError: If its file is damaged or belongs to another cache.
    """
    path = shard_path(folder, shard)
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            identity = (file.metadata() or {}).get(_IDENTITY)
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a whole shard, found {error}; delete the file to make it again"
        ) from error
    if identity != layout.identity or shapes != layout.shapes(shard):
        raise CheckpointError(f"{path}: expected a shard of this cache, found one of another")
    return True
