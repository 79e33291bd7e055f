"""Judge's score against entropy over temperatures: which way to decode lies on the frontier.

A sharper output is always likelier, so a score says nothing without the entropy of what was
generated beside it. Every variant is drawn at several temperatures; its points, joined by straight
lines, are its curve in the plane of 3-gram entropy and score. One variant is better than another
where it has the higher score at equal or higher entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codd.coupling.settings import FACTORISED
from codd.errors import EvaluationError
from codd.evaluation.continuation import (
    FewStepVariant,
    Progress,
    check_labels,
    continue_prompts,
    prompts_and_truth,
    reported,
)
from codd.evaluation.quality import Judges, TextQuality, judge, quality_json
from codd.evaluation.statistics import Estimate, json_ready, resampled, resampling_weights


class FrontierKey(NamedTuple):
    """Which cell.

    Attributes:
        label: Of the variant.
        order: Name of the selection.
        tokens_per_step: Tokens fixed at a denoiser call.
        temperature: Of each draw.
    """

    label: str
    order: str
    tokens_per_step: int
    temperature: float


@dataclass(frozen=True)
class FrontierProtocol:
    """What is generated.

    Attributes:
        block: Tokens to generate after each prompt.
        temperatures: Increasing.
        rivals: Labels that a coupling has to beat.
        tokens_per_step: Tokens fixed at a denoiser call.
        orders: Names of selections.
        seed: Seed of the generation and of the bootstrap.
        batch_size: Prompts decoded at once.
    """

    block: int
    temperatures: tuple[float, ...] = (0.3, 0.6, 1.0)
    rivals: tuple[str, ...] = (FACTORISED, "product")
    tokens_per_step: tuple[int, ...] = (4, 8, 16)
    orders: tuple[str, ...] = ("random", "low_confidence")
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Checks the temperatures.

        Raises:
            EvaluationError: If there are fewer than two, or they do not increase from above 0.
        """
        pairs = zip((0.0, *self.temperatures), self.temperatures, strict=False)
        if len(self.temperatures) < 2 or not all(a < b for a, b in pairs):
            raise EvaluationError(
                f"temperatures: expected at least two, increasing from above 0, found "
                f"{self.temperatures}"
            )


@dataclass(frozen=True, eq=False)
class FrontierResult:
    """All cells, and the true text beside them.

    Attributes:
        protocol: How they were generated.
        cells: By key.
        real: What the judges say of the true continuations.
    """

    protocol: FrontierProtocol
    cells: Mapping[FrontierKey, TextQuality]
    real: TextQuality

    @property
    def labels(self) -> tuple[str, ...]:
        """The variants' labels."""
        return tuple(dict.fromkeys(key.label for key in self.cells))

    @property
    def couplings(self) -> tuple[str, ...]:
        """The labels that are no rivals."""
        return tuple(label for label in self.labels if label not in self.protocol.rivals)

    def curve(self, label: str, order: str, pace: int) -> list[TextQuality]:
        """The points of a variant by temperature."""
        keys = (FrontierKey(label, order, pace, t) for t in self.protocol.temperatures)
        return [self.cells[key] for key in keys]

    def on_frontier(self, key: FrontierKey) -> bool:
        """Whether no cell of the same order and pace has more of both score and entropy."""
        own = self.cells[key]
        return not any(
            other[1:3] == key[1:3]
            and quality.score.value > own.score.value
            and quality.entropy.value > own.entropy.value
            for other, quality in self.cells.items()
        )

    def lead(self, label: str, rival: FrontierKey) -> Estimate:
        """How much higher a variant's curve scores than a cell, at equal or higher entropy.

        NaN where the two do not compare: the variant's curve ends at a lower entropy than the
        cell's, or begins at a higher one with a lower score. The error is by bootstrap over
        prompts.
        """
        curve, cell = self.curve(label, rival.order, rival.tokens_per_step), self.cells[rival]
        return resampled(lambda weights: _leads(curve, cell, weights), self._weights)

    def wins(self, label: str, order: str, pace: int) -> bool:
        """Whether a variant beats all rivals at an order and pace, and lies on the frontier.

        It beats a rival if it leads at every temperature of the rival that compares, and one does.
        """
        temperatures = self.protocol.temperatures
        for rival in self.protocol.rivals:
            leads = [self.lead(label, FrontierKey(rival, order, pace, t)) for t in temperatures]
            known = [lead.value for lead in leads if not np.isnan(lead.value)]
            if not known or min(known) <= 0:
                return False
        return all(self.on_frontier(FrontierKey(label, order, pace, t)) for t in temperatures)

    def to_json(self) -> object:
        """What the report shows, as JSON can hold it."""
        protocol = self.protocol
        return json_ready(
            {
                "protocol": {
                    "block": protocol.block,
                    "temperatures": protocol.temperatures,
                    "tokens_per_step": protocol.tokens_per_step,
                    "orders": protocol.orders,
                    "rivals": protocol.rivals,
                    "seed": protocol.seed,
                    "windows": len(self.real.scores),
                },
                "real": quality_json(self.real),
                "cells": [self._cell_json(key) for key in self.cells],
                "wins": [
                    {
                        "label": label,
                        "order": order,
                        "tokens_per_step": pace,
                        "wins": self.wins(label, order, pace),
                    }
                    for order in protocol.orders
                    for pace in protocol.tokens_per_step
                    for label in self.couplings
                ],
            }
        )

    def _cell_json(self, key: FrontierKey) -> dict[str, object]:
        leads = {}
        if key.label in self.protocol.rivals:
            leads = {f"lead_of_{label}": self.lead(label, key) for label in self.couplings}
        frontier = {"on_frontier": self.on_frontier(key)}
        return {**key._asdict(), **quality_json(self.cells[key]), **frontier, **leads}

    @cached_property
    def _weights(self) -> Tensor:
        return resampling_weights(len(self.real.scores), self.protocol.seed)


