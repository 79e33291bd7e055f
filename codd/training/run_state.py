"""Where a run stands, and what it leaves: steps, losses, validations, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class HistoryEntry:
    """One validation.

    Attributes:
        step: Optimiser steps done.
        train_loss: Mean training loss since the last entry.
        valid_loss: Validation loss of the averaged weights.
        seconds: Training time so far, over all resumed parts.
    """

    step: int
    train_loss: float
    valid_loss: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a run returns; the averaged weights are in the parameters it was given.

    Attributes:
        history: One entry a validation.
        step: Optimiser steps done; fewer than asked for after an interrupt.
        seconds: Training time over all resumed parts.
    """

    history: tuple[HistoryEntry, ...]
    step: int
    seconds: float


@dataclass(frozen=True)
class RunState:
    """Where a run stands, without what it learns.

    Attributes:
        step: Steps done.
        loss_sum: Training losses added up since the last validation.
        loss_count: How many these are.
        seconds: Training time, over all resumed parts.
        history: One entry a validation.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    history: tuple[HistoryEntry, ...] = ()

    @property
    def train_loss(self) -> float:
        """Mean training loss since the last validation."""
        return self.loss_sum / max(self.loss_count, 1)

    def after_step(self, loss: float, seconds: float) -> RunState:
        """The state one step later.

        Args:
            loss: The step's training loss.
            seconds: How long it took.
        """
        return RunState(
            self.step + 1,
            self.loss_sum + loss,
            self.loss_count + 1,
            self.seconds + seconds,
            self.history,
        )

    def after_validation(self, valid_loss: float, seconds: float) -> RunState:
        """The state with one more entry in its history.

        Args:
            valid_loss: The validation loss.
            seconds: How long it took.
        """
        total = self.seconds + seconds
        entry = HistoryEntry(self.step, self.train_loss, valid_loss, total)
        return RunState(self.step, seconds=total, history=(*self.history, entry))

    def summary(self) -> str:
        """The losses in a few words."""
        last = self.history[-1] if self.history else None
        # Right after a validation no step was taken: the loss is that of those before it.
        loss = last.train_loss if last is not None and not self.loss_count else self.train_loss
        return f"loss {loss:.3f}" + (f", valid {last.valid_loss:.4f}" if last is not None else "")

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunState:
        """What `to_json` gave, read back from among other values.

        Raises:
            KeyError: If a field is missing.
            TypeError: If an entry of the history is no such entry.
        """
        names = ("step", "loss_sum", "loss_count", "seconds")
        history = tuple(HistoryEntry(**entry) for entry in value["history"])
        return cls(**{name: value[name] for name in names}, history=history)
