"""Processes with limits, which end with all that they started."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

BROKEN = 77  # exit code of a run that raised
MEMORY = 6 << 30  # bytes, for a mutant that asks for all there is
IDLE = 20.0  # so many times its seconds of work may a process take: the machine may be busy


def forked(run: Callable[[], int], seconds: float) -> int | None:
    """The exit code of a run in a fork, `BROKEN` if it raised; None if it took too long."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            _limit(seconds)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            code = run()
        finally:
            os._exit(code)  # whatever was raised: the parent goes on alone
    return _awaited(child, seconds)


def started(words: list[str], environment: dict[str, str], seconds: float) -> int | None:
    """The exit code of a command; None if it took too long."""
    process = subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: _limit(seconds),
    )
    code = _awaited(process.pid, seconds)
    process.returncode = code
    return code


def _limit(seconds: float) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))


def _awaited(child: int, seconds: float) -> int | None:
    until = time.monotonic() + IDLE * seconds
    code = None
    while code is None and time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it started
    if code is None:
        os.waitpid(child, 0)
    return code
