"""The figures that the documentation gives are those that were measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"1/8": 0, "1/4": 1, "1/2": 3, "3/4": 5, "1": 7}
GAP = {
    "factorised": "factorised",
    "product": "product",
    "copula, static": "copula-static",
    "copula": "copula",
    "one token a call": "sequential",
}
ORDERS = {"random": "random", "by confidence": "low_confidence"}


def report(name: str) -> dict[str, Any]:
    text = (ROOT / "benchmarks/results" / f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first line begins so."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("*") for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def label(text: str) -> str:
    """Which measured variant a row of the gap's tables is about."""
    return GAP[max((name for name in GAP if text.startswith(name)), key=len)]


def with_error(estimate: dict[str, float], digits: int, times: float = 1.0) -> str:
    value, error = (times * estimate[key] for key in ("value", "standard_error"))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


@pytest.mark.parametrize(
    ("page", "heading"), [("docs/results.md", "| share of the block"), ("README.md", "| | 1/4")]
)
def test_the_gap(page: str, heading: str) -> None:
    measured = report("evaluate")["gap"]["log_likelihood"]
    head, *rows = table(page, heading)
    assert len(rows) >= 4
    for name, *cells in rows:
        for share, cell in zip(head[1:], cells, strict=True):
            assert cell == with_error(measured[label(name)][SHARES[share]], 3), (name, share)


def test_generation() -> None:
    cells = {
        (cell["label"], cell["order"], cell["tokens_per_step"]): cell
        for cell in report("few-step")["few_step"]["cells"]
    }
    _, *rows = table("docs/results.md", "| order | tokens a call")
    assert len(rows) == 8
    for order, pace, *shown in rows:
        for variant, score, entropy, back in (
            ("factorised", *shown[:2], ""),
            ("copula-any-order", *shown[2:]),
        ):
            cell = cells.get((variant, ORDERS[order], int(pace)))
            if cell is None:
                assert score == entropy == back == ""
                continue
            assert score == f"{cell['score']['value']:.2f}"
            assert entropy == f"{cell['entropy']['value']:.2f}"
            assert not back or back == with_error(cell["recovered"], 1, 100) + " %"


def test_speed() -> None:
    measured = {
        (entry["case"], entry["pass"]): entry["peers"] for entry in report("compare")["entries"]
    }
    cases = {"hidden Markov": "hmm", "binary tree": "tree"}
    for page, heading in (
        ("README.md", "| | forward |"),
        ("docs/results.md", "| case | forward |"),
    ):
        for name, *cells in table(page, heading)[1:]:
            case = next((case for start, case in cases.items() if name.startswith(start)), None)
            for step, cell in zip(("forward", "forward+backward"), cells, strict=True):
                if case is not None and (found := re.fullmatch(r"([\d.]+) × (\w+)", cell)):
                    theirs = measured[case, step][found[2]]["ours_over_theirs"]["median"]
                    assert found[1] == f"{theirs:.2f}", (page, name, step)


def test_density() -> None:
    tests = [row["test_log_likelihood"] for row in report("density")]
    (shown,) = table("docs/results.md", "| this library |")[1:]
    assert len(tests) == 10
    assert shown[0] == f"{sum(tests) / 10:.3f}"
