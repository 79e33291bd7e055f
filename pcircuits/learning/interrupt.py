"""A clean stop on Ctrl-C: the update under way is finished, then learning ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether the user asked to stop.

    Attributes:
        requested: True after the first interrupt.
    """

    requested: bool = False


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turns the first SIGINT into a request; a second one interrupts as usual.

    Outside the main thread, where Python allows no handlers, nothing is changed.

    Yields:
        The request; its `requested` becomes true with the first SIGINT (Ctrl-C).

    Examples:
        >>> with pc.stop_on_interrupt() as request:
        ...     for step in range(1000):
        ...         if request.requested:  # Ctrl-C was pressed: end between two steps
        ...             break
        >>> request.requested
        False
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        request.requested = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, previous)
