"""What a coupling step should reach on a GPU: milliseconds, and shares of another library's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import timing
from benchmarks.suite import BACKWARD, FORWARD

# Only ways whose largest error may be this count as exact.
_EXACT = 1e-5
_LIBRARY = ("pyjuice: log Z alone", "pyjuice, float32: log Z alone")


@dataclass(frozen=True)
class StepTarget:
    """A limit on the fastest right way of a kind.

    Attributes:
        what: Form and coupling of the ways, which their names begin with.
        at_most: Seconds.
    """

    what: str
    at_most: float


# A sweep of the copula may cost as much again as the step.
STEPS = (
    StepTarget("exact, product", 0.5e-3),
    StepTarget("exact, copula, one sweep", 1.0e-3),
    StepTarget("top-k, product", 0.25e-3),
    StepTarget("top-k, copula, one sweep", 0.5e-3),
)
BATCH_FORWARD, BATCH_BACKWARD = 0.5e-3, 2.5e-3
# Of the library's log Z alone, which is less than a step: time and memory.
SHARE_OF_TIME, SHARE_OF_MEMORY = 0.1, 1.0


def reached(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The targets that a report of a GPU has figures for, each with its figure.

    `figure` and `at_most` are seconds, or quotients where `unit` is "x".
    """
    if report["machine"]["device"] != "cuda" or report["quick"]:
        return []
    return [*_steps(report), *_library(report), *_batch(report["batch"]["entries"])]


def _steps(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for target in STEPS:
        way = _fastest(report, target.what)
        if way is not None:
            seconds = report["entries"][way]["seconds"]["median"]
            yield _judged(f"step: {target.what}", way, seconds, target.at_most, "s")


def _library(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The exact step beside the better of the library's precisions."""
    entries, way = report["entries"], _fastest(report, STEPS[0].what)
    there = [name for name in _LIBRARY if "seconds" in entries.get(name, {})]
    if way is None or not there:
        return
    other = min(there, key=lambda name: float(entries[name]["seconds"]["median"]))
    share = entries[way]["seconds"]["median"] / entries[other]["seconds"]["median"]
    yield _judged(f"exact step over {other}", way, share, SHARE_OF_TIME, "x")
    memory = entries[way]["peak_bytes"] / max(1, entries[other]["peak_bytes"])
    yield _judged(f"its memory over {other}", way, memory, SHARE_OF_MEMORY, "x")


def _batch(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    if any("rounds" not in entries[name] for name in (FORWARD, BACKWARD)):
        return
    forward, both = entries[FORWARD]["rounds"], entries[BACKWARD]["rounds"]
    backward = [whole - own for own, whole in zip(forward, both, strict=False)]
    yield _judged("batch 8: forward", "", timing(forward).median, BATCH_FORWARD, "s")
    yield _judged("batch 8: backward", "", timing(backward).median, BATCH_BACKWARD, "s")


def _fastest(report: Mapping[str, Any], what: str) -> str | None:
    """The fastest of the right and exact ways of a kind; None if there is none."""
    seconds = {
        name: float(entry["seconds"]["median"])
        for name, entry in report["entries"].items()
        if name.startswith(f"{what}, ")
        and "seconds" in entry
        and max(entry["errors"].values()) <= _EXACT
    }
    return min(seconds, key=seconds.__getitem__, default=None)


def _judged(what: str, way: str, figure: float, at_most: float, unit: str) -> dict[str, Any]:
    return {
        "what": what,
        "way": way,
        "figure": figure,
        "at_most": at_most,
        "unit": unit,
        "met": figure <= at_most,
    }
