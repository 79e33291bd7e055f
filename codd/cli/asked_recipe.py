"""The recipe that the arguments of `codd train` ask for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from codd.cli.recipe import JOINT, Recipe
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.lora import LoraSettings
from codd.errors import CoddError, ConfigError
from codd.training.circuit_loop import CircuitTraining
from codd.training.coupling_loop import CouplingTraining
from codd.training.denoiser_config import DenoiserTraining
from codd.training.schedule import Schedule

_CIRCUIT_LEARNING_RATE = 2e-3
_JOINT_LEARNING_RATE = 2e-4
_JOINT_HEAD_LEARNING_RATE = 5e-4


def is_joint(args: argparse.Namespace) -> bool:
    """Whether the joint stage is asked for."""
    return args.joint or args.stage == JOINT or args.lora_rank is not None


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the arguments ask for.

    Raises:
        ConfigError: If a setting is impossible, naming its stage.
    """
    with _about("denoiser"):
        denoiser = DenoiserTraining(
            steps=args.denoiser_steps,
            batch_size=args.denoiser_batch,
            window_length=args.max_length,
            block_length=args.block,
            seed=args.seed,
        )
    with _about("circuit"):
        circuit = CircuitTraining(
            num_states=args.states,
            steps=args.circuit_steps,
            batch_size=args.circuit_batch,
            seed=args.seed,
        )
    with _about("coupling"):
        coupling = CouplingTraining(
            batch_size=args.coupling_batch,
            circuit_learning_rate=_CIRCUIT_LEARNING_RATE if args.train_circuit else 0.0,
            micro_batches=args.micro_batches,
        )
        schedule = Schedule(args.coupling_steps, seed=args.seed)
    with _about(JOINT):
        lora = LoraSettings(args.lora_rank) if args.lora_rank is not None else None
        joint = replace(
            coupling,
            batch_size=args.joint_batch,
            modulator_learning_rate=_JOINT_HEAD_LEARNING_RATE,
            denoiser_learning_rate=_JOINT_LEARNING_RATE,
        )
        joint_schedule = Schedule(args.joint_steps, seed=args.seed)
    return Recipe(
        denoiser,
        circuit,
        coupling,
        schedule,
        joint if is_joint(args) else None,
        joint_schedule,
        lora,
        CouplingSettings(args.coupling),
        window=args.window,
        block=args.block,
        modulator=args.modulator,
        rank=args.rank,
    )


@contextmanager
def _about(stage: str) -> Iterator[None]:
    try:
        yield
    except CoddError as error:
        raise ConfigError(f"{stage}: {error}") from error
