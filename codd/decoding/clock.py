"""Seconds spent in each part of a computation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the time of parts under names, and how often each was measured.

    On a CUDA device time is what passes there between a part's first and last kernel, read from
    events that nothing waits for before somebody asks; elsewhere it is wall time.

    Args:
        device: Where the measured work runs.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts with nothing measured."""
        self._device = device
        self._seconds: dict[str, list[float]] = {}
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    def seconds(self, name: str) -> float:
        """Seconds measured under `name` so far; waits for the last of them."""
        events = self._events.get(name, [])
        if events:
            events[-1][1].synchronize()
        on_device: float = sum(begin.elapsed_time(end) for begin, end in events)
        return on_device / 1e3 + sum(self._seconds.get(name, []))

    def count(self, name: str) -> int:
        """How often `name` was measured so far."""
        return len(self._events.get(name, [])) + len(self._seconds.get(name, []))

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of the body to `name`."""
        if self._device.type == "cuda":
            begin = self._event()
            yield
            self._events.setdefault(name, []).append((begin, self._event()))
        else:
            started = time.perf_counter()
            yield
            self._seconds.setdefault(name, []).append(time.perf_counter() - started)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
