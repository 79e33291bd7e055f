"""The pictures of the documentation show what was measured, and nothing in them overlaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks.__main__ import main
from benchmarks.agreement import joints
from benchmarks.figures import GAP_VARIANTS, RESULTS, pictures
from benchmarks.reported import few_step_result, frontier_result, gap_result, quota_result
from codd.evaluation.statistics import Estimate, json_ready, mean
from tests.support.pictures import overlapping_texts, texts_outside

ROOT = Path(__file__).resolve().parents[1]


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def same(found: Estimate, stored: dict[str, float]) -> None:
    assert json_ready(found) == pytest.approx(stored, abs=1e-12)


def test_results_come_back_with_their_means_and_errors() -> None:
    stored = report("evaluate")
    gap = gap_result(stored, GAP_VARIANTS)
    assert gap.variants == GAP_VARIANTS
    for label in GAP_VARIANTS:
        for each, then in zip(gap.gain(label), stored["gap"]["gain"][label], strict=True):
            same(each, then)
    for each, then in zip(gap.gap(), stored["gap"]["gap"], strict=True):
        same(each, then)
    stored = report("few-step")
    few = few_step_result(stored)
    for cell, then in zip(few.cells.values(), stored["few_step"]["cells"], strict=True):
        assert (cell.label, cell.order) == (then["label"], then["order"])
        same(cell.quality.score, then["score"])
    stored = report("temperatures")
    for quality, then in zip(
        frontier_result(stored).cells.values(), stored["temperatures"]["cells"], strict=True
    ):
        same(quality.score, then["score"])
        same(quality.entropy, then["entropy"])
    stored = report("quotas")
    for cell, then in zip(quota_result(stored).cells, stored["quotas"]["cells"], strict=True):
        assert (cell.family, cell.rule) == (then["family"], then["rule"])
        same(mean(cell.calls), then["calls"])


def test_the_first_picture_is_computed() -> None:
    said, alone, together = joints()
    torch.testing.assert_close(alone, said[0][:, None] * said[1][None])
    # Single words are as likely as before; words that do not belong together are gone.
    torch.testing.assert_close(together.sum(1), said[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(together.sum(0), said[1], atol=1e-3, rtol=0)
    assert together[0, 1] < 1e-3 and together[1, 0] < 1e-3


def test_the_command_draws_every_picture_of_the_documentation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", str(tmp_path)]) == 0
    names = sorted(path.name for path in (ROOT / "docs/figures").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in pictures()]


def test_nothing_in_them_overlaps_or_is_cut_off() -> None:
    for name, figure in pictures().items():
        FigureCanvasAgg(figure)  # without it nothing is laid out
        assert overlapping_texts(figure) == [], name
        assert texts_outside(figure) == [], name
