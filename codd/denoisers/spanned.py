"""Denoisers that compute a span of positions alone, among keys and values of the others."""

from torch import Tensor

from codd.denoisers.base import DenoiserModule, DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span, check_span


class SpannedDenoiser(DenoiserModule):
    """A denoiser of this package; subclasses say what their network makes of a span."""

    @property
    def attention_block(self) -> int | None:
        """Tokens of a block under a block-causal mask; None if all tokens see all."""
        raise NotImplementedError

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        span: Span | None = None,
        cache: KeyValueCache | None = None,
    ) -> DenoiserOutput:
        """Predicts all tokens of a batch, or those of a span.

        Args:
            tokens: (B, L) int64 ids, `mask_id` where hidden.
            attention_mask: (B, L) bool, False at padding; None when there is no padding. Outputs
                at padding mean nothing.
            span: With a cache, the n positions to compute; the output is about them alone.
            cache: What the layers keep of the other positions.

        Returns:
            Logits (B, n, V) and hidden states (B, n, D), at least float32.

        Raises:
            DenoiserError: If shapes, types or ids are wrong.
        """
        self.check_tokens(tokens, attention_mask)
        place = check_span(span, tokens.shape[1], cache)
        return self.finish(*self._at_span(tokens, attention_mask, place, cache))

    def _at_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        span: Span,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, n, V) and hidden states (B, n, D) at a span."""
        raise NotImplementedError
