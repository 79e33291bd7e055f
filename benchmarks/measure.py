"""Interleaved timing, peak memory, and a description of the machine."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

# Seconds of calls before a timed one: Python's own way through a query is several times slower when
# its code is no longer in the caches.
LEAD = 0.005
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over many rounds.

    Attributes:
        median: Median.
        lower: First quartile.
        upper: Third quartile.
        rounds: Number of rounds.
    """

    median: float
    lower: float
    upper: float
    rounds: int


def interleaved_seconds(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    share: float = math.inf,
    lead: float = 0.0,
) -> dict[str, list[float]]:
    """Times calls in turn, A B B A ..., so that what disturbs the machine disturbs all of them.

    Every second round goes backwards: what one leaves behind, such as threads that still wait for
    work, is not always in the way of the same other.

    Args:
        calls: Name -> what to time.
        rounds: Timed calls of each.
        warmup: Calls of each before.
        device: Device that is waited for before and after each call.
        share: Seconds after which a slow call is left out of further rounds; each is timed in the
            first three.
        lead: Seconds of calls of the same just before each timed one, one call at least where it
            is above 0, so that none pays for what another left in the caches.

    Returns:
        Name -> seconds of each round.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in list(calls.items())[:: -1 if turn % 2 else 1]:
            if len(seconds[name]) >= 3 and sum(seconds[name]) > share:
                continue
            _warm_up(call, lead)
            wait_for(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _warm_up(call: Callable[[], object], lead: float) -> None:
    until = time.perf_counter() + lead
    while time.perf_counter() < until:
        call()


def timing(seconds: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper, len(seconds))


@dataclass
class PeakMemory:
    """Bytes of memory around a call.

    Attributes:
        before: In use before it: parameters and evidence.
        above: The most in use during it, beyond `before`.
        measured_as: What the numbers are.
    """

    before: int = 0
    above: int = 0
    measured_as: str = "not available on this platform"


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measures the peak memory of what is done within.

    On a GPU it is what PyTorch's allocator gave out. On Linux it is the process's resident set:
    its high-water mark (VmHWM) is set back before, which `getrusage` cannot do, and what the C
    library kept of freed memory is given back where it can (glibc).
    """
    found = PeakMemory()
    if device.type == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        found.before = torch.cuda.memory_allocated(device)
        found.measured_as = "bytes given out by PyTorch's CUDA allocator"
        yield found
        wait_for(device)
        found.above = torch.cuda.max_memory_allocated(device) - found.before
    elif _CLEAR.exists():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        _CLEAR.write_text("5")
        found.before = _status_bytes("VmRSS")
        found.measured_as = "resident set of the process (VmHWM, set back before each call)"
        yield found
        found.above = _status_bytes("VmHWM") - found.before
    else:
        yield found


def quotients(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Quotients within the rounds that both were timed in."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def describe_machine(device: torch.device, libraries: Sequence[str] = ()) -> dict[str, object]:
    """What the figures depend on, without names of hosts or users.

    Args:
        device: Device.
        libraries: Distributions whose versions belong to it, where they are installed.
    """
    described: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    for name in libraries:
        with suppress(metadata.PackageNotFoundError):
            described[name] = metadata.version(name)
    return described


def wait_for(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no field {field!r}")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
