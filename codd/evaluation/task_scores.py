"""Accuracy of a model on a closed-form task, by the number of tokens written at a denoiser call.

A coupled way to decode says little by itself: sharper tokens alone are right more often. So the
factorised output is measured beside it with the same sampler, order and temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from codd.coupling.settings import FACTORISED
from codd.errors import EvaluationError
from codd.evaluation.continuation import (
    FewStepVariant,
    Progress,
    check_labels,
    continue_batch,
    reported,
)
from codd.evaluation.parallelism import accuracy_under_parallelism
from codd.evaluation.statistics import Estimate, Interval, bootstrap, json_ready, mean
from codd.evaluation.tasks.base import ClosedTask, Example
from codd.vocabulary import Vocabulary


@dataclass(frozen=True)
class TaskProtocol:
    """How answers are generated.

    Attributes:
        tokens_per_step: Numbers of tokens to fix at a denoiser call, increasing.
        selection: Which positions come first.
        seed: Seed of the generation.
        batch_size: Prompts decoded at once.
    """

    tokens_per_step: tuple[int, ...] = (1, 2, 4, 8)
    selection: str = "random"
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            EvaluationError: If a field is impossible.
        """
        paces = self.tokens_per_step
        if not paces or paces[0] < 1 or not all(a < b for a, b in pairwise(paces)):
            raise EvaluationError(
                f"tokens_per_step: expected increasing numbers from 1 on, found {paces}"
            )
        if self.batch_size < 1:
            raise EvaluationError(f"batch_size: expected at least 1, found {self.batch_size}")


@dataclass(frozen=True, eq=False)
class TaskCell:
    """One way to decode at one number of tokens a step.

    Attributes:
        label: Of the variant.
        tokens_per_step: Tokens fixed at a denoiser call.
        right: (N,) bool, whether each example's answer is right.
        tokens_per_forward: Tokens that each call fixed in the mean.
    """

    label: str
    tokens_per_step: int
    right: Tensor = field(repr=False)
    tokens_per_forward: float

    @property
    def accuracy(self) -> Estimate:
        """The share of right answers."""
        return mean(self.right)


@dataclass(frozen=True, eq=False)
class TaskResult:
    """All cells of one task.

    Attributes:
        task: What was asked.
        protocol: How answers were generated.
        cells: By label and tokens a step.
    """

    task: ClosedTask
    protocol: TaskProtocol
    cells: Mapping[tuple[str, int], TaskCell]

    @property
    def labels(self) -> tuple[str, ...]:
        """The variants' labels."""
        return tuple(dict.fromkeys(label for label, _ in self.cells))

    def curve(self, label: str) -> list[TaskCell]:
        """One variant's cells, by increasing number of tokens a step."""
        return [self.cells[label, pace] for pace in self.protocol.tokens_per_step]

    def aup(self, label: str) -> Interval:
        """Accuracy under parallelism, with its interval over examples."""
        count = len(next(iter(self.cells.values())).right)
        return bootstrap(lambda rows: self._aup(label, rows), count)

    def gain(self, label: str) -> list[Estimate]:
        """Accuracy less that of the factorised output on the same examples, at each pace."""
        pairs = zip(self.curve(label), self.curve(FACTORISED), strict=True)
        return [mean(own.right.double() - other.right.double()) for own, other in pairs]

    def to_json(self) -> object:
        """What the report shows, as JSON can hold it."""
        return json_ready(
            {
                "task": {"name": self.task.name, **asdict(self.task)},
                "protocol": asdict(self.protocol),
                "examples": len(next(iter(self.cells.values())).right),
                "curves": {label: self._curve_json(label) for label in self.labels},
                "aup": {label: self.aup(label) for label in self.labels},
            }
        )

    def _aup(self, label: str, rows: Tensor) -> float:
        accuracies = {
            key: 100 * float(cell.right[rows].double().mean()) for key, cell in self.cells.items()
        }
        curve = self.curve(label)
        return accuracy_under_parallelism(
            [cell.tokens_per_forward for cell in curve],
            [accuracies[label, cell.tokens_per_step] for cell in curve],
            max(accuracies.values()),
        )

    def _curve_json(self, label: str) -> list[dict[str, object]]:
        return [
            {
                "tokens_per_step": cell.tokens_per_step,
                "tokens_per_forward": cell.tokens_per_forward,
                "accuracy": cell.accuracy,
                "gain": gain,
            }
            for cell, gain in zip(self.curve(label), self.gain(label), strict=True)
        ]


@torch.no_grad()
def measure_task(
    task: ClosedTask,
    examples: Sequence[Example],
    variants: Mapping[str, FewStepVariant],
    vocabulary: Vocabulary,
    protocol: TaskProtocol,
    *,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> TaskResult:
    """Answers every example with every variant at every number of tokens a step.

    Args:
        task: Judges the answers.
        examples: Prompts; their own answers do not count.
        variants: By label; "factorised" must be among them, with the sampler and the temperature
            that the others have.
        vocabulary: Text to ids.
        protocol: How answers are generated.
        device: Where the models are; None for the CPU.
        progress: Called with the cells done and in all.

    Raises:
        EvaluationError: If there is no example, no control, or more tokens a step than an answer.
        DecodingError: If a variant cannot decode so.
    """
    _check(task, examples, variants, protocol)
    prompts = [vocabulary.encode(example.prompt).to(device or "cpu") for example in examples]
    keys = [(label, pace) for label in variants for pace in protocol.tokens_per_step]
    cells = {}
    for label, pace in reported(keys, progress):
        answers, parallelism = _answers(task, prompts, variants[label], pace, protocol)
        right = [
            task.is_right(example.prompt, vocabulary.decode(answer))
            for example, answer in zip(examples, answers, strict=True)
        ]
        cells[label, pace] = TaskCell(label, pace, torch.tensor(right), parallelism)
    return TaskResult(task, protocol, cells)


def _answers(
    task: ClosedTask,
    prompts: Sequence[Tensor],
    variant: FewStepVariant,
    pace: int,
    protocol: TaskProtocol,
) -> tuple[Tensor, float]:
    """(N, answer_length) ids, and tokens per forward."""
    found = [
        continue_batch(
            variant,
            prompts[i : i + protocol.batch_size],
            task.answer_length,
            seed=protocol.seed + i,
            tokens_per_step=pace,
            selection=protocol.selection,
        )
        for i in range(0, len(prompts), protocol.batch_size)
    ]
    answers = torch.cat([batch.completions for batch in found])
    return answers, found[0].tokens_per_forward


def _check(
    task: ClosedTask,
    examples: Sequence[Example],
    variants: Mapping[str, FewStepVariant],
    protocol: TaskProtocol,
) -> None:
    if not examples:
        raise EvaluationError("examples: expected at least one, found none")
    steps = [-(-task.answer_length // pace) for pace in protocol.tokens_per_step]
    if protocol.tokens_per_step[-1] > task.answer_length or len(set(steps)) < len(steps):
        raise EvaluationError(
            f"tokens_per_step: expected at most the answer's {task.answer_length}, no two with as "
            f"many steps; found {protocol.tokens_per_step}, steps {steps}"
        )
    check_labels("variants", variants, (FACTORISED,))
    control = variants[FACTORISED]
    for label, variant in variants.items():
        rule = (variant.sampler, variant.temperature, variant.top_p)
        if rule != (control.sampler, control.temperature, control.top_p):
            raise EvaluationError(
                f"variants[{label!r}]: expected sampler, temperature and top_p of the control "
                f"{FACTORISED!r}, found {rule}"
            )
