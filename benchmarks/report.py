"""Reports as JSON and, made from the same numbers, as Markdown tables and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks import any_order, full_size_table, irregular, plots, scalar_graph, tables
from benchmarks.comparison_tables import comparison, scaling
from benchmarks.cost.table import cost_table
from benchmarks.coupling_tables import coupling_step
from benchmarks.tables import Report

# Benchmark -> report -> Markdown; other commands add theirs here.
TABLES: dict[str, Callable[[Report], str]] = {
    "compare": comparison,
    "cost": cost_table,
    "scaling": scaling,
    "coupling-step": coupling_step,
    "irregular": irregular.table,
    "any-order": any_order.table,
    "full-size": full_size_table.table,
    "execution": tables.execution,
    "decoding-step": tables.decoding_step,
    "scalar-graph": scalar_graph.table,
}


def write_report(path: Path, report: Report) -> None:
    """Writes a report to `path` and its table beside it, with the suffix `.md`.

    Args:
        path: File to write, ending in `.json`.
        report: What a benchmark returned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report, indent=2) + "\n")
    write_text(path.with_suffix(".md"), markdown(report))


def write_folder(folder: Path) -> str:
    """Makes the table, and the pictures, of every result in a folder anew.

    Args:
        folder: Folder with the JSON files that benchmarks wrote; others are left alone.

    Returns:
        A line for each file that was written.
    """
    lines = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or report.get("benchmark") not in TABLES:
            continue
        write_text(path.with_suffix(".md"), markdown(report))
        written = [path.with_suffix(".md"), *plots.draw(report, path.with_suffix(""))]
        lines += [f"{file}\n" for file in written]
    return "".join(lines)


def markdown(report: Report) -> str:
    """The report as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    table = TABLES[report["benchmark"]](report)
    return f"# {report['benchmark']}\n\n{table}\n\nMachine: {machine}.\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
