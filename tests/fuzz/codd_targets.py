"""Readers of coupled models, caches, published networks, vocabularies, texts and tables."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import codd
from codd.checkpoint import load_checkpoint
from codd.denoisers.registry import load_denoiser
from codd.published import PublishedSettings
from codd.training.cache import DenoiserCache
from codd.training.corpus import read_jsonl
from codd.viz.page import assemble
from codd.vocabulary import vocabulary_from_json
from pcircuits.cli.tables import read_table
from tests.fuzz.choices import Choices, random_bytes
from tests.fuzz.circuit_targets import json_or_changed_safely, sealed
from tests.fuzz.target import Target, folder, written
from tests.support.coupled import tiny_model
from tests.support.published import write_llada
from tests.support.training_worker import small_cache


class JsonFile:
    """A file of JSON in a folder that is otherwise whole, changed again and again.

    Args:
        name: Of the folder.
        make: Writes the folder.
        file: The file in it.
    """

    def __init__(self, name: str, make: Callable[[Path], object], file: str) -> None:
        self.path = folder() / name
        make(self.path)
        self._file = self.path / file
        self.seed = json.loads(self._file.read_text())

    def seeds(self) -> list[bytes]:
        """The file as it was, and ways to change it."""
        return [json.dumps(self.seed).encode(), *random_bytes()]

    def change(self, data: bytes) -> None:
        """Writes it anew, with the checksum that belongs to it."""
        value = json_or_changed_safely(data, [self.seed])
        self._file.write_text(json.dumps(sealed(value)))


@cache
def _model() -> JsonFile:
    return JsonFile("coupled", lambda path: tiny_model().save_pretrained(path), "checkpoint.json")


def _coupled(data: bytes) -> None:
    _model().change(data)
    model = codd.CoupledModel.from_pretrained(_model().path)
    if len(model.vocabulary.decode([0])) and model.block <= 16:
        model.vocabulary.encode("the cat")


@cache
def _made_cache() -> JsonFile:
    return JsonFile("cache", small_cache, "cache.json")


def _cache_layout(data: bytes) -> None:
    _made_cache().change(data)
    found = DenoiserCache(_made_cache().path)
    found.read(torch.arange(min(len(found), 2)))


def _shard(data: bytes) -> None:
    place = folder() / "shards"
    if not place.exists():
        small_cache(place)
    (place / "shard-00001.safetensors").write_bytes(data)
    found = DenoiserCache(place)
    found.read(torch.arange(len(found)))


def _shard_seeds() -> list[bytes]:
    place = folder() / "shard-seed"
    small_cache(place)
    return [(place / "shard-00001.safetensors").read_bytes()]


@cache
def _network(file: str) -> JsonFile:
    return JsonFile(f"llada-{file}", lambda path: write_llada(path), file)


def _published(file: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        _network(file).change(data)
        load_denoiser(_network(file).path)

    return run


def _checkpoint_bytes(data: bytes) -> None:
    place = folder() / "checkpoint-bytes"
    place.mkdir(exist_ok=True)
    (place / "checkpoint.json").write_bytes(data)
    load_checkpoint(place)


def _checkpoint_seeds() -> list[bytes]:
    return [json.dumps(_model().seed).encode()]


@cache
def _vocabularies() -> tuple[dict[str, Any], ...]:
    text = ["the cat sat on the mat", "the dog sat"]
    bpe = codd.BPEVocabulary.from_text(text, size=260).to_json()
    character = codd.CharacterVocabulary.from_text(text).to_json()
    published = {"kind": "published", "tokenizer": bpe["tokenizer"]}
    return (bpe, character, {"kind": "byte"}, {**published, "num_categories": 300, "mask": 299})


def _vocabulary(data: bytes) -> None:
    found = vocabulary_from_json(json_or_changed_safely(data, _vocabularies()))
    again = vocabulary_from_json(found.to_json())
    assert again.fingerprint == found.fingerprint
    text = found.decode([i for i in range(min(found.size, 300)) if i != found.mask_id])
    found.encode(text).tolist()
    text.encode("utf-8")


def _settings(data: bytes) -> None:
    value = json_or_changed_safely(data, [{"vocab_size": 3, "temperature": 1, "pc_frac": 0.2}])
    PublishedSettings.from_json(value, "settings").check_mask(126336)


def _jsonl(data: bytes) -> None:
    read_jsonl(written("a.jsonl", data))


def _table(suffix: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        read_table(written(f"a{suffix}", data))

    return run


def _npy_seeds() -> list[bytes]:
    found = []
    for name, save in (("a.npy", np.save), ("a.npz", np.savez_compressed)):
        path = folder() / f"seed-{name}"
        save(path, np.arange(12).reshape(3, 4))
        found.append(path.read_bytes())
    return found


def _page(data: bytes) -> None:
    """Whatever is shown, the page's elements are the page's own and the data are what was given."""
    choices = Choices(data)
    title = choices.rest().decode("utf-8", errors="replace")
    shown = {"title": title, "steps": [{"text": title[::-1]}, title]}
    page = assemble(title, shown)
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert json.loads(found) == shown
    plain = assemble("", {})
    for mark in ("<", ">"):
        assert page.count(mark) == plain.count(mark), "text became markup"
    assert html.escape(title) in page


def _json_seeds(values: Callable[[], Sequence[Any]]) -> Callable[[], list[bytes]]:
    return lambda: [*(json.dumps(value).encode() for value in values()), *random_bytes()]


CODD_TARGETS = (
    Target("coupled-model", _coupled, lambda: _model().seeds()),
    Target("codd-checkpoint", _checkpoint_bytes, _checkpoint_seeds),
    Target("cache", _cache_layout, lambda: _made_cache().seeds()),
    Target("shard", _shard, _shard_seeds),
    Target("network-config", _published("config.json"), random_bytes),
    Target("shard-index", _published("model.safetensors.index.json"), random_bytes),
    Target("vocabulary", _vocabulary, _json_seeds(_vocabularies)),
    Target("settings", _settings, random_bytes),
    Target("jsonl", _jsonl, lambda: [b'{"text": "a"}\n{"text": "b c"}\n{"text": "d"}\n']),
    Target("table", _table(".csv"), lambda: [b"a,b\n0,1\n2,\n"]),
    Target("npy", _table(".npy"), _npy_seeds),
    Target("npz", _table(".npz"), _npy_seeds),
    Target("page", _page, lambda: [b"</script><b>&", b"plain"]),
)
