"""Kills (SIGKILL) and interrupts (SIGINT) of forked children at random instants."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pcircuits_codd
from tests.faults.jobs import Job, Progress


@dataclass(frozen=True)
class Killed:
    """What came of killing a job.

    Attributes:
        kills: Children that were killed before they were done.
        lost: Most steps that a kill lost.
        leftovers: Most half-written files that lay in the folder at once.
        equal: Whether what the job returned in the end is what it returns undisturbed.
    """

    kills: int
    lost: int
    leftovers: int
    equal: bool


def kill_often(job: Job, folder: Path, kills: int, seed: int = 0) -> Killed:
    """Kills a job so often, each time after a random part of its usual time, then lets it end.

    Raises:
        AssertionError: If a kill lost more than the job's interval.
        Exception: Whatever the readers raise at a damaged file.
    """
    whole, usual = _undisturbed(job, folder.parent / "undisturbed")
    source, done, lost, leftovers = random.Random(seed), 0, 0, 0
    while done < kills:
        progress = Progress()
        before = job.stored(folder) or 0
        progress.steps = before
        child = _child(partial(job.run, folder, progress))
        time.sleep(source.uniform(0, usual))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        done += os.WIFSIGNALED(status)
        missing = progress.steps - (job.stored(folder) or 0)
        assert missing <= job.interval, f"{folder.name}: {missing} steps lost by a kill"
        lost = max(lost, missing)
        leftovers = max(leftovers, len(list(folder.glob(".*.partial"))))
        if not os.WIFSIGNALED(status):
            shutil.rmtree(folder)  # done before it was killed: begin again
    final = folder / "final"
    child = _child(lambda: _write(final, repr(job.run(folder, Progress()))))
    _, status = os.waitpid(child, 0)
    assert status == 0, f"{folder.name} does not end after kills"
    return Killed(done, lost, leftovers, final.read_text() == whole)


def interrupt_command(
    name: str, arguments: Sequence[str], seconds: float, output: Path
) -> tuple[int, str]:
    """Runs a console command in a child and interrupts it; its exit code and error output."""

    def run() -> None:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.argv = [name, *arguments]
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = getattr(pcircuits_codd, name)()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # What comes before the command begins is not the command's: the child inherits this.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = _child(run)
    signal.signal(signal.SIGINT, before)
    time.sleep(seconds)
    os.kill(child, signal.SIGINT)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), output.read_text(errors="replace")


def _undisturbed(job: Job, folder: Path) -> tuple[str, float]:
    """What a job returns, and seconds that it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder.with_name("undisturbed.final")
    started = time.monotonic()
    child = _child(lambda: _write(final, repr(job.run(folder, Progress()))))
    _, status = os.waitpid(child, 0)
    assert status == 0, "the job does not end undisturbed"
    return final.read_text(), time.monotonic() - started


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
