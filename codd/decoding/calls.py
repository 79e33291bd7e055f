"""Calls of the denoiser while decoding: over all that is in view, or over a span of it.

What is kept of the positions outside the span is recorded anew when a region begins, and never
between (Fast-dLLM, arXiv 2505.22618, section 3.1; in mode "block" a region is a block). A network
whose tokens all see each other changes its mind about them meanwhile: for it a cache approximates.
One under a block-causal mask does not about finished blocks: for it a cache changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from codd.decoding.base import Decodable, SpanDecodable
from codd.denoisers.attention import block_start
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span
from codd.errors import DecodingError

_OTHERS = 2**32  # more than there are rows in a batch
CACHES = ("none", "prefix", "dual", "block")


@dataclass(frozen=True, eq=False)
class View:
    """What the denoiser is called with.

    Attributes:
        rows: (b,) int64, which rows of the whole batch these are.
        tokens: (b, L) ids, the region at their end.
        attention_mask: (b, L) bool, False at padding; None without any.
        region_length: Tokens of the region.
        first: The column of the whole batch at which the view begins.
        ahead: Masked tokens after the region that the denoiser sees too.
        begins: Whether this is the region's first step.
    """

    rows: Tensor
    tokens: Tensor
    attention_mask: Tensor | None
    region_length: int
    first: int
    ahead: int
    begins: bool

    def beside(self, tokens: Tensor) -> View:
        """Twice the rows: these, and the same with other tokens (b, L)."""
        mask = self.attention_mask
        return replace(
            self,
            rows=torch.cat((self.rows, self.rows + _OTHERS)),
            tokens=torch.cat((self.tokens, tokens)),
            attention_mask=None if mask is None else mask.repeat(2, 1),
        )


@dataclass(frozen=True, eq=False)
class _Kept:
    """What is kept from one step to the next.

    Attributes:
        rows: (B,) the rows it is about, ascending.
        cache: Keys and values.
        output: What the denoiser last said of each position in view.
        span: The positions that change in this region.
        first: Where the view begins.
    """

    rows: Tensor
    cache: KeyValueCache
    output: DenoiserOutput
    span: Span
    first: int


class DenoiserCalls:
    """Calls a model's denoiser, keeping what the kind of cache says.

    Args:
        model: The model.
        cache: A name in `CACHES`. "prefix" computes a region and what is after it; "dual" the
            region alone; "block" the region alone, and what is before it once for good, when it is
            finished.
    """

    def __init__(self, model: Decodable, cache: str = "none") -> None:
        self._model = model
        self._cache = cache
        self._begun: _Kept | None = None
        self._kept: _Kept | None = None

    def __call__(self, view: View) -> DenoiserOutput:
        """What the denoiser says of each position (b, L) in view.

        Outside the region it may be what it said when the region began. The next call may write
        over it.
        """
        seen, length = _with_what_is_ahead(view, self._model.mask_id), view.tokens.shape[1]
        if self._cache == "none":
            return _cut(self._model.denoise(seen.tokens, seen.attention_mask), length)
        model = self._model
        assert isinstance(model, SpanDecodable)  # as the options' check of the model found
        if view.begins or self._kept is None:
            self._kept = self._begin(model, seen, self._begun)
            self._begun = self._kept  # with all rows, for the next region
        else:
            self._kept = _go_on(model, seen, self._kept)
        return _cut(self._kept.output, length)

    def _begin(self, model: SpanDecodable, view: View, before: _Kept | None) -> _Kept:
        """All that is not known for good is computed, and recorded."""
        length, block = view.tokens.shape[1], model.attention_block
        end = length - view.ahead
        boundary = block_start(end - view.region_length, block, view.attention_mask)
        alone = self._cache in ("dual", "block") and block is None
        span = Span(boundary, end if alone else length)
        if self._cache != "block" or before is None or before.first != view.first:
            cache = KeyValueCache()
            output = model.denoise_span(view.tokens, view.attention_mask, cache=cache)
        else:
            before = _of_rows(before, view.rows)
            cache, fresh = before.cache, Span(before.span.start, length)
            cache.cut(fresh.start)
            cache.recording = True
            said = model.denoise_span(view.tokens, view.attention_mask, span=fresh, cache=cache)
            output = _put(before.output, said, fresh)
        cache.recording = False
        return _Kept(view.rows, cache, output, span, view.first)


def _go_on(model: SpanDecodable, view: View, before: _Kept) -> _Kept:
    """The span is computed among what was recorded."""
    if len(view.rows) != len(before.rows):
        before = _of_rows(before, view.rows)
    span = before.span
    said = model.denoise_span(view.tokens, view.attention_mask, span=span, cache=before.cache)
    return replace(before, output=_put(before.output, said, span))


def check_cache(cache: str, model: Decodable) -> None:
    """Checks that a model can decode with a kind of cache.

    Raises:
        DecodingError: If there is no such kind, or the model's denoiser has no caches.
    """
    if cache not in CACHES:
        raise DecodingError(f"cache: expected one of {', '.join(CACHES)}, found {cache!r}")
    if cache == "none":
        return
    if not isinstance(model, SpanDecodable) or not model.has_caches:
        raise DecodingError(
            f"cache: expected 'none' with a denoiser that computes no spans, found {cache!r}"
        )


def _with_what_is_ahead(view: View, mask_id: int) -> View:
    if not view.ahead:
        return view
    tokens = F.pad(view.tokens, (0, view.ahead), value=mask_id)
    attention = view.attention_mask
    if attention is not None:
        attention = F.pad(attention, (0, view.ahead), value=True)
    return replace(view, tokens=tokens, attention_mask=attention)


def _cut(output: DenoiserOutput, length: int) -> DenoiserOutput:
    return replace(output, logits=output.logits[:, :length], hidden=output.hidden[:, :length])


def _of_rows(kept: _Kept, rows: Tensor) -> _Kept:
    """What is kept of some of the rows; both lists ascend."""
    index = torch.searchsorted(kept.rows, rows)
    return replace(kept, rows=rows, cache=kept.cache.rows(index), output=kept.output.take(index))


def _put(output: DenoiserOutput, said: DenoiserOutput, span: Span) -> DenoiserOutput:
    """Writes what was said of a span into what was said of all; in its place if it fits."""
    if span.stop <= output.logits.shape[1]:
        output.logits[:, span.start : span.stop] = said.logits
        output.hidden[:, span.start : span.stop] = said.hidden
        return output
    pairs = ((output.logits, said.logits), (output.hidden, said.hidden))
    logits, hidden = (torch.cat((old[:, : span.start], new), dim=1) for old, new in pairs)
    return replace(output, logits=logits, hidden=hidden)
