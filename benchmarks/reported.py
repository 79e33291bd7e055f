"""Results of `codd evaluate` as objects again, from the means and errors that its JSON holds.

A figure is stored as a mean with its standard error, not window by window. Two windows, one error
below the mean and one above it, have that mean and that error: they stand for all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codd.coupling.settings import FACTORISED
from codd.evaluation.few_step import FewStepCell, FewStepProtocol, FewStepResult
from codd.evaluation.frontier import FrontierKey, FrontierProtocol, FrontierResult
from codd.evaluation.gap import SEQUENTIAL, GapProtocol, GapResult
from codd.evaluation.quality import TextQuality
from codd.evaluation.quota_curves import QuotaCell, QuotaProtocol, QuotaResult
from codd.evaluation.statistics import Estimate

Json = dict[str, Any]


def gap_result(report: Json, variants: tuple[str, ...]) -> GapResult:
    """Gains over the factorised output; its own level is set to zero.

    Args:
        report: The contents of the file.
        variants: Those to keep, in this order.
    """
    gap = report["gap"]
    gains = {label: _columns(gap["gain"][label]) for label in variants}
    gains[SEQUENTIAL] = _columns(gap["gap"])
    gains[FACTORISED] = torch.zeros_like(gains[SEQUENTIAL])
    return GapResult(_protocol(GapProtocol, gap), gains)


def few_step_result(report: Json) -> FewStepResult:
    """Quality by tokens a step.

    Args:
        report: The contents of the file.
    """
    few = report["few_step"]
    cells = [
        FewStepCell(
            cell["label"],
            cell["order"],
            cell["tokens_per_step"],
            _quality(cell),
            cell["denoiser_seconds_per_step"],
            cell["coupling_seconds_per_step"],
            cell["steps"],
        )
        for cell in few["cells"]
    ]
    named = {(cell.label, cell.order, cell.tokens_per_step): cell for cell in cells}
    return FewStepResult(_protocol(FewStepProtocol, few), named, _quality(few["real"]))


def frontier_result(report: Json) -> FrontierResult:
    """Score and entropy by temperature.

    Args:
        report: The contents of the file.
    """
    found = report["temperatures"]
    keys = FrontierKey._fields
    cells = {FrontierKey(*(cell[key] for key in keys)): _quality(cell) for cell in found["cells"]}
    return FrontierResult(_protocol(FrontierProtocol, found), cells, _quality(found["real"]))


def quota_result(report: Json) -> QuotaResult:
    """Score by denoiser calls.

    Args:
        report: The contents of the file.
    """
    found = report["quotas"]
    cells = tuple(
        QuotaCell(
            cell["family"], cell["rule"], _two(cell["calls"]), _quality(cell), cell["seconds"]
        )
        for cell in found["cells"]
    )
    return QuotaResult(_protocol(QuotaProtocol, found), cells, _quality(found["real"]))


def _protocol(kind: Any, found: Json) -> Any:
    given = {name: value for name, value in found["protocol"].items() if name != "windows"}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})


def _quality(found: Json) -> TextQuality:
    unknown = Estimate(**found["unknown_words"])
    return TextQuality(_two(found["score"]), _two(found["entropy"]), unknown)


def _columns(estimates: list[Json]) -> Tensor:
    return torch.stack([_two(estimate) for estimate in estimates], dim=1)


def _two(estimate: Json) -> Tensor:
    value, error = estimate["value"], estimate["standard_error"]
    return torch.tensor([value - error, value + error], dtype=torch.float64)
