"""Work that leaves files behind, to be killed at any moment and begun again."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from codd.checkpoint import has_checkpoint
from codd.checkpoint import load_checkpoint as load_codd
from codd.model import CoupledModel
from codd.training import cache_writer
from codd.training.cache import DenoiserCache
from codd.training.cache_layout import read_layout
from codd.training.run_state import RunState
from codd.training.shards import has_shard, shard_numbers
from pcircuits.learning import loop as pc_loop
from pcircuits.learning.checkpoint import load_checkpoint
from tests.support.coupled import tiny_model
from tests.support.training_worker import learned, small_cache

EPOCHS, EVERY, SAVES = 24, 4, 60


class Progress:
    """Steps done, in memory that a killed child leaves to its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def steps(self) -> int:
        """Steps done."""
        return int(struct.unpack("q", self._memory[:8])[0])

    @steps.setter
    def steps(self, value: int) -> None:
        self._memory[:8] = struct.pack("q", value)


@dataclass(frozen=True)
class Job:
    """Work in a folder.

    Attributes:
        run: Begins, or goes on where the folder's files are; returns when all is done. What it
            returns is equal however often it was killed before.
        stored: Steps that the folder's files hold; None without any. Fails if they are damaged.
        interval: Most steps that a kill may lose.
    """

    run: Callable[[Path, Progress], Any]
    stored: Callable[[Path], int | None]
    interval: int


def _counted(owner: Any, method: str, progress: Progress, steps: Callable[[Any], int]) -> None:
    """Notes progress whenever a run has taken a step; in a child, which ends with it."""
    real = getattr(owner, method)

    def noted(run: Any, *args: Any) -> Any:
        result = real(run, *args)
        progress.steps = steps(run)
        return result

    setattr(owner, method, noted)


def _rows() -> torch.Tensor:
    return torch.randint(0, 3, (64, 6), generator=torch.Generator().manual_seed(1))


def _fit(fit: Callable[..., Any]) -> Callable[[Path, Progress], Any]:
    def run(folder: Path, progress: Progress) -> Any:
        # An epoch counts as done once it would be saved.
        _counted(pc_loop._Run, "take_batch", progress, lambda run: int(run.epoch))
        model = pc.CircuitModel(pc.families.hmm(6, 4, 3), seed=1)
        options = {"batch_size": 16, "tolerance": 0.0, "checkpoint_every": EVERY}
        fit(
            model, _rows(), epochs=EPOCHS, checkpoint=folder, resume=True, progress=False, **options
        )
        return model.log_likelihood(_rows()).tolist()

    return run


def _epochs(folder: Path) -> int | None:
    state: Any = load_checkpoint(folder)
    return None if state is None else int(state["run"]["epoch"])


def _training(name: str) -> Callable[[Path, Progress], Any]:
    def run(folder: Path, progress: Progress) -> Any:
        _counted(RunState, "after_step", progress, lambda state: int(state.step) + 1)
        cache: Any = None
        if name == "cached":
            cache = small_cache(folder.parent / "cache-of-cached")
        found, curve = learned(name, folder, cache, resume=True)
        return curve, {key: tensor.tolist() for key, tensor in found.items()}

    return run


def _steps(folder: Path) -> int | None:
    return int(load_codd(folder).metadata["step"]) if has_checkpoint(folder) else None


def _cache(folder: Path, progress: Progress) -> Any:
    real = cache_writer.write_atomically

    def counted(path: Path, data: bytes) -> None:
        real(path, data)
        progress.steps += 1

    setattr(cache_writer, "write_atomically", counted)  # noqa: B010
    progress.steps = _shards(folder) or 0
    cache: DenoiserCache = small_cache(folder)
    return cache.read(torch.arange(len(cache))).log_probs.tolist()


def _shards(folder: Path) -> int | None:
    layout = read_layout(folder)
    if layout is None:
        return None
    return sum(has_shard(folder, layout, shard) for shard in shard_numbers(folder))


def _save_circuit(folder: Path, progress: Progress) -> Any:
    """Saves one model after the other: the folder must hold the last one, or the next."""
    first = (_saved_circuit(folder) or 0) + 1
    for number in range(first, first + SAVES):
        _circuit(number).save(folder)
        progress.steps = number


def _circuit(number: int) -> pc.CircuitModel:
    """A model that says its number by its first probability."""
    model = pc.CircuitModel(pc.families.hmm(4, 2, 400), seed=number % 5)
    share = number % 5000 / 5000
    model.set_probabilities({"initial": torch.tensor([share, 1 - share])})
    return model


def _saved_circuit(folder: Path) -> int | None:
    if not (folder / "circuit.json").exists():
        return None
    found = {n: t.detach() for n, t in pc.load(folder).log_parameters().items()}
    number = round(float(found["initial"][0].exp()) * 5000)
    expected = _circuit(number).log_parameters()
    assert all(torch.equal(found[name], expected[name]) for name in expected), "a mixed model"
    return number


def _save_coupled(folder: Path, progress: Progress) -> Any:
    model = tiny_model()
    for _ in range(SAVES // 4):
        model.save_pretrained(folder)


def _saved_coupled(folder: Path) -> int | None:
    if not has_checkpoint(folder):
        return None
    CoupledModel.from_pretrained(folder)
    return 0


JOBS = {
    "em": Job(_fit(pc.fit_em), _epochs, EVERY),
    "gradient": Job(_fit(pc.fit_gradient), _epochs, EVERY),
    "denoiser": Job(_training("denoiser"), _steps, 2),
    "circuit": Job(_training("circuit"), _steps, 2),
    "coupling": Job(_training("coupling"), _steps, 2),
    "cached": Job(_training("cached"), _steps, 2),
    "cache": Job(_cache, _shards, 0),
    "save-circuit": Job(_save_circuit, _saved_circuit, 0),
    "save-coupled": Job(_save_coupled, _saved_coupled, 0),
}
