"""The table of the cost benchmark, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
Point = Mapping[str, Any]


def cost_table(report: Report) -> str:
    """All figures as Markdown."""
    base = report["denoiser"]
    one = base["one_token_a_step"]
    lines = [
        f"Denoiser: {base['parameters']:,} parameters, trained with {base['operations']:.2e} "
        f"operations ({base['seconds']:.0f} processor seconds); one token a step solves "
        f"{_share(one['accuracy'])} of {one['problems']} test problems. Costs below are on top.",
        "",
        "| steps | model | training operations | processor seconds | solved | circuit off "
        "| decoding, ms a problem | decoded by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in sorted(report["points"], key=lambda p: p["share"]):
        lines.append("| " + " | ".join(_cells(point)) + " |")
    if report["grpo_learning_rate"] is not None:
        lines += ["", f"Learning rate of GRPO, chosen in trials: {report['grpo_learning_rate']:g}."]
    return "\n".join([*lines, "", *(finding(report, share) for share in shares_of(report))])


def finding(report: Report, share: int) -> str:
    """What a panel says in words: the two methods' best, chosen on validation problems."""
    best = {m: _best(report, m, share) for m in ("coupled", "grpo")}
    coupled, tuned = best["coupled"], best["grpo"]
    if coupled is None or tuned is None:
        return f"1/{share} of the steps: not measured for both yet."
    cheaper = tuned["operations"] / coupled["operations"]
    return (
        f"1/{share} of the steps: coupled {_share(coupled['accuracy'])}, GRPO "
        f"{_share(tuned['accuracy'])} with {cheaper:.3g} times its training operations and "
        f"{tuned['seconds'] / coupled['seconds']:.3g} times its processor seconds."
    )


def _cells(point: Point) -> list[str]:
    way = point["way"]
    off = _share(point["circuit_off"]) if "circuit_off" in point else ""
    return [
        f"1/{point['share']}",
        f"{point['method']}: {point['label']}",
        f"{point['operations']:.2e}",
        f"{point['seconds']:.0f}",
        _share(point["accuracy"]),
        off,
        f"{1000 * point['decoding_seconds']:.1f}",
        f"{way['coupling']}, {way['sampler']}, {way['selection']}, temperature "
        f"{way['temperature']:g}",
    ]


def points_of(report: Report, method: str, share: int) -> list[Point]:
    """A method's points at one number of steps, the cheapest first."""
    found = [p for p in report["points"] if p["method"] == method and p["share"] == share]
    return sorted(found, key=lambda point: point["operations"])


def _best(report: Report, method: str, share: int) -> Point | None:
    points = points_of(report, method, share)
    return max(points, key=lambda p: p["valid"]["value"], default=None)


def shares_of(report: Report) -> Sequence[int]:
    """How many times fewer steps than tokens, a panel each."""
    shares: Sequence[int] = report["settings"]["shares"]
    return shares


def _share(estimate: Mapping[str, float | None]) -> str:
    value, error = estimate["value"], estimate["standard_error"]
    assert value is not None and error is not None  # of many problems
    return f"{100 * value:.1f} ± {100 * error:.1f} %"
