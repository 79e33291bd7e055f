"""What happened during learning, and how it is shown while it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Record:
    """One step of learning.

    Attributes:
        step: Number of parameter updates so far.
        epoch: Passes over the data so far.
        train: Mean training log-likelihood a row in nats, measured before the update.
        valid: Mean validation log-likelihood a row in nats, or None.
        seconds: Time since the start.
    """

    step: int
    epoch: float
    train: float
    valid: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """Records in order of time.

    Attributes:
        records: One record an update, or one an epoch for mini-batches.
        stopped: Why learning ended: "finished", "converged" or "interrupted".
    """

    records: tuple[Record, ...]
    stopped: str

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


class Report(Protocol):
    """Called with the share of work done and a line about its state."""

    def __call__(self, done: float, message: str) -> None:
        """Shows it."""


@contextmanager
def progress_bar(title: str, *, shown: bool) -> Iterator[Report]:
    """A progress bar on the terminal, or nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[message]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task(title, total=1.0, message="")

        def report(done: float, message: str) -> None:
            bar.update(task, completed=done, message=message)

        yield report
