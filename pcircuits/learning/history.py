"""What happened during learning, and how it is shown while it happens."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Record:
    """One step of learning.

    Attributes:
        step: Number of parameter updates so far.
        epoch: Passes over the data so far.
        train: Mean training log-likelihood a row in nats, measured before the updates (the
            conditional one where there are targets).
        valid: The same of the validation rows, measured after the updates, or None.
        seconds: Time since the start.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> rows = torch.tensor([[0], [1]])
        >>> history = pc.fit_em(model, rows, valid=rows, epochs=1, progress=False)
        >>> record = history.records[0]
        >>> record.step, record.epoch, round(record.valid, 4)  # ln(1/2) after one step
        (1, 1.0, -0.6931)
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
        records: One record an epoch.
        stopped: Why learning ended: "finished" (all epochs), "converged" (below the tolerance),
            "patience" (no better on the validation rows) or "interrupted" (Ctrl-C).

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> rows = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
        >>> history = pc.fit_em(model, rows, epochs=30, progress=False)
        >>> history.stopped, len(history.records)
        ('finished', 30)
        >>> history.records[-1].train > history.records[0].train
        True
        >>> history.csv().splitlines()[0]
        'step,epoch,train,valid,seconds'
    """

    records: tuple[Record, ...]
    stopped: str

    def __repr__(self) -> str:
        return f"History({len(self)} records, {self.stopped!r})"

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def best(self) -> Record:
        """The record with the highest validation log-likelihood; without one the last.

        Raises:
            ValueError: If there is no record.
        """
        if not self.records:
            raise ValueError(f"the history is empty: learning was {self.stopped} at once")
        measured = [record for record in self.records if record.valid is not None]
        return max(measured, key=lambda record: record.valid or 0.0, default=self.records[-1])

    def table(self) -> list[dict[str, float | None]]:
        """One dictionary a record, by column name."""
        return [asdict(record) for record in self.records]

    def csv(self) -> str:
        """The table as comma-separated values with a header; a missing number is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.table())
        return text.getvalue()

    def frame(self) -> Any:
        """The table as a pandas `DataFrame`.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        pandas = importlib.import_module("pandas")
        return pandas.DataFrame(self.table(), columns=_COLUMNS)


_COLUMNS = [field.name for field in fields(Record)]


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
