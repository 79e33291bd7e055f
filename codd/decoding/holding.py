"""What the models that decoding knows have in common: a denoiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from codd.denoisers.base import DenoiserOutput


class HoldsDenoiser:
    """What a `Decodable` takes from its denoiser as it is.

    Attributes:
        denoiser: A module with the `Denoiser` protocol.
    """

    denoiser: Any

    @property
    def mask_id(self) -> int:
        """The id that stands for a masked token."""
        return int(self.denoiser.mask_id)

    @property
    def max_length(self) -> int:
        """Longest sequence the denoiser takes."""
        return int(self.denoiser.max_length)

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return int(self.denoiser.num_categories)

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """One call of the denoiser: (B, L) tokens -> logits (B, L, V), hidden (B, L, D)."""
        output: DenoiserOutput = self.denoiser(tokens, attention_mask)
        return output
