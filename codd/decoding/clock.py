"""Seconds spent in each part of a computation."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up wall time under names, and how often each was measured.

    Args:
        device: Where the measured work runs; queued work is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts with nothing measured."""
        self._device = device
        self._seconds: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def seconds(self, name: str) -> float:
        """Seconds measured under `name` so far."""
        return self._seconds.get(name, 0.0)

    def count(self, name: str) -> int:
        """How often `name` was measured so far."""
        return self._counts[name]

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of the body to `name`."""
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self._seconds[name] = self.seconds(name) + time.perf_counter() - begin
        self._counts[name] += 1

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
