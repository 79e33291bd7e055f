"""Means, differences and ratios over windows, with standard errors.

Windows are the independent units: every figure is averaged within a window first. Ratios use the
delta method: the standard error of a / b is that of the mean of (x - (a / b) y) / b, where a and b
are the means of x and y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A figure and how far it may be off.

    Attributes:
        value: The figure.
        standard_error: Of the value; NaN when there is a single window.
    """

    value: float
    standard_error: float


UNDEFINED = Estimate(math.nan, math.nan)


def mean(values: Tensor) -> Estimate:
    """The mean over windows.

    Args:
        values: (N,) one figure a window.
    """
    values = values.double()
    return Estimate(float(values.mean()), standard_error(values))


def ratio(numerator: Tensor, denominator: Tensor) -> Estimate:
    """The mean of one figure over the mean of another of the same windows; NaN over zero.

    Args:
        numerator: (N,) one figure a window.
        denominator: (N,) one figure a window.
    """
    value = float(_ratio_of_means(numerator, denominator))
    return Estimate(value, standard_error(ratio_influence(numerator, denominator)))


def ratio_influence(numerator: Tensor, denominator: Tensor) -> Tensor:
    """How far each window pulls the ratio of the means from its value, (N,).

    Args:
        numerator: (N,) one figure a window.
        denominator: (N,) one figure a window.
    """
    value = _ratio_of_means(numerator, denominator)
    return (numerator.double() - value * denominator.double()) / denominator.double().mean()


def mean_ratio(pairs: Sequence[tuple[Tensor, Tensor]]) -> Estimate:
    """The average of several ratios of means over the same windows.

    Args:
        pairs: Numerators and denominators, each (N,), in the same order of windows.
    """
    value = torch.stack([_ratio_of_means(*pair) for pair in pairs]).mean()
    influence = torch.stack([ratio_influence(*pair) for pair in pairs]).mean(dim=0)
    return Estimate(float(value), standard_error(influence))


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of (N,) independent figures; NaN for a single one."""
    if len(values) < 2:
        return math.nan
    return float(values.double().std() / math.sqrt(len(values)))


def json_ready(value: object) -> object:
    """Turns estimates, mappings, sequences and numbers into what JSON can hold.

    JSON has no infinity and no NaN: both become null.

    Args:
        value: Nested mappings and sequences of estimates, text, numbers, booleans and None.
    """
    if isinstance(value, Estimate):
        return json_ready({"value": value.value, "standard_error": value.standard_error})
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _ratio_of_means(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator.double().mean() / denominator.double().mean()
