"""Reports as JSON and, made from the same numbers, as a Markdown table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]


def write_report(path: Path, report: Report) -> None:
    """Writes a report to `path` and its table beside it, with the suffix `.md`.

    Args:
        path: File to write, ending in `.json`.
        report: What a benchmark returned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report, indent=2) + "\n")
    write_text(path.with_suffix(".md"), markdown(report))


def markdown(report: Report) -> str:
    """The report as Markdown."""
    tables = {
        "execution": _execution,
        "decoding-step": _decoding_step,
        "scalar-graph": _scalar_graph,
    }
    table = tables[report["benchmark"]]
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    return f"# {report['benchmark']}\n\n{table(report)}\n\nMachine: {machine}.\n"


def _execution(report: Report) -> str:
    parts = []
    for case in report["cases"]:
        ratio = case["ratios_round_by_round"]
        rows = (
            (name, _milliseconds(t["median"]), _milliseconds(t["lower"]), _milliseconds(t["upper"]))
            for name, t in case["seconds"].items()
        )
        rounds = next(iter(case["seconds"].values()))["rounds"]
        parts += [
            f"## {case['description']}",
            markdown_table(("variant", "median ms", "1st quartile", "3rd quartile"), rows),
            f"pcircuits / plain: {case['ratio_of_medians']:.3f} (ratio of medians); round by "
            f"round {ratio['median']:.3f}, quartiles {ratio['lower']:.3f} and "
            f"{ratio['upper']:.3f}; {rounds} rounds.",
            f"Largest error against float64: {max(case['errors'].values()):.1e}.",
        ]
    return "\n\n".join(parts)


def _decoding_step(report: Report) -> str:
    sizes = report["sizes"]
    rows = (
        (
            form,
            name,
            f"{found['seconds']['median']:.3f}",
            f"{found['first_seconds']:.3f}",
            _megabytes(found["memory"]["above"]),
            _megabytes(found["first_memory"]["above"]),
        )
        for form, queries in report["forms"].items()
        for name, found in queries.items()
    )
    header = ("form", "query", "median s", "first s", "peak MB", "peak MB, first")
    memory = next(iter(report["forms"]["exact"].values()))["memory"]["measured_as"]
    return "\n\n".join(
        (
            f"Length {sizes['length']}, {sizes['num_states']:,} states, "
            f"{sizes['num_categories']:,} categories, batch 1, top-k with k = "
            f"{sizes['num_listed']:,}.",
            markdown_table(header, rows),
            f"Peaks are above what was in use before the call; one states-by-categories table "
            f"takes {_megabytes(report['states_times_categories_bytes'])} MB. Memory: {memory}. "
            f"A form's first calls prepare tables that stay.",
        )
    )


def _scalar_graph(report: Report) -> str:
    rows = (
        (name, *(_milliseconds(found[key]) for key in ("median", "lower", "upper")))
        for name, found in report["seconds"].items()
    )
    return "\n\n".join(
        (
            f"{report['nodes']:,} nodes, {report['edges']:,} edges, {report['layers']} layers, "
            f"batch {report['batch_size']}; from graph to plan {report['compile_seconds']:.1f} s.",
            markdown_table(("pass", "median ms", "1st quartile", "3rd quartile"), rows),
            f"Largest error against float64: {report['error']:.1e} of the value.",
        )
    )


def markdown_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
