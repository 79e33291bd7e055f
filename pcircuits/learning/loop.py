"""The loop around every fit: epochs and batches, early stopping, checkpoints, a clean stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.learning.checkpoint import load_checkpoint, save_checkpoint
from pcircuits.learning.history import History, Record, Report, progress_bar
from pcircuits.learning.interrupt import stop_on_interrupt
from pcircuits.learning.processes import Processes
from pcircuits.learning.rows import Rows, batches


@dataclass(frozen=True)
class Schedule:
    """How long a fit goes on and what it leaves behind; see `fit_em` for the fields' meaning.

    Raises:
        ValueError: If a number is out of range, or two settings contradict each other.
    """

    epochs: int
    batch_size: int | None
    tolerance: float
    patience: int | None
    has_valid: bool
    seed: int
    progress: bool
    checkpoint: str | Path | None
    checkpoint_every: int
    resume: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "checkpoint_every"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be >= 1; found {number}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0; found {self.tolerance}")
        if self.patience is not None and not self.has_valid:
            raise ValueError("patience needs valid, the rows to stop early by; found none")
        if self.resume and self.checkpoint is None:
            raise ValueError("resume needs checkpoint, the folder to resume from; found none")


class Learner(Protocol):
    """What an algorithm supplies to `learn`."""

    @property
    def title(self) -> str:
        """Shown beside the progress bar."""

    @property
    def rows(self) -> Rows:
        """The data."""

    @property
    def processes(self) -> Processes:
        """Who takes part."""

    def identity(self) -> dict[str, Any]:
        """JSON values that a resumed run must have in common with the one it continues."""

    def update(self, index: Tensor) -> float:
        """One update from the rows of a batch; their total objective before it."""

    def validate(self) -> float | None:
        """Mean objective of the validation rows, or None without any."""

    def parameters(self) -> dict[str, Tensor]:
        """A copy of what is learned."""

    def use(self, parameters: Mapping[str, Tensor]) -> None:
        """Goes back to such a copy."""

    def state(self) -> dict[str, Any]:
        """All that later updates depend on, as `save_checkpoint` takes it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from such a state."""


def learn(learner: Learner, schedule: Schedule) -> History:
    """Runs a fit to its end.

    Args:
        learner: The algorithm with its model and data.
        schedule: How long.

    Returns:
        The history, including that before a resumed checkpoint.

    Raises:
        FormatError: If the checkpoint folder holds another run's checkpoint, or one although
            resuming was not asked for.
    """
    run = _Run(learner, schedule)
    run.resume()
    with (
        stop_on_interrupt() as stop,
        progress_bar(learner.title, shown=schedule.progress) as report,
    ):
        reason = run.verdict()
        while reason is None:
            run.take_batch(report)
            reason = run.verdict()
            if reason is None and learner.processes.any(stop.requested):
                reason = "interrupted"
        run.save()
    if run.best is not None and schedule.patience is not None:
        learner.use(run.best)
    return History(tuple(run.records), reason)


@dataclass
class _Run:
    """Where a fit stands.

    Attributes:
        epoch: Finished epochs.
        position: Finished batches of the current one.
        step: Finished updates.
        total: Objective added up over the current epoch's batches.
        records: One a finished epoch.
        best: Parameters of the best epoch so far, kept only for early stopping.
        order: Row indices of the current epoch's batches.
        identity: What the checkpoint says of the run.
        started: When the run began, moved back by what it had taken before it was resumed.
        saved: Epoch and position of the last checkpoint.
    """

    learner: Learner
    schedule: Schedule
    epoch: int = 0
    position: int = 0
    step: int = 0
    total: float = 0.0
    records: list[Record] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    order: tuple[Tensor, ...] | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    saved: tuple[int, int] | None = None

    def take_batch(self, report: Report) -> None:
        """One update, and at an epoch's end its record."""
        schedule, rows = self.schedule, self.learner.rows
        if self.order is None:
            self.order = batches(len(rows), schedule.batch_size, schedule.seed, self.epoch)
        index, num_batches = self.order[self.position], len(self.order)
        total = self.learner.update(index)
        self.total += total
        self.position += 1
        self.step += 1
        if self.position == num_batches:
            self._end_epoch()
        done = (self.epoch + self.position / num_batches) / schedule.epochs
        mean = total / len(index) * len(rows) / rows.total_weight
        report(done, f"{mean:.4f} nats a row")

    def verdict(self) -> str | None:
        """Why learning is over, or None: told from the records alone, so that it resumes."""
        if self.position:
            return None
        records, schedule = self.records, self.schedule
        if len(records) > 1 and abs(records[-1].train - records[-2].train) < schedule.tolerance:
            return "converged"
        if schedule.patience is not None and records:
            waited = len(records) - 1 - records.index(History(tuple(records), "").best)
            if waited >= schedule.patience:
                return "patience"
        return "finished" if self.epoch >= schedule.epochs else None

    def save(self) -> None:
        """Writes a checkpoint, unless there is no folder or this state is in it."""
        folder = self.schedule.checkpoint
        if folder is None or self.saved == (self.epoch, self.position):
            return
        self.saved = (self.epoch, self.position)
        if self.learner.processes.rank == 0:
            save_checkpoint(folder, {"identity": self.identity, "run": self._state()})

    def resume(self) -> None:
        """Continues from the folder's checkpoint, if one is asked for and there."""
        folder = self.schedule.checkpoint
        if folder is None:
            return
        found = load_checkpoint(folder)
        self.identity = self.learner.identity() | {
            "batch_size": self.schedule.batch_size,
            "seed": self.schedule.seed,
            "rows": self.learner.rows.fingerprint(),
        }
        if found is None:
            return
        if not self.schedule.resume:
            raise FormatError(f"{folder} holds a checkpoint; pass resume=True to continue from it")
        _check_identity(folder, found.get("identity"), self.identity)
        try:
            self._restore(found["run"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{folder}: missing or misshapen entry {error!r}") from error

    def _end_epoch(self) -> None:
        valid = self.learner.validate()
        self.epoch, self.position, self.order = self.epoch + 1, 0, None
        train = self.total / self.learner.rows.total_weight
        seconds = time.monotonic() - self.started
        record = Record(self.step, float(self.epoch), train, valid, seconds)
        self.records.append(record)
        self.total = 0.0
        if self.schedule.patience is not None and History(tuple(self.records), "").best is record:
            self.best = self.learner.parameters()
        if self.epoch % self.schedule.checkpoint_every == 0:
            self.save()

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "total": self.total,
            "seconds": time.monotonic() - self.started,
            "records": [asdict(record) for record in self.records],
            "best": self.best,
            "learner": self.learner.state(),
        }

    def _restore(self, state: Any) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.step, self.total = state["step"], state["total"]
        self.started = time.monotonic() - state["seconds"]
        self.records = [Record(**record) for record in state["records"]]
        self.best = state["best"]
        self.learner.restore(state["learner"])
        self.saved = (self.epoch, self.position)


def _check_identity(folder: str | Path, found: object, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise FormatError(f"{folder} holds a checkpoint without a description of its run")
    differing = [n for n in expected.keys() | found.keys() if found.get(n) != expected.get(n)]
    if differing:
        name = min(differing)
        raise FormatError(
            f"{folder} holds the checkpoint of another run: {name} is {found.get(name)!r}; "
            f"expected {expected.get(name)!r}"
        )
