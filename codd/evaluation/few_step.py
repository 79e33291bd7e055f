"""Quality of generated blocks when several tokens are written at each denoiser call.

Every variant continues the same held-out prompts by one block, at several numbers of tokens a
step. A judge says how likely the text is; the entropy of its 3-grams stands beside, because a
sharpened output is always likelier; so does the share of words that the training text does not
know. The share recovered at n tokens a step is

    (variant(n) - factorised(n)) / (factorised(1) - factorised(n)),

in mean judge score: 0 for the factorised output, 1 for one that loses nothing by writing several
tokens at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from codd.coupling.settings import FACTORISED
from codd.decoding.base import Decodable
from codd.decoding.loop import Generation
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
from codd.evaluation.statistics import UNDEFINED, Estimate, json_ready, ratio


@dataclass(frozen=True)
class FewStepProtocol:
    """What is generated, and how much at once.

    Attributes:
        block: Tokens to generate after each prompt.
        tokens_per_step: Numbers of tokens to fix at a denoiser call, increasing from 1.
        orders: Names of selections.
        seed: Seed of the generation.
        batch_size: Prompts decoded at once.
    """

    block: int
    tokens_per_step: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    orders: tuple[str, ...] = ("random", "low_confidence")
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            EvaluationError: If a field is impossible.
        """
        paces = self.tokens_per_step
        increasing = all(a < b for a, b in pairwise(paces))
        if paces[:1] != (1,) or not increasing or paces[-1] > self.block:
            raise EvaluationError(
                f"tokens_per_step: expected increasing numbers from 1 to at most {self.block}, "
                f"found {paces}"
            )
        if not self.orders or self.batch_size < 1:
            raise EvaluationError(
                "orders, batch_size: expected at least one of each, found "
                f"{self.orders} and {self.batch_size}"
            )


@dataclass(frozen=True)
class FewStepCell:
    """One variant in one order at one number of tokens a step.

    Attributes:
        label: Of the variant.
        order: Name of the selection.
        tokens_per_step: Tokens fixed at a denoiser call.
        quality: What the judges say.
        denoiser_seconds: Wall time of the denoiser a step, for a batch.
        coupling_seconds: Wall time of all else a step, for a batch.
        steps: Denoiser calls a block.
    """

    label: str
    order: str
    tokens_per_step: int
    quality: TextQuality
    denoiser_seconds: float
    coupling_seconds: float
    steps: int


@dataclass(frozen=True)
class FewStepResult:
    """All cells, and the true text beside them.

    Attributes:
        protocol: How they were generated.
        cells: By label, order and tokens a step.
        real: What the judges say of the true continuations.
    """

    protocol: FewStepProtocol
    cells: Mapping[tuple[str, str, int], FewStepCell]
    real: TextQuality

    @property
    def labels(self) -> tuple[str, ...]:
        """The variants' labels."""
        return tuple(dict.fromkeys(label for label, _, _ in self.cells))

    def recovered(self, label: str, order: str, tokens_per_step: int) -> Estimate:
        """The share of the parallel loss that a variant gives back; NaN at one token a step."""
        if tokens_per_step == 1:
            return UNDEFINED  # nothing is written in parallel, so there is no loss to divide by
        one, many = (self._scores(FACTORISED, order, n) for n in (1, tokens_per_step))
        return ratio(self._scores(label, order, tokens_per_step) - many, one - many)

    def to_json(self) -> object:
        """What the report shows, as JSON can hold it."""
        protocol = self.protocol
        return json_ready(
            {
                "protocol": {
                    "block": protocol.block,
                    "tokens_per_step": protocol.tokens_per_step,
                    "orders": protocol.orders,
                    "seed": protocol.seed,
                    "batch_size": protocol.batch_size,
                    "windows": len(self.real.scores),
                },
                "real": quality_json(self.real),
                "cells": [self._cell_json(cell) for cell in self.cells.values()],
            }
        )

    def _scores(self, label: str, order: str, tokens_per_step: int) -> Tensor:
        return self.cells[label, order, tokens_per_step].quality.scores

    def _cell_json(self, cell: FewStepCell) -> dict[str, object]:
        return {
            "label": cell.label,
            "order": cell.order,
            "tokens_per_step": cell.tokens_per_step,
            **quality_json(cell.quality),
            "recovered": self.recovered(cell.label, cell.order, cell.tokens_per_step),
            "steps": cell.steps,
            "denoiser_seconds_per_step": cell.denoiser_seconds,
            "coupling_seconds_per_step": cell.coupling_seconds,
        }


def standard_variants(model: Decodable) -> dict[str, FewStepVariant]:
    """The circuit off, both couplings drawn jointly, and the copula fixed token by token.

    Args:
        model: The denoiser and its coupling.
    """
    return {
        FACTORISED: FewStepVariant(model, FACTORISED),
        "copula": FewStepVariant(model, "copula"),
        "copula, any order": FewStepVariant(model, "copula", sampler="any_order"),
        "product": FewStepVariant(model, "product"),
    }


def measure_few_step(
    windows: Tensor,
    variants: Mapping[str, FewStepVariant],
    judges: Judges,
    protocol: FewStepProtocol,
    *,
    progress: Progress | None = None,
) -> FewStepResult:
    """Generates a block after each prompt, with every variant, order and number of tokens a step.

    At one token a step nothing is drawn jointly, so there only the factorised output is measured.

    Args:
        windows: (N, P + block) int64 held-out text on the models' device: prompts, and the true
            continuations that are judged beside.
        variants: By label; the circuit off must be among them as "factorised".
        judges: What judges the text.
        protocol: What is generated.
        progress: Called with the cells done and in all.

    Raises:
        EvaluationError: If the windows are too short or "factorised" is missing.
        DecodingError: If a variant cannot decode so.
    """
    prompts, truth = prompts_and_truth(windows, protocol.block, least=1)
    check_labels("variants", variants, (FACTORISED,))
    keys = [
        (label, order, pace)
        for order in protocol.orders
        for label in variants
        for pace in protocol.tokens_per_step
        if pace > 1 or label == FACTORISED
    ]
    cells = {
        key: _cell(key, prompts, variants[key[0]], judges, protocol)
        for key in reported(keys, progress)
    }
    return FewStepResult(protocol, cells, judge(truth, prompts, judges))


def _cell(
    key: tuple[str, str, int],
    prompts: Tensor,
    variant: FewStepVariant,
    judges: Judges,
    protocol: FewStepProtocol,
) -> FewStepCell:
    label, order, pace = key
    batches = continue_prompts(
        variant,
        prompts,
        protocol.block,
        batch_size=protocol.batch_size,
        seed=protocol.seed,
        tokens_per_step=pace,
        selection=order,
    )
    completions = torch.cat([batch.completions for batch in batches])
    denoiser, coupling = _seconds_per_step(batches)
    return FewStepCell(
        label=label,
        order=order,
        tokens_per_step=pace,
        quality=judge(completions, prompts, judges),
        denoiser_seconds=denoiser,
        coupling_seconds=coupling,
        steps=batches[0].denoiser_calls,
    )


def _seconds_per_step(batches: Sequence[Generation]) -> tuple[float, float]:
    calls = sum(batch.denoiser_calls for batch in batches)
    denoiser = sum(batch.denoiser_seconds for batch in batches)
    coupling = sum(batch.coupling_seconds for batch in batches)
    return denoiser / calls, coupling / calls
