"""What a frozen denoiser said of a corpus, on disk: top-k log-probabilities in shards.

A cache is a folder with `cache.json` and files `shard-00000.safetensors`, ... A shard's rows depend
on the cache's seed and the shard's number alone, and a shard is put in place by one rename. So an
interrupted cache is completed by making the shards that are not there, in any order and by any
number of processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import pcircuits as pc
from codd.checkpoint import write_atomically
from codd.errors import CheckpointError, ConfigError

FORMAT = "codd-cache"
# Version 2 added the checksum of every row.
VERSION = 2
DESCRIPTION = "cache.json"
CHECKSUMS = "row_checksums"
_IDENTITY = "identity"
_SHARDS = "shard-*.safetensors"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class CacheSettings:
    """What a cache holds.

    Attributes:
        top_k: Categories J kept at each position; the true token takes the place of the least
            likely where it is not among them.
        window: Tokens W kept of each sequence: what the circuit couples.
        block_length: Tokens that a sequence with a prompt may have masked, at its end.
        prompt_fraction: Share of sequences of which only the last block is masked.
        passes: How often every sequence is masked anew.
        hidden: Whether hidden states are kept as well.
        dtype: Number type of the log-probabilities, "float16" or "float32". Hidden states are
            kept as bfloat16 with float16, whose range they may leave.
        shard_rows: Rows of a shard.
        seed: Seed of mask ratios, masks and windows.
    """

    top_k: int = 64
    window: int = 32
    block_length: int = 32
    prompt_fraction: float = 0.75
    passes: int = 1
    hidden: bool = False
    dtype: str = "float16"
    shard_rows: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("top_k", "window", "block_length", "passes", "shard_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.prompt_fraction <= 1:
            raise ConfigError(f"prompt_fraction: expected 0 to 1, found {self.prompt_fraction}")
        if self.dtype not in _DTYPES:
            raise ConfigError(f"dtype: expected one of {list(_DTYPES)}, found {self.dtype!r}")

    @property
    def log_prob_dtype(self) -> torch.dtype:
        """Number type of the log-probabilities."""
        return _DTYPES[self.dtype]

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Number type of the hidden states."""
        return torch.bfloat16 if self.dtype == "float16" else torch.float32

    def bytes_per_row(self, hidden_size: int) -> int:
        """Bytes of tensors that one row takes on disk.

        Args:
            hidden_size: D, width of the denoiser's hidden states.
        """
        listed = self.top_k * (4 + self.log_prob_dtype.itemsize)
        states = hidden_size * self.hidden_dtype.itemsize if self.hidden else 0
        return self.window * (4 + 1 + 4 + listed + states)


@dataclass(frozen=True)
class CacheLayout:
    """Everything that decides what is in a cache's files.

    Attributes:
        settings: What is kept.
        num_sequences: Sequences N of the corpus.
        num_categories: V, the denoiser's categories.
        hidden_size: D, width of the denoiser's hidden states.
        source: JSON values that say which corpus, vocabulary and denoiser.
        version: Of the format; since 2 every row has a checksum.
    """

    settings: CacheSettings
    num_sequences: int
    num_categories: int
    hidden_size: int
    source: Mapping[str, Any]
    version: int = VERSION

    @property
    def num_rows(self) -> int:
        """Rows of the whole cache."""
        return self.num_sequences * self.settings.passes

    @property
    def num_shards(self) -> int:
        """Shards of the whole cache."""
        return math.ceil(self.num_rows / self.settings.shard_rows)

    @property
    def num_bytes(self) -> int:
        """Bytes of tensors of the whole cache."""
        return self.num_rows * self.settings.bytes_per_row(self.hidden_size)

    def rows_of(self, shard: int) -> range:
        """The rows in a shard."""
        first = shard * self.settings.shard_rows
        return range(first, min(first + self.settings.shard_rows, self.num_rows))

    def shapes(self, shard: int) -> dict[str, list[int]]:
        """Name -> shape of each tensor in a shard."""
        rows, settings = len(self.rows_of(shard)), self.settings
        per_token, listed = [rows, settings.window], [rows, settings.window, settings.top_k]
        shapes = {
            "tokens": per_token,
            "masked": per_token,
            "log_omitted": per_token,
            "categories": listed,
            "log_probs": listed,
        }
        if settings.hidden:
            shapes["hidden"] = [*per_token, self.hidden_size]
        if self.version > 1:
            shapes[CHECKSUMS] = [rows]
        return shapes

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.version == 1:
            del found["version"]
        return found

    @cached_property
    def identity(self) -> str:
        """Hex digest of all fields, which every shard carries."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CacheLayout:
        """What `to_json` gave, read back.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
            ConfigError: If a number is impossible.
        """
        version = value.get("version", 1)
        settings = CacheSettings(**_typed(CacheSettings, value["settings"]))
        layout = cls(**_typed(cls, {**value, "version": version, "settings": settings}))
        if min(layout.num_sequences, layout.num_categories, layout.hidden_size) < 0:
            raise ConfigError(f"expected sizes of at least 0, found {layout!r:.200}")
        return layout


def _typed(kind: type, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields as JSON gave them, if each has its type."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{kind.__name__}: expected names and values, found {value!r:.60}")
    types = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    for field in fields(kind):
        expected = types.get(str(field.type))
        found = value.get(field.name)
        right = expected is None or type(found) in expected
        if field.name in value and not right:
            raise TypeError(f"{field.name}: expected {field.type}, found {found!r:.60}")
    return value


# What safetensors raises at files that are damaged in one way or another.
_UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError)


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
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a whole shard, found {error}; delete the file to make it again"
        ) from error
    if identity != layout.identity or shapes != layout.shapes(shard):
        raise CheckpointError(f"{path}: expected a shard of this cache, found one of another")
    return True


def write_layout(folder: Path, layout: CacheLayout) -> None:
    """Writes the description of a cache; done before its first shard."""
    description = {"format": FORMAT, "version": layout.version, "layout": layout.to_json()}
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1).encode())


def read_layout(folder: str | Path) -> CacheLayout | None:
    """The description of a cache; None if there is none.

    Raises:
        CheckpointError: If it is damaged or of another version.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        return None
    try:
        description = pc.files.read_json(path)
        found = (description["format"], description["version"])
        if found not in ((FORMAT, 1), (FORMAT, VERSION)):
            raise CheckpointError(f"{path}: expected {(FORMAT, VERSION)}, found {found}")
        layout = CacheLayout.from_json(description["layout"])
        if layout.version != found[1]:
            raise CheckpointError(f"{path}: versions {found[1]} and {layout.version} differ")
        return layout
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a cache's description: {error!r}") from error


