"""A model around a model: what both are asked for goes to the inner one."""

from __future__ import annotations

from copy import copy

from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.decoding.base import Decodable, SpanDecodable
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span


class WrappedModel:
    """A `Decodable` and `SpanDecodable` that is another one; subclasses change what they must.

    Args:
        model: The inner model.
    """

    def __init__(self, model: Decodable) -> None:
        self.model = model

    def region(self, first: int, stop: int) -> WrappedModel:
        """The model for the new tokens from `first` to before `stop`.

        Decoding asks for it when it comes to them: those before are fixed, those after are out of
        view.
        """
        if not isinstance(self.model, WrappedModel):
            return self
        found = copy(self)
        found.model = self.model.region(first, stop)
        return found

    def alone(self, log_probs: Tensor, tokens: Tensor) -> Tensor:
        """What may be said of each new token by itself, where positions are chosen among them all.

        Args:
            log_probs: (B, N, V) the denoiser's log-probabilities.
            tokens: (B, N) the new tokens, `mask_id` where masked.

        Returns:
            (B, N, V) log-probabilities.
        """
        if isinstance(self.model, WrappedModel):
            return self.model.alone(log_probs, tokens)
        return log_probs

    @property
    def mask_id(self) -> int:
        """See `Decodable`."""
        return self.model.mask_id

    @property
    def num_categories(self) -> int:
        """See `Decodable`."""
        return self.model.num_categories

    @property
    def max_length(self) -> int:
        """See `Decodable`."""
        return self.model.max_length

    @property
    def window(self) -> int:
        """See `Decodable`."""
        return self.model.window

    @property
    def block(self) -> int:
        """See `Decodable`."""
        return self.model.block

    @property
    def has_caches(self) -> bool:
        """See `SpanDecodable`."""
        return isinstance(self.model, SpanDecodable) and self.model.has_caches

    @property
    def attention_block(self) -> int | None:
        """See `SpanDecodable`."""
        return self.model.attention_block if isinstance(self.model, SpanDecodable) else None

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """See `Decodable`."""
        return self.model.denoise(tokens, attention_mask)

    def denoise_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KeyValueCache,
        span: Span | None = None,
    ) -> DenoiserOutput:
        """See `SpanDecodable`."""
        assert isinstance(self.model, SpanDecodable)  # as whoever asked for a cache has checked
        return self.model.denoise_span(tokens, attention_mask, cache=cache, span=span)

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
    ) -> TokenDistribution:
        """See `Decodable`."""
        return self.model.distribution(output, tokens, start, coupling=coupling, valid=valid)
