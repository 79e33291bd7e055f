"""What a frozen denoiser said of a corpus, on disk: top-k log-probabilities in shards.

A cache is a folder with `cache.json` and files `shard-00000.safetensors`, ... A shard's rows depend
on the cache's seed and the shard's number alone, and a shard is put in place by one rename. So an
interrupted cache is completed by making the shards that are not there, in any order and by any
number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from codd.errors import CheckpointError
from codd.training.cache_layout import CHECKSUMS, DESCRIPTION, read_layout
from codd.training.shards import UNREADABLE, has_shard, row_checksums, shard_numbers, shard_path


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
        except UNREADABLE as error:
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
