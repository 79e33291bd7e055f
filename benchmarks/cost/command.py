"""Trains and measures everything; what is done is not done again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost.accuracy import Judge
from benchmarks.cost.notes import Notes
from benchmarks.cost.settings import CostSettings, quick_settings
from benchmarks.cost.stages import Stages, Trained
from benchmarks.cost.tasks import Tasks
from benchmarks.measure import describe_machine
from benchmarks.plots import draw
from benchmarks.report import markdown, write_report
from codd.errors import CoddError


def run_cost(options: argparse.Namespace) -> int:
    """Trains, measures and writes; the first Ctrl-C stops with a checkpoint."""
    settings = quick_settings() if options.quick else CostSettings()
    try:
        report = measure_cost(settings, options.work, options.out)
    except CoddError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"benchmarks: interrupted; what is done is in {options.work}", file=sys.stderr)
        return 130
    print(markdown(report))
    return 0


def measure_cost(settings: CostSettings, work: Path, out: Path) -> dict[str, Any]:
    """Trains and measures everything; the report is written anew after each model.

    Args:
        settings: How much.
        work: Folder of checkpoints and notes.
        out: JSON file; the table and the picture go beside it.
    """
    tasks = Tasks(settings)
    stages = Stages(settings, tasks, work, _say)
    about = {"problems": tasks.corpus.sha256, "settings": asdict(settings)}
    judge = Judge(settings, tasks, Notes(work / "notes"), about)
    operations, seconds = stages.denoiser_cost()
    report: dict[str, Any] = {
        "benchmark": "cost",
        "machine": describe_machine(torch.device("cpu")),
        "settings": asdict(settings),
        "denoiser": {
            "parameters": sum(p.numel() for p in stages.denoiser.parameters()),
            "operations": operations,
            "seconds": seconds,
            "one_token_a_step": judge.one_at_a_time(stages.base()),
        },
        "points": [],
        "grpo_learning_rate": None,
    }
    for trained in _models(stages, settings):
        for share in settings.shares if trained.share is None else (trained.share,):
            report["points"].append(judge.point(trained, share))
        if trained.method == "grpo":
            report["grpo_learning_rate"] = stages.reinforcement_rate
        _say(f"measured: {trained.method}, {trained.label}")
        write_report(out, report)
        draw(report, out.with_suffix(""))
    return report


def _models(stages: Stages, settings: CostSettings) -> Iterator[Trained]:
    yield stages.base()
    yield from stages.circuits()
    yield from stages.heads()
    for share in reversed(settings.shares):  # the cheapest first
        yield from stages.tuned_by_reinforcement(share)
    yield from stages.tuned_on_solutions()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
