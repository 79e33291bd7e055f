"""The share of problems solved: ways to decode are chosen on validation problems."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.notes import Notes
from benchmarks.cost.settings import CostSettings
from benchmarks.cost.stages import Trained
from benchmarks.cost.tasks import Tasks
from codd.decoding.loop import generate
from codd.evaluation.statistics import mean
from codd.evaluation.tasks.arithmetic import SOLUTION_LENGTH
from codd.model import CoupledModel


@dataclass(frozen=True)
class Way:
    """One way to decode.

    Attributes:
        selection: Which positions come first.
        temperature: Of the drawn tokens.
        sampler: How the tokens of a step are drawn.
        coupling: With which coupling.
    """

    selection: str = "low_confidence"
    temperature: float = 0.0
    sampler: str = "latent"
    coupling: str = "factorised"


_PLAIN = tuple(Way(s, t) for s in ("low_confidence", "left_to_right") for t in (0.0, 0.5))
_COUPLED = tuple(
    Way(selection, 0.0, sampler, coupling)
    for selection in ("low_confidence", "left_to_right")
    for sampler in ("latent", "any_order")
    for coupling in ("copula", "product")
)


def ways(trained: Trained) -> Sequence[Way]:
    """What is tried on validation problems."""
    return _COUPLED if trained.method == "coupled" else _PLAIN


@dataclass(frozen=True, eq=False)
class Judge:
    """Measures models; what it has measured is noted.

    Attributes:
        settings: How many problems at once.
        tasks: The problems.
        notes: What is known.
        about: JSON values that the models depend on.
    """

    settings: CostSettings
    tasks: Tasks
    notes: Notes
    about: dict[str, Any]

    def point(self, trained: Trained, share: int) -> dict[str, Any]:
        """The figures of one model at one number of steps.

        The way to decode is chosen on validation problems. For a coupled model the same way with
        the circuit off stands beside.
        """
        steps = SOLUTION_LENGTH // share
        tried = [(way, self._solved(trained, way, steps, "valid")) for way in ways(trained)]
        best, found = max(tried, key=lambda pair: pair[1]["accuracy"]["value"])
        point = {
            "method": trained.method,
            "label": trained.label,
            "share": share,
            "steps": steps,
            "operations": trained.operations,
            "seconds": trained.seconds,
            "way": asdict(best),
            "valid": found["accuracy"],
            **self._solved(trained, best, steps, "test"),
        }
        if trained.method == "coupled":
            off = self._solved(trained, replace(best, coupling="factorised"), steps, "test")
            point["circuit_off"] = off["accuracy"]
        return point

    def one_at_a_time(self, trained: Trained) -> dict[str, Any]:
        """The figures of one token at each step."""
        return self._solved(trained, Way(), SOLUTION_LENGTH, "test")

    def _solved(self, trained: Trained, way: Way, steps: int, split: str) -> dict[str, Any]:
        depends = {
            **self.about,
            "model": [trained.method, trained.label, trained.share],
            "way": asdict(way),
            "steps": steps,
            "split": split,
        }
        return self.notes.get(
            "solved", depends, lambda: self._measure(trained.model, way, steps, split)
        )

    def _measure(self, model: CoupledModel, way: Way, steps: int, split: str) -> dict[str, Any]:
        questions = self.tasks.questions(split)
        started, solved = time.process_time(), []
        for which in torch.arange(len(questions)).split(self.settings.batch_size):
            completions = _decode(model, [questions[i] for i in which.tolist()], way, steps)
            solved.append(self.tasks.solved(split, which, completions))
        accuracy = mean(torch.cat(solved))
        return {
            "accuracy": asdict(accuracy),
            "problems": len(questions),
            "decoding_seconds": (time.process_time() - started) / len(questions),
        }


def _decode(model: CoupledModel, questions: Sequence[Tensor], way: Way, steps: int) -> Tensor:
    return generate(
        model,
        questions,
        SOLUTION_LENGTH,
        steps,
        selection=way.selection,
        sampler=way.sampler,
        temperature=way.temperature,
        coupling=way.coupling,
    ).completions
