"""Truncated and bit-flipped files: refused, or read as they were."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from codd.denoisers.registry import load_denoiser, save_denoiser
from codd.model import CoupledModel
from codd.training.cache import DenoiserCache
from pcircuits.learning.checkpoint import load_checkpoint, save_checkpoint
from tests.fuzz import circuit_targets as samples
from tests.fuzz.target import ALLOWED
from tests.support.coupled import tiny_model
from tests.support.training_worker import small_cache


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: Writes a whole one, a file or a folder.
        read: Reads it; what it returns compares equal if nothing was changed.
        damaged: The file under it that is damaged, as a pattern; "" for the file itself.
        checked: Whether it carries checksums, so that no change goes unnoticed.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    damaged: str
    checked: bool


def damage(data: bytes, source: random.Random) -> bytes:
    """Flips one to three bits, cuts the end off, or fills a piece with zeros."""
    changed = bytearray(data)
    match source.randrange(3):
        case 0:
            for _ in range(source.randint(1, 3)):
                changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
        case 1:
            del changed[source.randrange(len(data)) :]
        case _:
            start = source.randrange(len(data))
            length = min(source.randint(1, 64), len(data) - start)
            changed[start : start + length] = bytes(length)
    return bytes(changed)


def mutate(kind: Kind, folder: Path, number: int, seed: int = 0) -> Counter[str]:
    """Damages a file so often; how often it was refused, read equal, or read different.

    Raises:
        Exception: Whatever a reader raises that is not the libraries' own error.
    """
    path, source, found = folder / "whole", random.Random(seed), Counter[str]()
    kind.write(path)
    target = next(iter(sorted(path.glob(kind.damaged)))) if kind.damaged else path
    data, expected = target.read_bytes(), kind.read(path)
    while sum(found.values()) < number:
        changed = damage(data, source)
        if changed == data:
            continue
        target.write_bytes(changed)
        try:
            found["equal" if kind.read(path) == expected else "different"] += 1
        except ALLOWED:
            found["refused"] += 1
    return found


def _weighted(found: pc.WeightedCircuit) -> Any:
    weights = {name: tensor.tolist() for name, tensor in found.log_weights.items()}
    return json.dumps(pc.structure_to_json(found.circuit)), weights


def _coupled(path: Path) -> Any:
    model = CoupledModel.from_pretrained(path)
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}, model.block


def _denoiser(path: Path) -> Any:
    return {name: tensor.tolist() for name, tensor in load_denoiser(path).state_dict().items()}


def _learning(path: Path) -> Any:
    state: Any = load_checkpoint(path)
    return None if state is None else (state["step"], state["tensor"].tolist(), state["pair"])


def _cache(path: Path) -> Any:
    cache = DenoiserCache(path)
    batch = cache.read(torch.arange(len(cache)))
    return [tensor.tolist() for tensor in (batch.tokens, batch.log_probs, batch.categories)]


def _model(path: Path) -> None:
    pc.CircuitModel(pc.families.hmm(3, 2, 4), seed=1).save(path)


def _state(path: Path) -> None:
    save_checkpoint(path, {"step": 3, "tensor": torch.randn(20), "pair": (1.5, "x")})


def _sample(data: bytes, read: Callable[[Path], Any]) -> Kind:
    def shown(path: Path) -> Any:
        found = read(path)
        return _weighted(found) if isinstance(found, pc.WeightedCircuit) else pc.to_text(found)

    return Kind(lambda path: path.write_bytes(data), shown, "", checked=False)


def _juice(path: Path) -> None:
    shutil.copy(samples.DATA / "jpc" / "hmm.jpc", path)


KINDS = {
    "circuit.json": Kind(_model, lambda p: _weighted(pc.load(p).weighted()), "*.json", True),
    "circuit tensors": Kind(_model, lambda p: _weighted(pc.load(p).weighted()), "*.s*", True),
    "learning checkpoint.json": Kind(_state, _learning, "*.json", True),
    "learning tensors": Kind(_state, _learning, "*.safetensors", True),
    "coupled model checkpoint.json": Kind(
        lambda path: tiny_model().save_pretrained(path), _coupled, "*.json", True
    ),
    "coupled model tensors": Kind(
        lambda path: tiny_model().save_pretrained(path), _coupled, "*.safetensors", True
    ),
    "denoiser checkpoint.json": Kind(
        lambda path: save_denoiser(path, tiny_model().denoiser), _denoiser, "*.json", True
    ),
    "cache.json": Kind(small_cache, _cache, "cache.json", True),
    "cache shard": Kind(small_cache, _cache, "shard-00001*", True),
    ".jpc of PyJuice": Kind(_juice, lambda path: _weighted(pc.read_jpc(path)), "", False),
    ".jpc of Juice": _sample(samples.JUICE, pc.read_juice_jpc),
    ".psdd": _sample(samples.PSDD, pc.read_psdd),
    ".spn": _sample(samples.SPN, pc.read_spn),
    ".clt": _sample(samples.CLT, pc.read_clt),
    ".nnf": _sample(samples.C2D, pc.read_nnf),
    ".sdd": _sample(samples.SDD, pc.read_sdd),
    "text": _sample(
        samples.TEXT,
        lambda path: pc.weighted_from_text(path.read_text(encoding="utf-8", errors="replace")),
    ),
}
