"""Markdown of the coupling step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.coupling_targets import reached
from benchmarks.tables import Report, markdown_table, megabytes, milliseconds

_HEADER = ("way", "median ms", "quartiles ms", "peak MB", "errors against float64")


def coupling_step(report: Report) -> str:
    """Targets, a table of whole steps at batch 1, and one of log Z and gradients at batch 8."""
    targets = reached(report)
    return "\n\n".join(
        (
            *(("## Targets", _targets(targets)) if targets else ()),
            f"{report['description']}. A step is log Z, all marginals and a joint sample.",
            _table(report["entries"]),
            f"{report['batch']['description']}: log Z, and with its gradients in potentials and "
            f"parameters.",
            _table(report["batch"]["entries"]),
        )
    )


def _targets(targets: list[dict[str, Any]]) -> str:
    def number(figure: float, unit: str) -> str:
        return f"{figure:.2f} x" if unit == "x" else f"{milliseconds(figure)} ms"

    rows = (
        (
            target["what"],
            target["way"],
            number(target["figure"], target["unit"]),
            number(target["at_most"], target["unit"]),
            "met" if target["met"] else "not met",
        )
        for target in targets
    )
    return markdown_table(("target", "way", "figure", "limit", ""), rows)


def _table(entries: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, entry in entries.items():
        if "missing" in entry:
            rows.append((name, f"without: {entry['missing']}", "", "", ""))
            continue
        errors = ", ".join(f"{what} {error:.0e}" for what, error in entry["errors"].items())
        if entry["wrong"]:
            rows.append((name, "**wrong**", "", "", errors))
            continue
        seconds = entry["seconds"]
        quartiles = f"{milliseconds(seconds['lower'])} to {milliseconds(seconds['upper'])}"
        peak = megabytes(entry["peak_bytes"])
        rows.append((name, milliseconds(seconds["median"]), quartiles, peak, errors))
    return markdown_table(_HEADER, rows)
