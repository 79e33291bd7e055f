"""The record of a run, which its model carries along."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from codd.cli.recipe import JOINT, Recipe
from codd.cli.workshop import StageLog, Workshop


def run_record(workshop: Workshop, logs: Mapping[str, StageLog | None]) -> dict[str, Any]:
    """How a model was made, for its folder."""
    recipe, corpus = workshop.recipe, workshop.material.corpus
    return {
        "corpus": {"sha256": corpus.sha256, "source": corpus.source},
        "training": {
            "denoiser": None if workshop.material.published else asdict(recipe.denoiser),
            "circuit": asdict(recipe.circuit),
            "coupling": {**asdict(recipe.coupling), "schedule": asdict(recipe.schedule)},
            JOINT: _joint_record(recipe),
        },
        "stages": {stage: asdict(log) for stage, log in logs.items() if log is not None},
        "versions": {
            "codd": _installed_version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _joint_record(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.joint is None:
        return None
    lora = None if recipe.lora is None else recipe.lora.to_json()
    return {**asdict(recipe.joint), "schedule": asdict(recipe.joint_schedule), "lora": lora}


def _installed_version() -> str:
    try:
        return metadata.version("pcircuits-codd")
    except metadata.PackageNotFoundError:
        return "not installed"
