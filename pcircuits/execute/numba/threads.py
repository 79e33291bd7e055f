"""Work on parts of a batch in as many threads as torch is set to, in one pool that is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock

import torch


class _Pool:
    """A pool that grows when more threads are wanted, and starts anew in a forked process."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Lets go of threads that a fork has not copied."""
        self._lock = Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def of(self, size: int) -> ThreadPoolExecutor:
        """The executor, with at least so many threads."""
        with self._lock:
            if self._executor is None or self._size < size:
                # An earlier one ends when the calls that use it have let go of it.
                self._executor = ThreadPoolExecutor(size, thread_name_prefix="pcircuits")
                self._size = size
            return self._executor


_POOL = _Pool()


def num_threads(parts: int) -> int:
    """How many threads `in_threads` takes for so many parts."""
    return max(1, min(torch.get_num_threads(), parts))


def in_threads(run: Callable[[range], None], parts: int) -> None:
    """Calls run(range of parts) on equal ranges at once, one of them in the calling thread.

    Compiled passes let go of the interpreter's lock, so that threads do run at once and Ctrl-C
    arrives between two parts.
    """
    threads = num_threads(parts)
    if threads == 1:
        return run(range(parts))
    ends = [parts * place // threads for place in range(threads + 1)]
    ranges = [range(first, last) for first, last in pairwise(ends)]
    others = [_POOL.of(threads - 1).submit(run, part) for part in ranges[1:]]
    run(ranges[0])
    for other in others:
        other.result()
