"""Draws of a layer's children or categories, one for each fold and sample.

Two ways with one law: noise for every candidate of every draw (Gumbel), or, where many draws choose
from the same few rows, cumulative weights of each row and one number a draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.compile.plan import SegmentSumLayer
from pcircuits.execute.segments import node_index, segment_maximum
from pcircuits.execute.weights import Weights

# Candidates of all draws from which on tables and a search in them are worth their fixed price.
_MANY_CANDIDATES = 1 << 15


def draw_children(
    weights: Weights,
    values: Tensor | None,
    units: Tensor,
    example: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Child unit or category of each fold and sample, given its own unit.

    Args:
        weights: (G, A, O, K) log-weights of the layer.
        values: (F, B, K) log-values of the children; None for inputs.
        units: (F, S) the layer's units, -1 where it is not part of a sample.
        example: (S,) example of each sample.
        temperature: Divides logits; 0 takes the most likely.
        generator: Source of randomness.

    Returns:
        (F, S); of no meaning where the layer is not part of a sample.
    """
    units = units.clamp_min(0)
    log = weights.log
    folds, examples = (log if values is None else values).shape[:2]
    rows = log.shape[2]
    shared = units.numel() > folds * examples * rows
    if shared and units.numel() * log.shape[3] >= _MANY_CANDIDATES:
        table = log if values is None else log + values[:, :, None]
        fold = torch.arange(len(units), device=units.device)[:, None] % folds
        at = (fold * examples + example % examples) * rows + units
        return _draw_by_inversion(table.flatten(0, 2), at, temperature, generator)
    logits = rows_of(weights, units, example)
    if values is not None:
        logits = values[:, example] + logits
    return draw(logits, temperature, generator)


def rows_of(weights: Weights, units: Tensor, example: Tensor) -> Tensor:
    """(F, S, K) log-weights of the row that each sample chose."""
    groups, examples = weights.log.shape[:2]
    fold = torch.arange(len(units), device=units.device)[:, None] % groups
    return weights.log[fold, example[None, :] % examples, units]


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Index of the last axis drawn in proportion to exp(logits / temperature)."""
    if temperature == 0:
        return logits.argmax(-1)
    if logits.device.type == "cpu" and logits.numel() >= _MANY_CANDIDATES:
        # Imported where it is used: numba takes its time to import.
        from pcircuits.execute.numba.race import winners

        return winners(logits, temperature, generator)
    # The largest of logit + Gumbel noise has the softmax's law; in this form noise is exponential.
    noise = torch.empty_like(logits).exponential_(generator=generator)
    sharpened = logits if temperature == 1 else logits / temperature
    return (sharpened - noise.log_()).argmax(-1)


def _draw_by_inversion(
    logits: Tensor, at: Tensor, temperature: float, generator: torch.Generator | None
) -> Tensor:
    """As `draw` of those rows of (R, K) logits that `at` names, from one number a draw."""
    if temperature == 0:
        return logits.argmax(-1)[at]
    width = logits.shape[1]
    # In float64: what is rare at the end of a long row would be lost beside all before it.
    cumulative = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64).flatten()
    first = at * width
    drawn = torch.rand(at.shape, dtype=torch.float64, device=at.device, generator=generator)
    drawn *= cumulative[first + (width - 1)]
    # Bisection for the number of those that are not above the drawn one, which is below the last.
    place = torch.zeros_like(at)
    for bit in reversed(range((width - 1).bit_length())):
        ahead = (place + (1 << bit)).clamp_max(width - 1)
        place = torch.where(cumulative[first + (ahead - 1)] <= drawn, ahead, place)
    return place


def drawn_edge(layer: SegmentSumLayer, logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """(E, S) bool, true at one edge of each node, drawn in proportion to exp(logits)."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    scores = logits - noise.log()
    index = node_index(layer, logits.device)
    # The first of the best: rounding may make two of them equal.
    place = -torch.arange(len(index), dtype=torch.float64, device=logits.device)[:, None]
    best = place.where(scores == segment_maximum(scores, layer)[index], -torch.inf)
    return place == segment_maximum(best, layer)[index]
