"""One loop for what is trained step by step: interruptible, and resumable to the same result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

import pcircuits as pc
from codd.checkpoint import save_checkpoint
from codd.errors import CheckpointError
from codd.training.gradient import GradientLearner, Group, Losses
from codd.training.progress import progress_bar
from codd.training.resuming import checkpoint_of
from codd.training.run_state import HistoryEntry, Outcome, RunState
from codd.training.schedule import Schedule


class Learner(Protocol):
    """What an algorithm supplies to `learn`."""

    @property
    def processes(self) -> pc.Processes:
        """Who takes part."""

    def take_step(self, state: RunState) -> float:
        """One step; its training loss, over all processes."""

    def validate(self, state: RunState) -> float:
        """The validation loss of what is learned so far."""

    def tensors(self) -> dict[str, Tensor]:
        """All that later steps depend on."""

    def restore(self, tensors: Mapping[str, Tensor], state: RunState) -> None:
        """Continues from such tensors."""


class Pace(Protocol):
    """How long a run is and how often it looks at itself, in steps."""

    @property
    def steps(self) -> int:
        """Of the whole run."""

    @property
    def validate_every(self) -> int:
        """Between validations."""

    @property
    def checkpoint_every(self) -> int:
        """Between checkpoints."""


def learn(
    learner: Learner,
    pace: Pace,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    title: str,
    resume: bool = False,
    stop_every: int = 1,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Takes a run's steps; the first Ctrl-C ends after the current one with a checkpoint.

    Args:
        learner: The algorithm with what it learns.
        pace: How long.
        folder: Where checkpoints go; the first process writes them.
        identity: JSON values that must be equal for a checkpoint to belong to this run.
        title: Shown beside the progress bar.
        resume: Continue from the checkpoint in `folder` if there is one.
        stop_every: An interrupt ends the run after a multiple of so many steps only.
        log: Called with every validation, by the first process only.
        show_progress: Draw a progress bar.

    Raises:
        CheckpointError: If `folder` holds a checkpoint of another run, or one while not resuming.
    """
    leads = learner.processes.rank == 0
    state = _resumed(learner, folder, identity, resume=resume)
    saved = state.step
    bar = progress_bar(title, state.step, pace.steps, shown=show_progress and leads)
    with pc.stop_on_interrupt() as stop, bar as report:
        while state.step < pace.steps:
            if state.step % stop_every == 0 and learner.processes.any(stop.requested):
                break
            state = state.after_step(*_timed(learner.take_step, state))
            if state.step == pace.steps or state.step % pace.validate_every == 0:
                state = state.after_validation(*_timed(learner.validate, state))
                if log is not None and leads:
                    log(state.history[-1])
            if state.step % pace.checkpoint_every == 0:
                saved = _save(learner, state, folder, identity)
            report(state.step, state.summary())
        if saved != state.step:
            _save(learner, state, folder, identity)
    return Outcome(state.history, state.step, state.seconds)


def optimise(
    losses_at: Losses,
    validate: Callable[[], float],
    groups: Sequence[Group],
    schedule: Schedule,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    title: str,
    resume: bool = False,
    stop_every: int = 1,
    group: dist.ProcessGroup | None = None,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Minimises a loss; the first Ctrl-C ends after the current step with a checkpoint.

    Args:
        losses_at: The loss of a step, from the parameters as they are, in parts that are added up:
            gradients are accumulated part by part, so that a step needs the memory of one part.
            All randomness must come from `step_seed(seed, step)` or the global generator, which is
            seeded with it. With several processes, this one's share: the shares are added up.
        validate: The validation loss of the parameters as they are.
        groups: What is trained.
        schedule: How.
        folder: Where checkpoints go.
        identity: JSON values that must be equal for a checkpoint to belong to this run.
        title: Shown beside the progress bar.
        resume: Continue from the checkpoint in `folder` if there is one.
        stop_every: An interrupt ends the run after a multiple of so many steps only.
        group: Processes that train together; all are given the first one's initial parameters
            and end with the same. The first writes checkpoints, to a folder that all can read.
        log: Called with every validation, by the first process only.
        show_progress: Draw a progress bar.

    Raises:
        CheckpointError: If `folder` holds a checkpoint of another run, or one while not resuming.
        TrainingError: If the loss stops being finite.
    """
    learner = GradientLearner(losses_at, validate, groups, schedule, group)
    outcome = learn(
        learner,
        schedule,
        folder,
        {**identity, "schedule": asdict(schedule)},
        title=title,
        resume=resume,
        stop_every=stop_every,
        log=log,
        show_progress=show_progress,
    )
    learner.install_averages()
    return outcome


def _resumed(
    learner: Learner, folder: str | Path, identity: Mapping[str, Any], *, resume: bool
) -> RunState:
    checkpoint = checkpoint_of(folder, identity, resume=resume)
    if checkpoint is None:
        return RunState()
    try:
        state = RunState.from_json(checkpoint.metadata)
        learner.restore(checkpoint.tensors, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: missing or misshapen entry {error}") from error
    return state


def _save(
    learner: Learner, state: RunState, folder: str | Path, identity: Mapping[str, Any]
) -> int:
    """Writes a checkpoint, in the first process; the step that it is of."""
    if learner.processes.rank == 0:
        save_checkpoint(folder, learner.tensors(), {**identity, **state.to_json()})
    return state.step


def _timed(part: Callable[[RunState], float], state: RunState) -> tuple[float, float]:
    """What a part of the loop gives, and the seconds it takes."""
    started = time.perf_counter()
    return part(state), time.perf_counter() - started
