"""Markdown of comparisons and of sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.peers import OURS
from benchmarks.tables import Report, markdown_table, megabytes, milliseconds
from benchmarks.targets import reached

_HEADER = (
    "library",
    "median ms",
    "quartiles ms",
    "ours / theirs",
    "quartiles",
    "share of ceiling",
    "peak MB",
    "error",
    "note",
)


def comparison(report: Report) -> str:
    """Targets first, then a table for every pass of every case."""
    ceilings = report["ceilings"]
    parts = [
        f"Ceilings: {ceilings['operations_per_second'] / 1e9:,.0f} GFLOP/s (matrix product), "
        f"{ceilings['bytes_per_second'] / 1e9:,.1f} GB/s (copy, read and written)."
    ]
    # Tiny sizes say nothing of the targets.
    targets = [] if report["quick"] else reached(report)
    if targets:
        parts += ["## Targets", _targets(targets)]
    for entry in report["entries"]:
        heading = f"## {entry['case']}: {entry['pass']}"
        parts += [heading, entry["description"] + _demand(entry["demand"]) + ".", _table(entry)]
    return "\n\n".join(parts)


def scaling(report: Report) -> str:
    """A table of exponents, and one of times for every sweep."""
    header = ("sweep", "setting", "pass", "fitted exponent", "expected")
    rows = [
        (name, sweep["setting"], pass_, f"{exponent:.3f}", _expected(sweep["limits"], exponent))
        for name, sweep in report["sweeps"].items()
        for pass_, exponent in sweep["exponents"].items()
    ]
    parts = [
        "Time is proportional to size to the power of the exponent: the slope of the least-squares "
        "line through the logarithms of sizes and median seconds.",
        markdown_table(header, rows),
    ]
    for name, sweep in report["sweeps"].items():
        points = (
            (
                f"{point['size']:,}",
                *(milliseconds(found["median"]) for found in point["seconds"].values()),
            )
            for point in sweep["points"]
        )
        passes = tuple(f"{pass_} ms" for pass_ in sweep["exponents"])
        parts += [f"## {name}", markdown_table((sweep["axis"], *passes), points)]
    return "\n\n".join(parts)


def _expected(limits: list[float] | None, exponent: float) -> str:
    if limits is None:
        return ""
    low, high = limits
    met = "met" if low <= exponent <= high else "not met"
    return f"{low} to {high}: {met}"


def _targets(targets: list[dict[str, Any]]) -> str:
    header = ("case", "pass", "quotient", "quartiles", "limit", "")
    rows = (
        (
            target["case"],
            target["pass"],
            f"{target['quotient']:.2f} x {target['over']}",
            f"{target['lower']:.2f} to {target['upper']:.2f}",
            f"{target['at_most']}",
            "met" if target["met"] else "not met",
        )
        for target in targets
    )
    return markdown_table(header, rows)


def _demand(demand: Mapping[str, int] | None) -> str:
    if demand is None:
        return ""
    return f"; {demand['operations'] / 1e9:.3g} GFLOP, {demand['bytes'] / 1e6:.3g} MB"


def _table(entry: Mapping[str, Any]) -> str:
    """Ours first, then the fastest first; those without a time are named below."""
    timed = {n: found for n, found in entry["peers"].items() if found["status"] == "timed"}
    order = sorted(timed, key=lambda n: (n != OURS, timed[n]["seconds"]["median"]))
    table = markdown_table(_HEADER, (_row(name, timed[name], entry) for name in order))
    wrong = [
        f"{name}: **wrong: error {found['error']:.0e}**, no time. {found['note']}".strip()
        for name, found in entry["peers"].items()
        if found["status"] == "wrong"
    ]
    absent = [
        f"{name} ({found['status']}: {found['reason']})"
        for name, found in entry["peers"].items()
        if found["status"] not in ("timed", "wrong")
    ]
    return "\n\n".join([table, *wrong, *([f"Without: {'; '.join(absent)}."] if absent else [])])


def _row(name: str, found: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, quotient = found["seconds"], found.get("ours_over_theirs")
    share = found.get("share_of_ceiling")
    unit = " sd" if entry["pass"] == "sampling" else ""
    return (
        name,
        milliseconds(seconds["median"]),
        f"{milliseconds(seconds['lower'])} to {milliseconds(seconds['upper'])}",
        "" if quotient is None else f"{quotient['median']:.2f}",
        "" if quotient is None else f"{quotient['lower']:.2f} to {quotient['upper']:.2f}",
        "" if share is None else f"{share:.0%}",
        megabytes(found["peak_bytes"]),
        f"{found['error']:.1e}{unit}",
        found["note"],
    )
