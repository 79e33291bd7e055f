"""Training a circuit and a modulator on cached windows: the denoiser need not be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.errors import ConfigError
from codd.modulators.registry import AnyModulator, modulate
from codd.training.cache import CachedBatch, DenoiserCache
from codd.training.coupling_loop import rate_groups
from codd.training.listed import listed_distribution, omitted_mass
from codd.training.loop import optimise
from codd.training.processes import check_shares, micro_batches
from codd.training.run_state import HistoryEntry, Outcome
from codd.training.schedule import Schedule, step_seed

_VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class CachedTraining:
    """How a circuit and a modulator are trained on a cache.

    Attributes:
        batch_size: Rows a step.
        modulator_learning_rate: Peak for the modulator.
        circuit_learning_rate: Peak for the circuit's log-weights; 0 keeps them.
        validation_rows: Rows a validation uses, at most; they are of sequences that are not
            trained on, a tenth of all.
        micro_batches: Parts of a step that follow each other, their gradients added up.
    """

    batch_size: int = 32
    modulator_learning_rate: float = 2e-3
    circuit_learning_rate: float = 2e-3
    validation_rows: int = 256
    micro_batches: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "validation_rows", "micro_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class CachedOutcome:
    """What training on a cache returns; the averaged weights are in the modules it was given.

    Attributes:
        run: History and step; losses are nats per masked token.
        mean_omitted: Mean over validation windows of the bound `listed.omitted_mass`.
        largest_omitted: The largest of them.
    """

    run: Outcome
    mean_omitted: float
    largest_omitted: float


def train_cached(
    circuit: pc.CircuitModel,
    modulator: AnyModulator,
    settings: CouplingSettings,
    cache: DenoiserCache,
    training: CachedTraining,
    schedule: Schedule,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    resume: bool = False,
    group: dist.ProcessGroup | None = None,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> CachedOutcome:
    """Maximises the exact conditional log-likelihood of cached windows, in place.

    Args:
        circuit: The circuit over the cache's windows.
        modulator: Turns cached hidden states into parameters; "static" needs none.
        settings: The coupling that is trained.
        cache: What a frozen denoiser said.
        training: What is trained and how fast.
        schedule: How long.
        folder: Where checkpoints go.
        identity: JSON values that say what the circuit is.
        resume: Continue from the checkpoint in `folder` if there is one.
        group: Processes that share every batch; each is given the same arguments, and all end with
            the same parameters.
        log: Called with every validation.
        show_progress: Draw a progress bar.

    Raises:
        ConfigError: If circuit, modulator and cache do not fit, or nothing would be trained.
        CheckpointError: If `folder` holds a checkpoint of another run.
    """
    _check(circuit, modulator, cache)
    check_shares(group, training.batch_size)
    groups = rate_groups(
        [
            ("modulator", modulator, training.modulator_learning_rate * settings.conditioned),
            ("circuit", circuit, training.circuit_learning_rate),
        ]
    )
    device = circuit.log_weights[0].device
    processes = pc.Processes(group, device)
    train_rows, valid_rows = _split(cache, training.validation_rows, schedule.seed)

    def losses_at(step: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(step_seed(schedule.seed, step))
        at = torch.randint(len(train_rows), (training.batch_size,), generator=generator)
        own = processes.share(train_rows[at])
        for rows in micro_batches(own, training.micro_batches):
            batch = cache.read(rows).to(device)
            yield cached_loss(circuit, modulator, settings, batch) * len(rows) / len(at)

    def validate() -> float:
        total = 0.0
        for batch in cache.batches(valid_rows, training.batch_size):
            loss = cached_loss(circuit, modulator, settings, batch.to(device))
            total += float(loss) * len(batch)
        return total / len(valid_rows)

    outcome = optimise(
        losses_at,
        validate,
        groups,
        schedule,
        folder,
        {
            **identity,
            "kind": "cached-training",
            "cache": cache.layout.identity,
            "coupling": asdict(settings),
            "training": asdict(training),
        },
        title="coupling",
        resume=resume,
        group=group,
        log=log,
        show_progress=show_progress,
    )
    omitted = torch.cat([omitted_mass(b) for b in cache.batches(valid_rows, training.batch_size)])
    return CachedOutcome(outcome, float(omitted.mean()), float(omitted.max()))


def cached_loss(
    circuit: pc.CircuitModel,
    modulator: AnyModulator,
    settings: CouplingSettings,
    batch: CachedBatch,
) -> Tensor:
    """Mean negative conditional log-likelihood per masked token of each cached window.

    Args:
        circuit: The circuit.
        modulator: What conditions it.
        settings: The coupling.
        batch: Cached windows.

    Returns:
        A scalar in nats per masked token; windows without a masked token count zero.
    """
    hidden = batch.log_omitted[..., None] if batch.hidden is None else batch.hidden
    plan, modulation = modulate(circuit, modulator, hidden, conditioned=settings.conditioned)
    joint = listed_distribution(settings, plan, modulation.parameters, batch, modulation.latent)
    return -(joint.log_prob(batch.tokens) / batch.masked.sum(1).clamp_min(1)).mean()


def _split(cache: DenoiserCache, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on, and rows of other sequences to validate on."""
    num_sequences = cache.layout.num_sequences
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_sequences, generator=generator)
    held_out = torch.zeros(num_sequences, dtype=torch.bool)
    held_out[order[: max(1, round(_VALIDATION_SHARE * num_sequences))]] = True
    rows = torch.arange(len(cache))
    is_held_out = held_out[rows % num_sequences]
    train, valid = rows[~is_held_out], rows[is_held_out]
    return train, valid[torch.randperm(len(valid), generator=generator)[:most]]


def _check(circuit: pc.CircuitModel, modulator: AnyModulator, cache: DenoiserCache) -> None:
    layout = cache.layout
    expected = (layout.settings.window, layout.num_categories)
    found = (circuit.plan.num_variables, circuit.plan.num_categories)
    if found != expected:
        raise ConfigError(
            f"the cache has windows of {expected[0]} tokens of {expected[1]} categories; the "
            f"circuit has {found[0]} variables of {found[1]}"
        )
    if modulator.kind != "static" and not layout.settings.hidden:
        raise ConfigError(
            f"modulator {modulator.kind!r}: expected a cache with hidden states, found one "
            f"without; make it with --hidden"
        )
    if layout.num_sequences < 2:
        raise ConfigError("cache: expected at least 2 sequences, one to validate on; found 1")
