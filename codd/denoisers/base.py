"""What codd asks of a denoiser: tokens in, logits and hidden states out, at the same positions."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class DenoiserOutput:
    """What one call of a denoiser returns.

    Attributes:
        logits: (B, L, V) unnormalised log-probabilities; row i is about token i. The mask is not
            among the V categories.
        hidden: (B, L, D) states the logits were read from, at the same alignment.
    """

    logits: Tensor
    hidden: Tensor


@runtime_checkable
class Denoiser(Protocol):
    """A network that sees a partly masked sequence and predicts every token at once."""

    @property
    def num_categories(self) -> int:
        """V, the number of tokens that can be predicted."""

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token."""

    @property
    def hidden_size(self) -> int:
        """D, the width of the hidden states."""

    @property
    def max_length(self) -> int:
        """The longest sequence the denoiser takes."""

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """Predicts all tokens of a batch.

        Args:
            tokens: (B, L) int64 ids, `mask_id` where hidden.
            attention_mask: (B, L) bool, False at padding; None when there is no padding.
        """
