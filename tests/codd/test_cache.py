"""A cache holds what the denoiser says, and is completed without computing anything twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
from codd.coupling.targets import list_top
from codd.denoisers.base import DenoiserOutput
from codd.errors import CheckpointError, ConfigError
from codd.training import cache_writer
from codd.training.cache import DenoiserCache
from codd.training.cache_layout import CacheLayout, CacheSettings
from codd.training.cache_writer import plan_cache, write_cache
from codd.training.shards import shard_path
from tests.support.interrupt import interrupt_during
from tests.support.sealed import edit_description

V, LENGTH = 11, 12
SETTINGS = CacheSettings(
    top_k=4, window=6, block_length=3, passes=2, hidden=True, dtype="float32", shard_rows=7
)


class CountingDenoiser:
    """A small denoiser that counts the rows it was asked about."""

    def __init__(self) -> None:
        config = codd.TransformerConfig(V, max_length=LENGTH, width=8, num_layers=1, num_heads=2)
        self.network = codd.TransformerDenoiser(config, seed=0).eval()
        self.num_categories, self.mask_id, self.hidden_size = V, V, 8
        self.max_length = LENGTH
        self.rows = 0

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        self.rows += len(tokens)
        found: DenoiserOutput = self.network(tokens, attention_mask)
        return found


def sequences() -> Tensor:
    return torch.randint(V, (16, LENGTH), generator=torch.Generator().manual_seed(3))


def layout_for(denoiser: CountingDenoiser, settings: CacheSettings = SETTINGS) -> CacheLayout:
    return plan_cache(denoiser, sequences(), settings, {"corpus": "x"})


def written(folder: Path, settings: CacheSettings = SETTINGS) -> CountingDenoiser:
    denoiser = CountingDenoiser()
    layout = layout_for(denoiser, settings)
    write_cache(denoiser, sequences(), layout, folder, batch_size=4, show_progress=False)
    return denoiser


def contents(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("shard-*")):
        yield path.read_bytes()


def test_rows_are_what_the_denoiser_says_of_them(tmp_path: Path) -> None:
    written(tmp_path)
    cache = DenoiserCache(tmp_path)
    batch = cache.read(torch.tensor([30, 2, 9]))

    assert len(cache) == 32
    assert batch.masked.any()
    assert batch.hidden is not None
    assert batch.hidden.shape == (3, 6, 8)
    true = (batch.categories == batch.tokens[..., None]).sum(-1)
    assert (true == 1).all()
    total = batch.log_probs.logsumexp(-1).logaddexp(batch.log_omitted)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-5, rtol=0)
    logits = CountingDenoiser().network.head(batch.hidden).log_softmax(-1)
    torch.testing.assert_close(
        batch.log_probs, logits.gather(-1, batch.categories), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(cache.read(torch.tensor([9])).log_probs[0], batch.log_probs[2])


def test_tokens_are_those_of_the_corpus(tmp_path: Path) -> None:
    written(tmp_path)
    batch = DenoiserCache(tmp_path).read(torch.arange(32))

    for row in range(32):
        windows = sequences()[row % 16].unfold(0, 6, 1)
        assert (windows == batch.tokens[row]).all(1).any()


@pytest.mark.parametrize("kept", range(5))
def test_an_interrupted_cache_is_completed_without_recomputing(tmp_path: Path, kept: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert written(whole).rows == 32
    written(broken)
    lost = [shard for shard in range(5) if shard != kept]
    for shard in lost:
        shard_path(broken, shard).unlink()
    stamp = shard_path(broken, kept).stat().st_mtime_ns

    denoiser = written(broken)

    assert denoiser.rows == 32 - len(layout_for(denoiser).rows_of(kept))
    assert shard_path(broken, kept).stat().st_mtime_ns == stamp
    assert list(contents(broken)) == list(contents(whole))


def test_an_interrupt_leaves_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = CountingDenoiser()
    layout = layout_for(denoiser)
    with monkeypatch.context() as patch:
        interrupt_during(patch, cache_writer, step=1)
        outcome = write_cache(denoiser, sequences(), layout, tmp_path, show_progress=False)
    assert (outcome.computed, outcome.found, outcome.missing) == (2, 0, 3)
    assert outcome.interrupted
    with pytest.raises(CheckpointError, match="3 are missing"):
        DenoiserCache(tmp_path)

    again = write_cache(denoiser, sequences(), layout, tmp_path, show_progress=False)

    assert (again.computed, again.found, again.missing) == (3, 2, 0)
    assert not again.interrupted
    assert denoiser.rows == 32


def test_processes_share_the_shards(tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    written(whole)
    computed = []
    for rank in range(2):
        denoiser = CountingDenoiser()
        layout = layout_for(denoiser)
        outcome = write_cache(
            denoiser,
            sequences(),
            layout,
            shared,
            batch_size=4,
            share=(rank, 2),
            show_progress=False,
        )
        computed.append(outcome.computed)

    assert computed == [3, 2]
    assert list(contents(shared)) == list(contents(whole))


def test_the_true_token_is_listed_and_the_rest_counted() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]], dtype=torch.float32)
    listed, lists = list_top(logits.log_softmax(-1), 2, include=torch.tensor([[0]]))

    assert lists.categories.tolist() == [[[3, 0]]]
    probabilities = logits.softmax(-1)[0, 0]
    torch.testing.assert_close(listed.exp()[0, 0], probabilities[[3, 0]])
    torch.testing.assert_close(lists.omitted()[0, 0], probabilities[[1, 2]].sum())
    torch.testing.assert_close(lists.log_ceiling.exp()[0, 0], probabilities[2])


def test_nothing_is_omitted_when_all_are_listed() -> None:
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    listed, lists = list_top(log_probs, 5, include=torch.zeros(2, 3).long())

    assert (lists.omitted() == 0).all()
    torch.testing.assert_close(listed.logsumexp(-1), torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_the_estimate_is_what_the_tensors_take(tmp_path: Path) -> None:
    written(tmp_path)
    layout = layout_for(CountingDenoiser())
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("shard-*"))

    assert layout.num_bytes < on_disk < layout.num_bytes + 2000 * layout.num_shards


def test_half_precision_keeps_three_digits(tmp_path: Path) -> None:
    written(tmp_path / "half", replace(SETTINGS, dtype="float16"))
    written(tmp_path / "full")
    half, full = (DenoiserCache(tmp_path / n).read(torch.arange(32)) for n in ("half", "full"))

    torch.testing.assert_close(half.log_probs, full.log_probs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half.hidden, full.hidden, rtol=1e-2, atol=1e-2)


def test_another_cache_is_refused(tmp_path: Path) -> None:
    written(tmp_path)

    with pytest.raises(CheckpointError, match=r"cache\.settings\.seed: expected 1, found 0"):
        written(tmp_path, replace(SETTINGS, seed=1))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(CheckpointError, match="shard-00001"):
        DenoiserCache(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["layout"].update(settings=3),
            "CacheSettings: expected names and values, found 3",
        ),
        (lambda d: d.update(layout=0.5), "CacheLayout: expected names and values, found 0.5"),
        (lambda d: d["layout"].update(num_sequences=0), "expected sizes of at least 1"),
    ],
)
def test_what_no_cache_says_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    written(tmp_path)
    edit_description(tmp_path / "cache.json", change)
    with pytest.raises(CheckpointError, match=message):
        DenoiserCache(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top_k": 12}, "top_k: expected at most V = 11"),
        ({"window": 13}, "expected block_length <= window <= sequence"),
        ({"passes": 0}, "passes: expected at least 1"),
        ({"dtype": "int8"}, "dtype: expected one of"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        layout_for(CountingDenoiser(), replace(SETTINGS, **changes))


def test_a_full_disk_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr(cache_writer.shutil, "disk_usage", lambda folder: Usage)

    with pytest.raises(ConfigError, match="are free"):
        written(tmp_path)
