"""Learning algorithms of `pcircuits fit`: a new one is one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcircuits.errors import ParameterError
from pcircuits.execute.evidence import Evidence
from pcircuits.learning.em_fit import fit_em
from pcircuits.learning.gradient import fit_gradient
from pcircuits.learning.history import History
from pcircuits.module import CircuitModel


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learned from.

    Attributes:
        model: Updated in place.
        train: Rows.
        valid: Held-out rows, or None.
        batch_size: Rows of a mini-batch; None: the algorithm's own choice.
        learning_rate: Of gradient learning; None: 0.05.
        checkpoint: Folder of the checkpoint.
        common: Settings that all algorithms take, by name.
    """

    model: CircuitModel
    train: Evidence
    valid: Evidence | None
    batch_size: int | None
    learning_rate: float | None
    checkpoint: Path
    common: dict[str, Any]


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Attributes:
        about: What it is, for the help text.
        fit: Learns.
    """

    about: str
    fit: Callable[[Task], History]


def _em(task: Task) -> History:
    return _expectation_maximisation(task, None, task.batch_size)


def _anemone(task: Task) -> History:
    return _expectation_maximisation(task, "anemone", task.batch_size or _MINI_BATCH)


def _expectation_maximisation(task: Task, algorithm: Any, batch_size: int | None) -> History:
    if task.learning_rate is not None:
        raise ParameterError("--learning-rate is for --algorithm gradient; EM has none")
    return fit_em(
        task.model,
        task.train,
        valid=task.valid,
        algorithm=algorithm,
        batch_size=batch_size,
        checkpoint=task.checkpoint,
        **task.common,
    )


def _gradient(task: Task) -> History:
    rate = _LEARNING_RATE if task.learning_rate is None else task.learning_rate
    return fit_gradient(
        task.model,
        task.train,
        valid=task.valid,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=rate),
        batch_size=task.batch_size or _MINI_BATCH,
        checkpoint=task.checkpoint,
        **task.common,
    )


_MINI_BATCH, _LEARNING_RATE = 256, 0.05
ALGORITHMS: dict[str, Algorithm] = {
    "em": Algorithm("expectation-maximisation, on all rows or by mini-batches", _em),
    "anemone": Algorithm("EM by mini-batches with momentum (arXiv 2505.19982)", _anemone),
    "gradient": Algorithm("Adam on the log-likelihood", _gradient),
}
"""Name on the command line -> algorithm."""
