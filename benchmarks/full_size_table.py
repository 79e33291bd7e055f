"""The table of `full-size`, apart from what measures it, which needs the other package."""

from __future__ import annotations

from benchmarks.tables import Report, markdown_table


def table(report: Report) -> str:
    """The report as a Markdown table."""
    header = ("stage", "peak memory (GB)", "seconds")
    return markdown_table(
        header,
        (
            (name, f"{found['peak_bytes'] / 1e9:.2f}", f"{found['seconds']:.2f}")
            for name, found in report["stages"].items()
        ),
    )
