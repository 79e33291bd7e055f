"""Quality against denoiser calls, for rules that say how many tokens each call fixes.

Every rule continues the same prompts by one block at several of its settings. A family (a rule with
a coupling) is then a curve of the judge's score over calls, and two families compare by the calls
they need for the same score: the score of each setting is looked up on the reference's curve, which
joins its settings by straight lines in score and log-calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codd.evaluation.continuation import (
    FewStepVariant,
    Progress,
    check_labels,
    continue_prompts,
    prompts_and_truth,
    reported,
)
from codd.evaluation.quality import Judges, TextQuality, judge, quality_json
from codd.evaluation.statistics import (
    UNDEFINED,
    Estimate,
    json_ready,
    mean,
    resampled,
    resampling_weights,
)


@dataclass(frozen=True)
class QuotaFamily:
    """A rule at several settings.

    Attributes:
        variant: How to decode.
        rules: Texts that `codd.decoding.rules.quota_from_text` reads.
    """

    variant: FewStepVariant
    rules: tuple[str, ...]


@dataclass(frozen=True)
class QuotaProtocol:
    """What is generated.

    Attributes:
        block: Tokens to generate after each prompt.
        reference: Label of the family that the others are compared with.
        order: Name of the selection.
        seed: Seed of the generation and of the bootstrap.
        batch_size: Prompts decoded at once.
    """

    block: int
    reference: str
    order: str = "low_confidence"
    seed: int = 0
    batch_size: int = 64


@dataclass(frozen=True, eq=False)
class QuotaCell:
    """A family at one setting.

    Attributes:
        family: Its label.
        rule: The setting.
        calls: (N,) denoiser calls of each prompt.
        quality: What the judges say.
        seconds: Wall time of all prompts.
    """

    family: str
    rule: str
    calls: Tensor = field(repr=False)
    quality: TextQuality
    seconds: float


class Comparison(NamedTuple):
    """A setting beside the reference at the same score.

    Attributes:
        ratio: The reference's calls over the setting's; NaN if the setting scores less than all
            settings of the reference.
        at_least: Whether it scores more than all of them: the ratio is that to the best, and the
            true one is larger.
        entropy: The reference's 3-gram entropy at the same score, in nats.
    """

    ratio: Estimate
    at_least: bool
    entropy: float


@dataclass(frozen=True, eq=False)
class QuotaResult:
    """All cells, and the true text beside them.

    Attributes:
        protocol: How they were generated.
        cells: In the order measured.
        real: What the judges say of the true continuations.
    """

    protocol: QuotaProtocol
    cells: tuple[QuotaCell, ...]
    real: TextQuality

    @property
    def families(self) -> tuple[str, ...]:
        """Their labels."""
        return tuple(dict.fromkeys(cell.family for cell in self.cells))

    def curve(self, family: str) -> list[QuotaCell]:
        """The cells of a family, by mean calls."""
        own = [cell for cell in self.cells if cell.family == family]
        return sorted(own, key=lambda cell: float(cell.calls.double().mean()))

    def compare(self, cell: QuotaCell) -> Comparison:
        """Looks the score of a setting up on the reference's curve; errors by bootstrap."""
        reference = self.curve(self.protocol.reference)
        scores = np.array([c.quality.score.value for c in reference])
        own = cell.quality.score.value
        at_least = bool(own > scores.max())
        entropies = [c.quality.entropy.value for c in reference]
        entropy = float(np.interp(own, *_rising(scores, np.array(entropies))))
        if own < scores.min():
            return Comparison(UNDEFINED, False, float("nan"))
        ratio = resampled(lambda weights: _ratio(cell, reference, weights), self._weights)
        return Comparison(ratio, at_least, entropy)

    @cached_property
    def _weights(self) -> Tensor:
        return resampling_weights(len(self.real.scores), self.protocol.seed)

    def to_json(self) -> object:
        """What the report shows, as JSON can hold it."""
        protocol = self.protocol
        return json_ready(
            {
                "protocol": {
                    "block": protocol.block,
                    "order": protocol.order,
                    "reference": protocol.reference,
                    "seed": protocol.seed,
                    "windows": len(self.real.scores),
                },
                "real": quality_json(self.real),
                "cells": [self._cell_json(cell) for cell in self.cells],
            }
        )

    def _cell_json(self, cell: QuotaCell) -> dict[str, object]:
        found = self.compare(cell)
        return {
            "family": cell.family,
            "rule": cell.rule,
            "calls": mean(cell.calls),
            **quality_json(cell.quality),
            "calls_ratio": found.ratio,
            "calls_ratio_is_at_least": found.at_least,
            "reference_entropy": found.entropy,
            "seconds": cell.seconds,
        }


def measure_quotas(
    windows: Tensor,
    families: Mapping[str, QuotaFamily],
    judges: Judges,
    protocol: QuotaProtocol,
    *,
    progress: Progress | None = None,
) -> QuotaResult:
    """Generates a block after each prompt with every setting of every family.

    Args:
        windows: (N, P + block) int64 held-out text on the models' device.
        families: By label; the reference must be among them.
        judges: What judges the text.
        protocol: What is generated.
        progress: Called with the cells done and in all.

    Raises:
        EvaluationError: If the windows are too short or the reference is missing.
        DecodingError: If a rule is none.
    """
    prompts, truth = prompts_and_truth(windows, protocol.block, least=2)
    check_labels("families", families, (protocol.reference,))
    keys = [(label, rule) for label, family in families.items() for rule in family.rules]
    cells = tuple(
        _cell(label, rule, families[label].variant, prompts, judges, protocol)
        for label, rule in reported(keys, progress)
    )
    return QuotaResult(protocol, cells, judge(truth, prompts, judges))


def _cell(
    label: str,
    rule: str,
    variant: FewStepVariant,
    prompts: Tensor,
    judges: Judges,
    protocol: QuotaProtocol,
) -> QuotaCell:
    batches = continue_prompts(
        variant,
        prompts,
        protocol.block,
        batch_size=protocol.batch_size,
        seed=protocol.seed,
        quota=rule,
        selection=protocol.order,
    )
    completions = torch.cat([batch.completions for batch in batches])
    return QuotaCell(
        family=label,
        rule=rule,
        calls=torch.cat([batch.calls for batch in batches]).cpu(),
        quality=judge(completions, prompts, judges),
        seconds=sum(batch.denoiser_seconds + batch.coupling_seconds for batch in batches),
    )


def _ratio(cell: QuotaCell, reference: Sequence[QuotaCell], weights: Tensor) -> np.ndarray:
    """(R,) reference's calls at the cell's score over the cell's, in each resample."""
    scores = torch.stack([weights @ c.quality.scores.double() for c in reference], dim=1)
    calls = torch.stack([weights @ c.calls.double() for c in reference], dim=1).log()
    own = weights @ cell.quality.scores.double()
    needed = [
        np.interp(float(score), *_rising(row.numpy(), log.numpy()))
        for score, row, log in zip(own, scores, calls, strict=True)
    ]
    found: np.ndarray = np.exp(needed) / (weights @ cell.calls.double()).numpy()
    return found


def _rising(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve as a function of the score: settings that no cheaper one outscores."""
    kept = scores > np.concatenate(([-np.inf], np.maximum.accumulate(scores)[:-1]))
    return scores[kept], values[kept]
