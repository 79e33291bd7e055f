"""How far a run is, shown on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, str], None]
"""Steps done and a few words about them -> shown."""


@contextmanager
def progress_bar(title: str, step: int, steps: int, *, shown: bool) -> Iterator[Report]:
    """A progress bar on the terminal, or nothing; yields what redraws it.

    Args:
        title: Stands before the bar.
        step: Steps done before.
        steps: Steps of the whole run.
        shown: Whether there is a bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task(title, total=steps, completed=step, state="")
        yield lambda step, state: bar.update(task, completed=step, state=state)
