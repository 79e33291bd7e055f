"""The problems of the cost benchmark, as text, as tokens and as what is rewarded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.cost.settings import CostSettings
from codd.evaluation.tasks.arithmetic import (
    QUESTION_LENGTH,
    Problem,
    arithmetic_vocabulary,
    make_problems,
    row_text,
)
from codd.training.corpus import Corpus
from codd.training.grpo_config import RewardedPrompts
from codd.training.windows import encode_rows
from codd.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Tasks:
    """Problems of all splits with their token rows.

    Attributes:
        settings: How many.
    """

    settings: CostSettings

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words, digits and signs."""
        return arithmetic_vocabulary()

    @cached_property
    def problems(self) -> dict[str, list[Problem]]:
        """Split -> problems."""
        own = self.settings
        counts = {
            "train": own.train_problems,
            "valid": own.valid_problems,
            "test": own.test_problems,
        }
        return {split: make_problems(split, count) for split, count in counts.items()}

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """Split -> (N, L) ids."""
        return {
            split: encode_rows([row_text(problem) for problem in problems], self.vocabulary)
            for split, problems in self.problems.items()
        }

    @cached_property
    def corpus(self) -> Corpus:
        """All problems as text."""
        texts = {s: tuple(row_text(p) for p in problems) for s, problems in self.problems.items()}
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        return Corpus(**texts, sha256=digest, source="arithmetic word problems", rows=True)

    def questions(self, split: str) -> list[Tensor]:
        """(P,) ids of each question."""
        return list(self.rows[split][:, :QUESTION_LENGTH])

    def solved(self, split: str, which: Tensor, completions: Tensor) -> Tensor:
        """(B,) 1 where a completion answers its problem, else 0."""
        problems = self.problems[split]
        pairs = zip(which.tolist(), completions, strict=True)
        return torch.tensor(
            [float(problems[i].is_solved_by(self.vocabulary.decode(row))) for i, row in pairs]
        )

    def rewarded(self, split: str) -> RewardedPrompts:
        """Questions, and 1 for a right answer."""
        return RewardedPrompts(self.questions(split), lambda w, c: self.solved(split, w, c))
