"""What all stages of a run share: recipe, material, folders and processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from codd.checkpoint import has_checkpoint, load_checkpoint
from codd.cli.material import Material
from codd.cli.recipe import Recipe
from codd.errors import CheckpointError
from codd.training.cache import DenoiserCache
from codd.training.run_state import HistoryEntry
from codd.training.tensorboard import tensorboard_log


class StageInterrupted(KeyboardInterrupt):
    """A stage was stopped by Ctrl-C, with its checkpoint written."""


@dataclass(frozen=True)
class StageLog:
    """What a finished stage says of itself.

    Attributes:
        steps: Steps done.
        seconds: Over all resumed parts.
        valid_loss: The last one.
        mean_omitted: On a cache, the mean bound on the probability of what it does not list.
    """

    steps: int
    seconds: float
    valid_loss: float
    mean_omitted: float | None = None


@dataclass(frozen=True)
class Workshop:
    """What stages work with, and where in the folder of a run each keeps its checkpoints.

    Attributes:
        recipe: How.
        material: On what.
        root: Holds a folder for each stage, and the model.
        resume: Continue from the checkpoints there.
        group: Processes that train together; None for this one alone.
        cache: What the denoiser said, to train the coupling from; None asks the denoiser.
        tensorboard: Folder of TensorBoard's logs; None without.
        device: Where everything is trained.
    """

    recipe: Recipe
    material: Material
    root: Path
    resume: bool
    group: dist.ProcessGroup | None = None
    cache: DenoiserCache | None = None
    tensorboard: Path | None = None
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have made."""
        return self.group is None or dist.get_rank(self.group) == 0

    def options(self, stage: str) -> dict[str, Any]:
        """Who trains a stage, and where it is logged."""
        if self.tensorboard is None or not self.leads:
            return {"group": self.group}
        return {"group": self.group, "log": tensorboard_log(self.tensorboard, stage)}

    def folder(self, stage: str) -> Path:
        """Where a stage's checkpoints are."""
        return self.root / stage

    def require_finished(self, stage: str) -> None:
        """Checks that a stage was finished before.

        Raises:
            CheckpointError: If it was not, or its checkpoint is damaged.
        """
        folder, steps = self.folder(stage), self.recipe.steps(stage)
        hint = f"run `codd train --stage {stage}` first"
        if not has_checkpoint(folder):
            raise CheckpointError(f"{folder}: expected the finished {stage}, found none; {hint}")
        found = load_checkpoint(folder).metadata.get("step")
        if found != steps:
            raise CheckpointError(
                f"{folder}: expected the {stage} after {steps} steps, found {found}; {hint}"
            )


def finished_log(history: tuple[HistoryEntry, ...], step: int, steps: int) -> StageLog:
    """What a stage says at its end.

    Raises:
        StageInterrupted: If it has done fewer steps than it should.
    """
    if step < steps:
        raise StageInterrupted
    last = history[-1]
    return StageLog(step, last.seconds, last.valid_loss)
