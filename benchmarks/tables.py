"""Markdown tables of the smaller benchmarks, and what all tables share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Report = Mapping[str, Any]


def execution(report: Report) -> str:
    """Table of the benchmark of this name."""
    parts = []
    for case in report["cases"]:
        ratio = case["ratios_round_by_round"]
        rows = (
            (name, milliseconds(t["median"]), milliseconds(t["lower"]), milliseconds(t["upper"]))
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


def decoding_step(report: Report) -> str:
    """Table of the benchmark of this name."""
    sizes = report["sizes"]
    rows = (
        (
            form,
            name,
            f"{found['seconds']['median']:.3f}",
            f"{found['first_seconds']:.3f}",
            megabytes(found["memory"]["above"]),
            megabytes(found["first_memory"]["above"]),
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
            f"takes {megabytes(report['states_times_categories_bytes'])} MB. Memory: {memory}. "
            f"A form's first calls prepare tables that stay.",
        )
    )


def markdown_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{1e3 * seconds:.3f}"


def megabytes(size: int) -> str:
    """Bytes as millions."""
    return f"{size / 1e6:.0f}"
