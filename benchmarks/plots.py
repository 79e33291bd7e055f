"""Pictures of comparisons, sweeps and costs, as SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.cost.picture import cost_figure
from benchmarks.peers import BESIDE_MARGINALS, OURS
from benchmarks.tables import Report


def draw(report: Report, stem: Path) -> list[Path]:
    """Draws what there is to draw.

    Args:
        report: A report.
        stem: Path of the picture without its suffix.

    Returns:
        The files that were written.
    """
    if report["benchmark"] == "compare" and report["entries"]:
        return [_save(_comparison(report), stem.with_suffix(".svg"))]
    if report["benchmark"] == "cost" and report["points"]:
        return [_save(cost_figure(report), stem.with_suffix(".svg"))]
    if report["benchmark"] == "scaling" and report["sweeps"]:
        return [_save(_scaling(report), stem.with_suffix(".svg"))]
    return []


def _comparison(report: Report) -> Figure:
    """A row for every case and pass: each library's time over ours, on a logarithmic axis."""
    rows = {f"{entry['case']}: {entry['pass']}": _quotients(entry) for entry in report["entries"]}
    rows = {title: found for title, found in rows.items() if found}
    names = dict.fromkeys(name for found in rows.values() for name in found)
    figure = Figure(figsize=(8, 1.2 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    markers = "sD^v<>Ph*Xo"
    for place, name in enumerate(names):
        points = [(found[name], i) for i, found in enumerate(rows.values()) if name in found]
        across, down = zip(*points, strict=True)
        axes.scatter(across, down, 22, marker=markers[place % len(markers)], label=name)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="both", alpha=0.3)
    axes.set_xlabel(f"times as long as {OURS}, which is the line at 1")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)
    return figure


def _quotients(entry: Mapping[str, Any]) -> dict[str, float]:
    """Library -> its time over ours; none where nobody else computes the same."""
    return {
        name: 1 / theirs["ours_over_theirs"]["median"]
        for name, theirs in entry["peers"].items()
        if name != BESIDE_MARGINALS and "ours_over_theirs" in theirs
    }


def _scaling(report: Report) -> Figure:
    """A panel for every sweep: seconds over size, both logarithmic."""
    sweeps = report["sweeps"]
    figure = Figure(figsize=(3.1 * len(sweeps), 3.2), layout="constrained")
    panels = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, (name, sweep) in zip(panels, sweeps.items(), strict=True):
        sizes = [point["size"] for point in sweep["points"]]
        for pass_, exponent in sweep["exponents"].items():
            seconds = [point["seconds"][pass_]["median"] for point in sweep["points"]]
            axes.loglog(sizes, seconds, "o-", markersize=3, label=f"{pass_}: {exponent:.2f}")
        axes.set_xlabel(sweep["axis"])
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(title="exponent", fontsize=7, title_fontsize=7)
    panels[0].set_ylabel("seconds")
    return figure


def _save(figure: Figure, path: Path) -> Path:
    """Writes a picture whole, and the same bytes for the same figures."""
    beside = path.with_name(f".{path.name}.tmp")
    with matplotlib.rc_context({"svg.hashsalt": "benchmarks"}):
        figure.savefig(beside, format="svg", metadata={"Date": None})
    os.replace(beside, path)
    return path
