"""One loop for what is trained by gradient: seeded, resumable, interruptible.

Randomness comes from the run's seed and the step alone, so a run that was stopped and resumed gives
the same weights, bit for bit on the same machine with the same number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

import pcircuits as pc
from codd.checkpoint import Checkpoint, has_checkpoint, load_checkpoint, save_checkpoint
from codd.errors import CheckpointError, ConfigError, TrainingError
from codd.training.muon import Muon

AVERAGE_PREFIX = "ema."
Losses = Callable[[int], Iterable[Tensor]]
"""A step -> the parts of its loss, each made when the one before has been differentiated."""
_STATE = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum",)}


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and how often a run looks at itself.

    Attributes:
        steps: Optimiser steps.
        warmup_steps: Steps of linear rise of the learning rate; a cosine falls from there.
        final_fraction: The last learning rate over the peak.
        gradient_clip: Largest norm of the whole gradient.
        ema_decay: Rate of the moving average of the weights, which are the result.
        betas: AdamW's moving-average rates.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints.
        seed: Seed of everything random.
    """

    steps: int
    warmup_steps: int = 50
    final_fraction: float = 0.02
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    betas: tuple[float, float] = (0.9, 0.98)
    validate_every: int = 250
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "gradient_clip", "validate_every", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)}"
                )
        for name in ("final_fraction", "ema_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: expected 0 to 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        parameters: Name -> parameter.
        learning_rate: Its peak.
        weight_decay: Decoupled weight decay.
        method: "adamw", or "muon" for weight matrices.
        momentum: Muon's moving-average rate.
        dtype: Number type of Muon's matrix products.
    """

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0
    method: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.95
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class HistoryEntry:
    """One validation.

    Attributes:
        step: Optimiser steps done.
        train_loss: Mean training loss since the last entry.
        valid_loss: Validation loss of the averaged weights.
        seconds: Training time so far, over all resumed parts.
    """

    step: int
    train_loss: float
    valid_loss: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a run returns; the averaged weights are in the parameters it was given.

    Attributes:
        history: One entry a validation.
        step: Optimiser steps done; fewer than asked for after an interrupt.
        seconds: Training time over all resumed parts.
    """

    history: tuple[HistoryEntry, ...]
    step: int
    seconds: float


def optimise(
    losses_at: Losses,
    validate: Callable[[], float],
    groups: Sequence[Group],
    schedule: Schedule,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    title: str,
    resume: bool = False,
    stop_every: int = 1,
    group: dist.ProcessGroup | None = None,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Minimises a loss; the first Ctrl-C ends after the current step with a checkpoint.

    Args:
        losses_at: The loss of a step, from the parameters as they are, in parts that are added up:
            gradients are accumulated part by part, so that a step needs the memory of one part.
            All randomness must come from `step_seed(seed, step)` or the global generator, which is
            seeded with it. With several processes, this one's share: the shares are added up.
        validate: The validation loss of the parameters as they are.
        groups: What is trained.
        schedule: How.
        folder: Where checkpoints go.
        identity: JSON values that must be equal for a checkpoint to belong to this run.
        title: Shown beside the progress bar.
        resume: Continue from the checkpoint in `folder` if there is one.
        stop_every: An interrupt ends the run after a multiple of so many steps only.
        group: Processes that train together; all are given the first one's initial parameters
            and end with the same. The first writes checkpoints, to a folder that all can read.
        log: Called with every validation, by the first process only.
        show_progress: Draw a progress bar.

    Raises:
        CheckpointError: If `folder` holds a checkpoint of another run, or one while not resuming.
        TrainingError: If the loss stops being finite.
    """
    run = _Run(groups, schedule, group)
    identity = {**identity, "schedule": asdict(schedule)}
    checkpoint = checkpoint_of(folder, identity, resume=resume)
    if checkpoint is not None:
        try:
            run.restore(checkpoint.tensors, checkpoint.metadata)
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: missing or misshapen entry {error}") from error
    leads = run.processes.rank == 0
    bar = progress_bar(title, run, schedule.steps, shown=show_progress and leads)
    with pc.stop_on_interrupt() as stop, bar as report:
        saved = run.step
        while run.step < schedule.steps:
            if run.step % stop_every == 0 and run.processes.any(stop.requested):
                break
            run.take_step(losses_at)
            if run.step == schedule.steps or run.step % schedule.validate_every == 0:
                run.validate(validate)
                if log is not None and leads:
                    log(run.history[-1])
            if run.step % schedule.checkpoint_every == 0:
                run.save(folder, identity)
                saved = run.step
            report()
        if saved != run.step:
            run.save(folder, identity)
    run.install_averages()
    return Outcome(tuple(run.history), run.step, run.seconds)


def step_seed(seed: int, step: int) -> int:
    """A seed for one step, so that a resumed run needs no saved generator state.

    Args:
        seed: The run's seed.
        step: Steps done so far.
    """
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rate_factor(step: int, schedule: Schedule) -> float:
    """Learning rate over its peak: linear warm-up, then half a cosine to `final_fraction`.

    Args:
        step: Steps done so far.
        schedule: The schedule.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    fall = 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.final_fraction + (1.0 - schedule.final_fraction) * fall


@dataclass
class _Run:
    """Everything that changes during a run."""

    groups: Sequence[Group]
    schedule: Schedule
    group: dist.ProcessGroup | None = None
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    history: list[HistoryEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.named = {n: p for group in self.groups for n, p in group.parameters.items()}
        self.processes = pc.Processes(self.group, next(iter(self.named.values())).device)
        self.processes.agree(self.named)
        self.averages = {name: p.detach().clone() for name, p in self.named.items()}
        self.optimisers = [_optimiser(group, self.schedule) for group in self.groups]

    def take_step(self, losses_at: Losses) -> None:
        started = time.perf_counter()
        own = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(self.schedule.seed, self.step))
            for loss in losses_at(self.step):
                own += loss.item()
                loss.backward()
        value = self.processes.add_number(own)
        if not math.isfinite(value):
            raise TrainingError(f"step {self.step}: expected a finite loss, found {value}")
        self._add_gradients()
        torch.nn.utils.clip_grad_norm_(list(self.named.values()), self.schedule.gradient_clip)
        factor = rate_factor(self.step, self.schedule)
        for optimiser, group in zip(self.optimisers, self.groups, strict=True):
            optimiser.param_groups[0]["lr"] = group.learning_rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self._update_averages()
        self.step += 1
        self.loss_sum += value
        self.loss_count += 1
        self.seconds += time.perf_counter() - started

    def _add_gradients(self) -> None:
        if self.group is None:
            return
        own = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self.named.items()
        }
        for name, total in self.processes.add(own).items():
            self.named[name].grad = total

    def save(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        if self.processes.rank == 0:
            save_checkpoint(folder, self.tensors(), {**identity, **self.metadata()})

    def validate(self, validate: Callable[[], float]) -> None:
        started = time.perf_counter()
        with torch.no_grad(), self._with_averages():
            valid_loss = validate()
        self.seconds += time.perf_counter() - started
        train_loss = self.loss_sum / max(self.loss_count, 1)
        self.history.append(HistoryEntry(self.step, train_loss, valid_loss, self.seconds))
        self.loss_sum, self.loss_count = 0.0, 0

    @torch.no_grad()
    def install_averages(self) -> None:
        for name, parameter in self.named.items():
            parameter.copy_(self.averages[name])

    @contextmanager
    def _with_averages(self) -> Iterator[None]:
        current = {name: p.detach().clone() for name, p in self.named.items()}
        self.install_averages()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.named.items():
                    parameter.copy_(current[name])

    @torch.no_grad()
    def _update_averages(self) -> None:
        # Early on the average must forget the initial weights faster than its final rate.
        decay = min(self.schedule.ema_decay, (1 + self.step) / (10 + self.step))
        current = [p.detach() for p in self.named.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1.0 - decay)

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            found[f"model.{name}"] = parameter.detach()
            found[f"{AVERAGE_PREFIX}{name}"] = self.averages[name]
        for optimiser, group in zip(self.optimisers, self.groups, strict=True):
            for name, parameter in group.parameters.items():
                for key in _STATE[group.method]:
                    found[f"{group.method}.{key}.{name}"] = optimiser.state[parameter][key]
        return found

    def summary(self) -> str:
        state = f"loss {self.loss_sum / max(self.loss_count, 1):.3f}"
        return state + (f", valid {self.history[-1].valid_loss:.4f}" if self.history else "")

    def metadata(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "seconds": self.seconds,
            "history": [asdict(entry) for entry in self.history],
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        for name, parameter in self.named.items():
            parameter.copy_(tensors[f"model.{name}"])
            self.averages[name].copy_(tensors[f"{AVERAGE_PREFIX}{name}"])
        for optimiser, group in zip(self.optimisers, self.groups, strict=True):
            for name, parameter in group.parameters.items():
                optimiser.state[parameter] = {
                    key: tensors[f"{group.method}.{key}.{name}"].clone().to(parameter.device)
                    for key in _STATE[group.method]
                }
        self.step = metadata["step"]
        self.loss_sum = metadata["loss_sum"]
        self.loss_count = metadata["loss_count"]
        self.seconds = metadata["seconds"]
        self.history = [HistoryEntry(**entry) for entry in metadata["history"]]


def _optimiser(group: Group, schedule: Schedule) -> torch.optim.Optimizer:
    parameters, rate = list(group.parameters.values()), group.learning_rate
    if group.method == "muon":
        return Muon(
            parameters,
            lr=rate,
            momentum=group.momentum,
            weight_decay=group.weight_decay,
            dtype=group.dtype,
        )
    return torch.optim.AdamW(
        parameters, lr=rate, betas=schedule.betas, weight_decay=group.weight_decay, fused=True
    )


def checkpoint_of(
    folder: str | Path, identity: Mapping[str, Any], *, resume: bool
) -> Checkpoint | None:
    """The checkpoint to continue from, or None in a folder without one.

    Args:
        folder: Where checkpoints go.
        identity: JSON values that must be equal for the checkpoint to belong to this run.
        resume: Whether continuing is wanted.

    Raises:
        CheckpointError: If there is one although not resuming, or it belongs to another run.
    """
    if not has_checkpoint(folder):
        return None
    if not resume:
        raise CheckpointError(
            f"{folder}: expected a folder without a checkpoint, found one; resume it or choose "
            "another folder"
        )
    checkpoint = load_checkpoint(folder)
    # Through JSON and back, as the stored one went: tuples become lists.
    for name, expected in json.loads(json.dumps(dict(identity))).items():
        found = checkpoint.metadata.get(name)
        if found != expected:
            raise CheckpointError(
                f"{folder}: the checkpoint belongs to another run: "
                f"{first_difference(name, expected, found)}"
            )
    return checkpoint


def first_difference(name: str, expected: Any, found: Any) -> str:
    """Says where two JSON values differ first.

    Args:
        name: What they are.
        expected: One of them.
        found: The other.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if expected.get(key) != found.get(key):
                return first_difference(f"{name}.{key}", expected.get(key), found.get(key))
    return f"{name}: expected {_short(expected)}, found {_short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def micro_batches(rows: Tensor, count: int) -> Iterator[Tensor]:
    """A process's rows of a batch in at most `count` nearly equal parts, none of them empty."""
    for part in rows.tensor_split(count):
        if len(part):
            yield part


def check_shares(group: dist.ProcessGroup | None, batch_size: int) -> None:
    """Checks that every process has a row of every batch.

    Raises:
        ConfigError: If there are more processes than rows.
    """
    size = 1 if group is None else dist.get_world_size(group)
    if batch_size < size:
        raise ConfigError(
            f"batch_size: expected at least one row for each of {size} processes, found "
            f"{batch_size}"
        )


class Progressing(Protocol):
    """A run whose progress can be shown."""

    @property
    def step(self) -> int:
        """Steps done."""

    def summary(self) -> str:
        """A few words about its state."""


@contextmanager
def progress_bar(
    title: str, run: Progressing, steps: int, *, shown: bool
) -> Iterator[Callable[[], None]]:
    """A progress bar on the terminal, or nothing; yields what redraws it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task(title, total=steps, completed=run.step, state="")
        yield lambda: bar.update(task, completed=run.step, state=run.summary())
