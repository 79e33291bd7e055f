"""Rows of density results: kept in one JSON file, one row a data set, and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.density_data import PUBLISHED, DataError
from benchmarks.report import write_text
from benchmarks.tables import markdown_table

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows written before; none if the file is not there.

    Raises:
        DataError: If the file holds something else.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "dataset" in r for r in rows):
        raise DataError(f"{path} holds no list of rows with a `dataset`")
    return rows


def write_row(path: Path, row: Row) -> None:
    """Adds a row, in place of an earlier one of its data set; its table goes beside as `.md`."""
    rows = [old for old in read_rows(path) if old["dataset"] != row["dataset"]] + [row]
    order = {name: place for place, name in enumerate(PUBLISHED)}
    rows.sort(key=lambda r: (order.get(r["dataset"], len(order)), r["dataset"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(rows, indent=2) + "\n")
    write_text(path.with_suffix(".md"), f"# density\n\n{density_table(rows)}\n")


def density_table(rows: Sequence[Row]) -> str:
    """Test log-likelihoods beside the published ones, with their means, as Markdown."""
    header = ("set", "valid", "test", "± s.e.", "HCLT", "best published", "units", "seconds")
    lines = [_line(row) for row in rows]
    known = [row for row in rows if row["dataset"] in PUBLISHED]
    if known:
        lines.append(_means(known))
    return markdown_table(header, lines)


def _line(row: Row) -> tuple[str, ...]:
    published = [f"{figure:.2f}" for figure in PUBLISHED.get(row["dataset"], ())] or ["", ""]
    return (
        row["dataset"],
        f"{row['valid_log_likelihood']:.4f}",
        f"{row['test_log_likelihood']:.4f}",
        f"{row['test_standard_error']:.4f}",
        *published,
        str(row["num_units"]),
        f"{row['seconds']:.0f}",
    )


def _means(rows: Sequence[Row]) -> tuple[str, ...]:
    def mean(numbers: Sequence[float], digits: int) -> str:
        return f"{sum(numbers) / len(numbers):.{digits}f}"

    return (
        f"mean of {len(rows)}",
        mean([row["valid_log_likelihood"] for row in rows], 4),
        mean([row["test_log_likelihood"] for row in rows], 4),
        "",
        mean([PUBLISHED[row["dataset"]][0] for row in rows], 3),
        mean([PUBLISHED[row["dataset"]][1] for row in rows], 3),
        "",
        mean([row["seconds"] for row in rows], 0),
    )
