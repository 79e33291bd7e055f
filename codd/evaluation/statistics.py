"""Means, differences and ratios over windows, with standard errors.

Windows are the independent units: every figure is averaged within a window first. Ratios use the
delta method: the standard error of a / b is that of the mean of (x - (a / b) y) / b, where a and b
are the means of x and y. Figures without such a formula get an interval by the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
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


@dataclass(frozen=True)
class Interval:
    """A figure and where it would probably lie with other windows.

    Attributes:
        value: The figure.
        low: Lower end of the confidence interval.
        high: Upper end.
        confidence: How probably the interval covers the true figure.
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95


def bootstrap(
    statistic: Callable[[Tensor], float],
    count: int,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A figure of windows with its percentile interval (Efron 1979).

    Args:
        statistic: The figure of the windows with these indices, (N,) int64, some of them repeated.
        count: N, windows. With one there is nothing to draw from: the interval is NaN.
        confidence: Of the interval, in (0, 1).
        resamples: Sets of N windows drawn with replacement.
        seed: Seed of the draws, so that figures of the same windows are compared on the same.
    """
    value = statistic(torch.arange(count))
    if count < 2:
        return Interval(value, math.nan, math.nan, confidence)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (resamples, count), generator=generator)
    found = torch.tensor([statistic(rows) for rows in draws], dtype=torch.float64)
    tail = (1 - confidence) / 2
    low, high = found.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, low, high, confidence)


def resampling_weights(num_windows: int, seed: int, resamples: int = 1000) -> Tensor:
    """(R, N) weights of the windows in each of R bootstrap resamples; rows sum to one.

    The mean of (N,) figures in each resample is the product with them; used for several figures of
    the same windows they stay paired.

    Args:
        num_windows: N.
        seed: Of the resamples.
        resamples: R.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(num_windows, (resamples, num_windows), generator=generator)
    counts = torch.zeros(resamples, num_windows, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return counts / num_windows


def resampled(statistic: Callable[[Tensor], np.ndarray], weights: Tensor) -> Estimate:
    """A figure of weighted windows, its error from bootstrap resamples; NaN if it is none.

    Args:
        statistic: (R, N) weights -> (R,) the figure under each, NaN where it is undefined.
        weights: (R, N), from `resampling_weights`.
    """
    every = torch.full_like(weights[:1], 1 / weights.shape[1])
    value = float(statistic(every)[0])
    if math.isnan(value):
        return UNDEFINED
    return Estimate(value, float(np.nanstd(statistic(weights), ddof=1)))


def json_ready(value: object) -> object:
    """Turns estimates, mappings, sequences and numbers into what JSON can hold.

    JSON has no infinity and no NaN: both become null.

    Args:
        value: Nested mappings and sequences of estimates, intervals, text, numbers, booleans and
            None.
    """
    if isinstance(value, (Estimate, Interval)):
        return json_ready(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _ratio_of_means(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator.double().mean() / denominator.double().mean()
