"""Presets of `codd train`: sizes and steps that belong together."""

from __future__ import annotations

import argparse
from typing import Any

from codd.denoisers.transformer import TransformerConfig
from codd.training.circuit_loop import CircuitTraining
from codd.training.coupling_loop import CouplingTraining
from codd.training.denoiser_config import DenoiserTraining

FULL: dict[str, int] = {
    "width": TransformerConfig.width,
    "layers": TransformerConfig.num_layers,
    "heads": TransformerConfig.num_heads,
    "states": CircuitTraining.num_states,
    "rank": 64,
    "denoiser_steps": DenoiserTraining.steps,
    "denoiser_batch": DenoiserTraining.batch_size,
    "circuit_steps": CircuitTraining.steps,
    "circuit_batch": CircuitTraining.batch_size,
    "coupling_steps": 450,
    "coupling_batch": CouplingTraining.batch_size,
}
QUICK = {
    **FULL,
    "width": 128,
    "layers": 4,
    "states": 256,
    "denoiser_steps": 1000,
    "denoiser_batch": 32,
    "circuit_steps": 100,
    "circuit_batch": 256,
    "coupling_steps": 150,
    "coupling_batch": 16,
}
PRESETS = {"full": FULL, "quick": QUICK}
MINUTES = {"full": 23, "quick": 5}
"""About how long a preset takes on two cores."""
_ABOUT = {"full": "what the shipped model was made with", "quick": "for a first look"}


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Adds `--preset`."""
    known = [f"{name}, {_ABOUT[name]}, about {MINUTES[name]} minutes" for name in PRESETS]
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="full",
        help=f"defaults of sizes and steps, on two cores: {'; '.join(known)}; default %(default)s",
    )


def add_preset_number(group: Any, flag: str, text: str) -> None:
    """Adds a number that is the preset's if it is not given."""
    name = flag.removeprefix("--").replace("-", "_")
    quick = "" if QUICK[name] == FULL[name] else f", quick {QUICK[name]}"
    group.add_argument(flag, type=int, metavar="N", help=f"{text}; default {FULL[name]}{quick}")


def fill_in(args: argparse.Namespace) -> None:
    """Gives the options that are not given the preset's values."""
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def as_preset(args: argparse.Namespace) -> bool:
    """Whether all of the preset's values are as they are there."""
    return all(getattr(args, name) == value for name, value in PRESETS[args.preset].items())
