"""Streams a frozen denoiser over a corpus into a cache; what is already there is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import pcircuits as pc
from codd.checkpoint import write_atomically
from codd.coupling.targets import list_top
from codd.denoisers.base import Denoiser, DenoiserOutput
from codd.errors import CheckpointError, ConfigError
from codd.training.cache_layout import (
    CHECKSUMS,
    CacheLayout,
    CacheSettings,
    read_layout,
    write_layout,
)
from codd.training.corruption import CorruptedBatch, WindowTask
from codd.training.progress import progress_bar
from codd.training.resuming import first_difference
from codd.training.schedule import step_seed
from codd.training.shards import has_shard, row_checksums, shard_metadata, shard_path


@dataclass(frozen=True)
class CacheOutcome:
    """What a call did.

    Attributes:
        computed: Shards that it made.
        found: Shards that were there before.
        missing: Shards that still are not, after Ctrl-C or because they are others' share.
        interrupted: Whether Ctrl-C left some of its own share undone.
    """

    computed: int
    found: int
    missing: int
    interrupted: bool


def plan_cache(
    denoiser: Denoiser, sequences: Tensor, settings: CacheSettings, source: Mapping[str, Any]
) -> CacheLayout:
    """What a cache will hold and how large it becomes, before anything is computed.

    Args:
        denoiser: The network.
        sequences: (N, L) clean ids.
        settings: What is kept.
        source: JSON values that say which corpus, vocabulary and denoiser: a cache is only
            completed with the same.

    Raises:
        ConfigError: If sequences, settings and denoiser contradict each other.
    """
    categories, length = denoiser.num_categories, sequences.shape[1]
    if not settings.block_length <= settings.window <= length <= denoiser.max_length:
        raise ConfigError(
            f"expected block_length <= window <= sequence <= the denoiser's longest; found "
            f"{settings.block_length}, {settings.window}, {length}, {denoiser.max_length}"
        )
    if settings.top_k > categories:
        raise ConfigError(f"top_k: expected at most V = {categories}, found {settings.top_k}")
    return CacheLayout(settings, len(sequences), categories, denoiser.hidden_size, source)


def write_cache(
    denoiser: Denoiser,
    sequences: Tensor,
    layout: CacheLayout,
    folder: str | Path,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    share: tuple[int, int] = (0, 1),
    show_progress: bool = True,
) -> CacheOutcome:
    """Computes the shards of a cache that are not there yet.

    The first Ctrl-C ends after the current shard; calling again goes on. The rows do not depend
    on what was interrupted, nor on how many processes share the work.

    Args:
        denoiser: The frozen network; in evaluation mode.
        sequences: (N, L) clean ids, those that `plan_cache` was given.
        layout: From `plan_cache`.
        folder: Made if missing.
        batch_size: Sequences a call of the denoiser.
        device: Where the denoiser is.
        share: (rank, size): make only the shards whose number leaves that rank modulo size.
        show_progress: Draw a progress bar.

    Raises:
        CheckpointError: If the folder holds another cache, or a damaged shard.
        ConfigError: If the disk has too little room.
    """
    folder = Path(folder)
    layout = _begun(folder, layout)
    missing = [s for s in range(layout.num_shards) if not has_shard(folder, layout, s)]
    own = [shard for shard in missing if shard % share[1] == share[0]]
    _check_room(folder, layout, len(missing))
    found = done = layout.num_shards - len(missing)
    bar = progress_bar("cache", found, layout.num_shards, shown=show_progress)
    with pc.stop_on_interrupt() as stop, bar as report:
        for shard in own:
            if stop.requested:
                break
            tensors = _shard(denoiser, sequences, layout, shard, batch_size, device)
            data = safetensors.torch.save(tensors, shard_metadata(layout))
            write_atomically(shard_path(folder, shard), data)
            done += 1
            report(done, "shards")
    computed = done - found
    return CacheOutcome(computed, found, layout.num_shards - done, computed < len(own))


def _begun(folder: Path, layout: CacheLayout) -> CacheLayout:
    """The layout of the folder's cache, after it was found or made this one's.

    A cache that an earlier version began is completed in that version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = read_layout(folder)
    if present is None:
        write_layout(folder, layout)
        return layout
    wanted = replace(layout, version=present.version)
    if present.identity != wanted.identity:
        raise CheckpointError(
            f"{folder}: expected this cache or none, found another: "
            f"{first_difference('cache', wanted.to_json(), present.to_json())}"
        )
    return wanted


def _check_room(folder: Path, layout: CacheLayout, num_missing: int) -> None:
    needed = layout.num_bytes * num_missing // max(layout.num_shards, 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder}: the cache needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; "
            f"lower top_k or passes, or leave the hidden states out"
        )


def _shard(
    denoiser: Denoiser,
    sequences: Tensor,
    layout: CacheLayout,
    shard: int,
    batch_size: int,
    device: torch.device | str,
) -> dict[str, Tensor]:
    settings, rows = layout.settings, layout.rows_of(shard)
    generator = torch.Generator().manual_seed(step_seed(settings.seed, shard))
    task = WindowTask(
        settings.window, settings.block_length, denoiser.mask_id, settings.prompt_fraction
    )
    chosen = torch.arange(rows.start, rows.stop) % layout.num_sequences
    batch, start = task.draw(sequences[chosen], generator)
    index = start[:, None] + torch.arange(settings.window)
    parts = []
    for part in torch.arange(len(rows)).split(batch_size):
        with torch.no_grad():
            output = denoiser(batch.tokens[part].to(device))
        parts.append(_kept(output, batch, part, index[part], settings))
    tensors = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    return tensors | ({CHECKSUMS: row_checksums(tensors)} if layout.version > 1 else {})


def _kept(
    output: DenoiserOutput,
    batch: CorruptedBatch,
    rows: Tensor,
    index: Tensor,
    settings: CacheSettings,
) -> dict[str, Tensor]:
    """What is stored of some rows of a shard, `index` (B, W) the positions of their windows."""
    tokens = batch.targets[rows].gather(1, index)
    at = index.to(output.logits.device)[..., None]
    logits = output.logits.gather(1, at.expand(-1, -1, output.logits.shape[2]))
    log_probs, listing = list_top(
        logits.float().log_softmax(-1), settings.top_k, include=tokens.to(logits.device)
    )
    assert listing.log_omitted is not None
    kept = {
        "tokens": tokens.int(),
        "masked": batch.masked[rows].gather(1, index),
        "categories": listing.categories.int().cpu(),
        "log_probs": log_probs.to(settings.log_prob_dtype).cpu(),
        "log_omitted": listing.log_omitted.float().cpu(),
    }
    if settings.hidden:
        hidden = output.hidden.gather(1, at.expand(-1, -1, output.hidden.shape[2]))
        kept["hidden"] = hidden.to(settings.hidden_dtype).cpu()
    return kept
