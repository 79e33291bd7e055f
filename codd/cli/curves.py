"""The further measurements of `codd evaluate`: quotas by calls, and temperatures by entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

import pcircuits as pc
from codd import viz as pictures
from codd.cli.measuring import show_progress, write_json
from codd.evaluation.curve_tables import (
    frontier_summary,
    frontier_table,
    quota_summary,
    quota_table,
)
from codd.evaluation.frontier import FrontierProtocol, FrontierResult, measure_frontier
from codd.evaluation.quality import Judges
from codd.evaluation.quota_curves import QuotaProtocol, QuotaResult, measure_quotas

REFERENCE = "entropy_bound, factorised"
RULES = (
    *(f"entropy_bound={bound}" for bound in ("0", "0.5", "1", "2", "4", "8", "16")),
    *(f"threshold={least}" for least in ("0.95", "0.8", "0.6", "0.4")),
    *(f"factor={factor}" for factor in ("0.5", "1", "2", "4")),
    *(f"klass={settled}" for settled in ("0.01,0.9", "0.1,0.7", "0.5,0.5", "2,0.3")),
    *(f"total_correlation={budget}" for budget in ("1", "3", "6", "12", "24")),
    *(f"joint_entropy={bound}" for bound in ("0.5", "2", "4", "8", "16")),
)


def run_quotas(windows: Any, families: Any, judges: Judges, protocol: QuotaProtocol) -> QuotaResult:
    """Measures score against calls, with a progress bar on standard error."""
    with show_progress("quotas") as report:
        return measure_quotas(windows, families, judges, protocol, progress=report)


def run_frontier(
    windows: Any, variants: Any, judges: Judges, protocol: FrontierProtocol
) -> FrontierResult:
    """Measures score against entropy, with a progress bar on standard error."""
    with show_progress("temperatures") as report:
        return measure_frontier(windows, variants, judges, protocol, progress=report)


def show_quotas(console: Console, result: QuotaResult) -> None:
    """Prints the table and a line on every family but the reference."""
    console.print(quota_table(result))
    for family in result.families:
        if family != result.protocol.reference:
            console.print(quota_summary(result, family))


def show_frontier(console: Console, result: FrontierResult) -> None:
    """Prints the table and a line on every order and pace."""
    console.print(frontier_table(result))
    for line in frontier_summary(result):
        console.print(line)


def write_quotas(path: Path, result: QuotaResult, about: dict[str, Any]) -> list[Path]:
    """Writes JSON and a figure beside it; returns both files."""
    picture = path.with_suffix(".png")
    write_json(path, {**about, "quotas": result.to_json()})
    pc.viz.save(pictures.quotas(result), picture)
    return [path, picture]


def write_frontier(path: Path, result: FrontierResult, about: dict[str, Any]) -> list[Path]:
    """Writes JSON and a figure beside it; returns both files."""
    picture = path.with_suffix(".png")
    write_json(path, {**about, "temperatures": result.to_json()})
    pc.viz.save(pictures.frontier(result), picture)
    return [path, picture]
