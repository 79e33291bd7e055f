"""Whether probabilities are right: how often what was given probability p happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.viz.style import GREY, axes_or_new, curve, entitle, legend_beside, without_frame

Forecasts = tuple[Tensor, Tensor]
"""(N,) probabilities, and (N,) bool whether what they were given to happened."""
# 95 % of a normal distribution.
_Z = 1.959964
# What float32 marginals may exceed 1 by.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Calibration:
    """Forecasts in bins of equal size, from the least to the most confident.

    Attributes:
        confidence: (bins,) mean probability in each.
        frequency: (bins,) share that happened.
        low: (bins,) lower end of the 95 % interval of that share (Wilson, 1927).
        high: (bins,) upper end.
        error: Expected calibration error: mean distance of confidence and frequency.

    Examples:
        Of forecasts of 20 % and 80 %, exactly so many come true:

        >>> forecasts = torch.tensor([0.2] * 5 + [0.8] * 5)
        >>> happened = torch.tensor([True, False, False, False, False] + [True] * 4 + [False])
        >>> found = pc.viz.Calibration.of(forecasts, happened, num_bins=2)
        >>> found.frequency.round(2), round(found.error, 6)
        (array([0.2, 0.8]), 0.0)
    """

    confidence: np.ndarray
    frequency: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: float

    @classmethod
    def of(cls, probabilities: Tensor, happened: Tensor, num_bins: int = 10) -> Calibration:
        """Sorts forecasts into bins of equal numbers.

        Args:
            probabilities: (N,) in [0, 1].
            happened: (N,) bool.
            num_bins: Bins; fewer where there are fewer forecasts.

        Raises:
            StructureError: If shapes differ, there is no forecast, one is no probability, or
                `num_bins` is below one.
        """
        given = probabilities.detach().double().cpu()
        if given.ndim != 1 or given.shape != happened.shape or not len(given):
            raise StructureError(
                f"expected (N,) probabilities and (N,) bool, N >= 1; found shapes "
                f"{tuple(given.shape)} and {tuple(happened.shape)}"
            )
        if not bool(((given >= 0) & (given <= 1 + _ROUNDING)).all()):
            raise StructureError("expected probabilities in [0, 1]; found others")
        if num_bins < 1:
            raise StructureError(f"expected num_bins >= 1; found {num_bins}")
        order = given.argsort(stable=True)
        came = happened.detach().cpu().double()[order]
        bins = min(num_bins, len(given))
        counts = np.array([len(part) for part in order.tensor_split(bins)])
        confidence = np.array([float(p.mean()) for p in given[order].tensor_split(bins)])
        frequency = np.array([float(p.mean()) for p in came.tensor_split(bins)])
        low, high = _wilson(frequency, counts)
        error = float((counts * np.abs(confidence - frequency)).sum() / counts.sum())
        return cls(confidence, frequency, low, high, error)


def calibration(
    forecasts: Forecasts | Mapping[str, Forecasts], *, num_bins: int = 10, ax: Axes | None = None
) -> Axes:
    """Draws how often what was given a probability happens, with 95 % intervals.

    On the dashed line probabilities are right; below it they are too confident.

    Args:
        forecasts: (N,) probabilities and (N,) bool whether it happened; or several by name.
        num_bins: Bins of equal numbers of forecasts.
        ax: Where to draw; default a new figure.

    Returns:
        The axes; the legend gives the expected calibration error.

    Raises:
        StructureError: As `Calibration.of`, or if there is nothing to draw.

    Examples:
        >>> forecasts = torch.rand(500)
        >>> happened = torch.rand(500) < forecasts
        >>> timid = 0.5 + 0.1 * forecasts
        >>> ax = pc.viz.calibration({"right": (forecasts, happened), "timid": (timid, happened)})
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('probability given', 'share that happened')
    """
    named = dict(forecasts) if isinstance(forecasts, Mapping) else {"": forecasts}
    if not named:
        raise StructureError("expected forecasts to draw; found none")
    found = {name: Calibration.of(*pair, num_bins=num_bins) for name, pair in named.items()}
    axes = axes_or_new(ax, (5.6, 3.9))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.0, label="calibrated")
    for place, (name, own) in enumerate(found.items()):
        errors = np.stack([own.frequency - own.low, own.high - own.frequency]).clip(0)
        label = f"{name}, error {own.error:.3f}" if name else f"error {own.error:.3f}"
        curve(axes, place, own.confidence, own.frequency, label=label, errors=errors)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("probability given")
    axes.set_ylabel("share that happened")
    axes.grid(alpha=0.3)
    without_frame(axes)
    legend_beside(axes, "expected calibration error")
    count = sum(len(torch.as_tensor(p)) for p, _ in named.values())
    entitle(axes, f"are probabilities right? {count:,} forecasts")
    return axes


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the score interval of a binomial share."""
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    spread = np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    half = _Z * spread / (1 + _Z**2 / count)
    return middle - half, middle + half