def measure_frontier(
    windows: Tensor,
    variants: Mapping[str, FewStepVariant],
    judges: Judges,
    protocol: FrontierProtocol,
    *,
    progress: Progress | None = None,
) -> FrontierResult:
    """Generates a block after each prompt: every variant, order, pace and temperature.

    Args:
        windows: (N, P + block) int64 held-out text on the models' device.
        variants: By label, their temperature set aside; the rivals must be among them.
        judges: What judges the text.
        protocol: What is generated.
        progress: Called with the cells done and in all.

    Raises:
        EvaluationError: If the windows are too short or a rival is missing.
        DecodingError: If a variant cannot decode so.
    """
    prompts, truth = prompts_and_truth(windows, protocol.block, least=2)
    check_labels("variants", variants, protocol.rivals)
    keys = [
        FrontierKey(label, order, pace, temperature)
        for order in protocol.orders
        for pace in protocol.tokens_per_step
        for label in variants
        for temperature in protocol.temperatures
    ]
    cells = {
        key: _cell(key, prompts, variants[key.label], judges, protocol)
        for key in reported(keys, progress)
    }
    return FrontierResult(protocol, cells, judge(truth, prompts, judges))


def _cell(
    key: FrontierKey,
    prompts: Tensor,
    variant: FewStepVariant,
    judges: Judges,
    protocol: FrontierProtocol,
) -> TextQuality:
    batches = continue_prompts(
        replace(variant, temperature=key.temperature),
        prompts,
        protocol.block,
        batch_size=protocol.batch_size,
        seed=protocol.seed,
        tokens_per_step=key.tokens_per_step,
        selection=key.order,
    )
    return judge(torch.cat([batch.completions for batch in batches]), prompts, judges)


def _leads(curve: list[TextQuality], cell: TextQuality, weights: Tensor) -> np.ndarray:
    """(R,) lead of a curve over a cell in each resample; NaN where it ends at a lower entropy."""
    entropies = torch.stack([weights @ point.surprises.double() for point in curve], dim=1)
    scores = torch.stack([weights @ point.scores.double() for point in curve], dim=1)
    own = weights @ cell.surprises.double(), weights @ cell.scores.double()
    rows = zip(entropies.numpy(), scores.numpy(), *(part.tolist() for part in own), strict=True)
    return np.array([_lead(*row) for row in rows])


def _lead(entropies: np.ndarray, scores: np.ndarray, entropy: float, score: float) -> float:
    order = entropies.argsort()
    entropies, scores = entropies[order], scores[order]
    if entropies[-1] < entropy:
        return float("nan")
    beyond = scores[entropies >= entropy]
    lead = float(max(np.interp(entropy, entropies, scores), beyond.max()) - score)
    return lead if lead > 0 or entropies[0] <= entropy else float("nan")
