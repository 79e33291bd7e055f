"""What a cache holds, how large it becomes, and its description on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from codd.checkpoint import write_atomically
from codd.errors import CheckpointError, ConfigError

FORMAT = "codd-cache"
# Version 2 added the checksum of every row.
VERSION = 2
DESCRIPTION = "cache.json"
CHECKSUMS = "row_checksums"
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
        version = _named(cls, value).get("version", 1)
        settings = CacheSettings(**_typed(CacheSettings, value["settings"]))
        layout = cls(**_typed(cls, {**value, "version": version, "settings": settings}))
        if min(layout.num_sequences, layout.num_categories) < 1 or layout.hidden_size < 0:
            raise ConfigError(f"expected sizes of at least 1, found {layout!r:.200}")
        return layout


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


def _typed(kind: type, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields as JSON gave them, if each has its type."""
    types = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    for field in fields(kind):
        expected = types.get(str(field.type))
        found = _named(kind, value).get(field.name)
        right = expected is None or type(found) in expected
        if field.name in value and not right:
            raise TypeError(f"{field.name}: expected {field.type}, found {found!r:.60}")
    return value


def _named(kind: type, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{kind.__name__}: expected names and values, found {value!r:.60}")
    return value
