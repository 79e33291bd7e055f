"""Key-value caches: what a network keeps of positions, so that a call computes a span alone.

A causal network's keys and values of earlier positions never change. A bidirectional one's do,
with every token that is written, so a cache only approximates it (Fast-dLLM, arXiv 2505.22618,
section 3.1) until it is recorded anew. A block-causal network, whose tokens see their own block
and those before it, is between: finished blocks may be kept for good.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from codd.errors import DenoiserError


class Span(NamedTuple):
    """Positions start .. stop - 1 of a sequence."""

    start: int
    stop: int


class KeyValueCache:
    """Tensors of one batch by name, each with the positions as its last dimension but one.

    A network passes what it computed at a span to `merge` and gets it back in its place among
    what is kept of the other positions. While `recording`, the result is what is kept from then
    on; so a call over all positions fills the cache, and later ones read it.

    Attributes:
        recording: Whether `merge` keeps what it returns.
    """

    def __init__(self) -> None:
        """Starts empty, and recording."""
        self.recording = True
        self._kept: dict[str, Tensor] = {}

    @property
    def length(self) -> int:
        """Positions kept; 0 if empty."""
        return next((kept.shape[-2] for kept in self._kept.values()), 0)

    def merge(self, name: str, fresh: Tensor, span: Span) -> Tensor:
        """Puts fresh values among the kept ones.

        Args:
            name: Which tensor of which layer.
            fresh: (B, ..., span.stop - span.start, d) values at the span.
            span: Where they belong; begins at most where the kept ones end.

        Returns:
            (B, ..., L, d): kept, fresh, kept; those of the span replaced.
        """
        kept = self._kept.get(name)
        if kept is None:
            whole = fresh
        else:
            before, after = kept[..., : span.start, :], kept[..., span.stop :, :]
            whole = torch.cat((before, fresh, after), dim=-2)
        if self.recording:
            self._kept[name] = whole
        return whole

    def cut(self, length: int) -> None:
        """Forgets positions from `length` on."""
        self._kept = {name: kept[..., :length, :] for name, kept in self._kept.items()}

    def rows(self, index: Tensor) -> KeyValueCache:
        """The cache of some rows of the batch.

        Args:
            index: (b,) int64 rows.
        """
        chosen = KeyValueCache()
        chosen.recording = self.recording
        chosen._kept = {name: kept[index] for name, kept in self._kept.items()}
        return chosen


def check_span(span: Span | None, length: int, cache: KeyValueCache | None) -> Span:
    """The positions that a call is about, checked.

    Args:
        span: As asked for; None for all.
        length: L of the sequence.
        cache: What is kept of other positions.

    Raises:
        DenoiserError: If the span leaves the sequence, or what is before it is not kept.
    """
    if span is None:
        return Span(0, length)
    if not 0 <= span.start < span.stop <= length:
        raise DenoiserError(
            f"span: expected 0 <= start < stop <= {length}, found {span.start} and {span.stop}"
        )
    kept = 0 if cache is None else cache.length
    if span.start > kept:
        raise DenoiserError(
            f"span: expected a start of at most {kept}, the positions that the cache holds, "
            f"found {span.start}"
        )
    return span