@dataclass(frozen=True, eq=False)
class CachedBatch:
    """Rows of a cache.

    Attributes:
        tokens: (B, W) int64 the true tokens.
        masked: (B, W) bool, True where the denoiser did not see them.
        categories: (B, W, J) int64 the listed categories, the true token among them.
        log_probs: (B, W, J) float32 their log-probabilities.
        log_omitted: (B, W) float32 log of the probability of all categories that are not listed.
        hidden: (B, W, D) float32 hidden states, or None.
    """

    tokens: Tensor
    masked: Tensor
    categories: Tensor
    log_probs: Tensor
    log_omitted: Tensor
    hidden: Tensor | None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> CachedBatch:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def select(self, index: Tensor | slice) -> CachedBatch:
        """Some of the rows."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> CachedBatch:
        return CachedBatch(
            change(self.tokens),
            change(self.masked),
            change(self.categories),
            change(self.log_probs),
            change(self.log_omitted),
            None if self.hidden is None else change(self.hidden),
        )


class DenoiserCache:
    """A finished cache, read from disk as it is needed.

    Args:
        folder: What `write_cache` was given.

    Raises:
        CheckpointError: If it is missing, unfinished or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        layout = read_layout(folder)
        if layout is None:
            raise CheckpointError(f"{folder}: expected a cache, found no {DESCRIPTION}")
        self.layout = layout
        there = [shard for shard in shard_numbers(self.folder) if shard < layout.num_shards]
        missing = layout.num_shards - sum(has_shard(self.folder, layout, s) for s in there)
        if missing:
            raise CheckpointError(
                f"{folder}: expected {layout.num_shards} shards, {missing} are missing; "
                f"run `codd cache` on it again to complete it"
            )

    def __len__(self) -> int:
        """Rows."""
        return self.layout.num_rows

    def read(self, rows: Tensor) -> CachedBatch:
        """Reads rows, in the order given.

        Args:
            rows: (B,) int64 in [0, number of rows).

        Raises:
            CheckpointError: If a shard has become unreadable.
        """
        shards = rows // self.layout.settings.shard_rows
        parts, places = [], []
        for shard in shards.unique().tolist():
            at = (shards == shard).nonzero()[:, 0]
            parts.append(self._read_shard(shard, rows[at] - self.layout.rows_of(shard).start))
            places.append(at)
        order = torch.cat(places).argsort()
        joined = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
        return CachedBatch(
            joined["tokens"].long(),
            joined["masked"],
            joined["categories"].long(),
            joined["log_probs"].float(),
            joined["log_omitted"],
            joined["hidden"].float() if "hidden" in joined else None,
        )

    def batches(self, rows: Tensor, batch_size: int) -> Iterator[CachedBatch]:
        """Reads rows a batch at a time."""
        for part in rows.split(batch_size):
            yield self.read(part)

    def _read_shard(self, shard: int, rows: Tensor) -> dict[str, Tensor]:
        path = shard_path(self.folder, shard)
        found: dict[str, Tensor] = {}
        try:
            with safe_open(path, framework="pt") as file:
                for name in self.layout.shapes(shard):
                    part = file.get_slice(name)
                    found[name] = torch.cat([part[row : row + 1] for row in rows.tolist()])
        except _UNREADABLE as error:
            raise CheckpointError(f"{path}: expected a whole shard, found {error}") from error
        self._check(path, rows, found)
        return found

    def _check(self, path: Path, rows: Tensor, found: Mapping[str, Tensor]) -> None:
        """Refuses rows that were changed, or that say what no denoiser says."""
        wrong = (found["log_probs"].isnan() | (found["log_probs"] == math.inf)).flatten(1).any(1)
        for name in ("tokens", "categories"):
            ids = found[name].flatten(1)
            wrong |= ((ids < 0) | (ids >= self.layout.num_categories)).any(1)
        if self.layout.version > 1:
            wrong |= found[CHECKSUMS] != row_checksums(found)
        if bool(wrong.any()):
            row = int(rows[wrong.nonzero()[0, 0]])
            raise CheckpointError(
                f"{path}: row {row} is damaged; delete the file and run `codd cache` again"
            )
