"""The pictures of the documentation, from the numbers in a folder of results.

python -m benchmarks figures docs/figures
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.agreement import agreement
from benchmarks.cost.picture import cost_figure
from benchmarks.reported import few_step_result, frontier_result, gap_result, quota_result
from codd import viz
from pcircuits.viz import save

RESULTS = Path(__file__).parent / "results"
# The static circuits' curves would hide those of the conditioned ones.
GAP_VARIANTS = ("copula", "product", "one-state", "shuffled-emissions")
SIZE = (8.0, 4.0)


def pictures(results: Path = RESULTS) -> dict[str, Figure]:
    """File name -> picture.

    Args:
        results: Where the JSON files of `codd evaluate` and of the benchmarks are.
    """
    gap = gap_result(_read(results / "evaluate.json"), GAP_VARIANTS)
    few = few_step_result(_read(results / "few-step.json"))
    return {
        "agreement.png": agreement(),
        "gap.png": _figure(lambda axes: viz.gap(gap, ax=axes)),
        "few-step.png": _figure(lambda axes: viz.few_step(few, ax=axes)),
        "temperatures.png": viz.frontier(frontier_result(_read(results / "temperatures.json"))),
        "cost.png": cost_figure(_read(results / "cost.json")),
        "quotas.png": viz.quotas(quota_result(_read(results / "quotas.json"))),
    }


def write_figures(folder: Path) -> list[Path]:
    """Draws all pictures into a folder, which is made if missing, and returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save(figure, folder / name) for name, figure in pictures().items()]


def _figure(draw: Callable[[Axes], Axes]) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.add_subplot())
    return figure


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
