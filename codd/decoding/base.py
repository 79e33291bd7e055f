"""What decoding asks of a model: a denoiser, and a distribution over the tokens of a window."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span


class Decodable(Protocol):
    """A denoiser whose output over a window of W tokens can be coupled.

    Decoding and evaluation know a model by this alone.
    """

    @property
    def mask_id(self) -> int:
        """The id of a masked token."""

    @property
    def num_categories(self) -> int:
        """V, the number of tokens that can be predicted; ids 0 .. V-1."""

    @property
    def max_length(self) -> int:
        """The longest sequence the denoiser takes."""

    @property
    def window(self) -> int:
        """W, the number of tokens coupled at once; at most `max_length`."""

    @property
    def block(self) -> int:
        """The block length used when none is asked for; at most W."""

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """Predicts all tokens of a batch, each by itself.

        Args:
            tokens: (B, L) int64 ids, `mask_id` where masked.
            attention_mask: (B, L) bool, False at padding; None when there is no padding.
        """

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
    ) -> TokenDistribution:
        """Couples the denoiser's output over positions start[b] .. start[b] + W - 1.

        Args:
            output: What `denoise` returned for a sequence of this length.
            tokens: (B, L) int64; every token other than `mask_id` is visible. More may be visible
                than the denoiser saw.
            start: (B,) int64 first position of each row's window.
            coupling: A coupling's name or its settings; None for the model's own.
            valid: (B, L) bool, False at padding; None when there is no padding. Padding holds
                `mask_id` and carries no potentials, so the circuit sums it out exactly.
        """


@runtime_checkable
class SpanDecodable(Protocol):
    """A `Decodable` that may have a denoiser with key-value caches."""

    @property
    def has_caches(self) -> bool:
        """Whether the denoiser computes spans of a sequence."""

    @property
    def attention_block(self) -> int | None:
        """Tokens of a block under the denoiser's block-causal mask; None if all see all."""

    def denoise_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KeyValueCache,
        span: Span | None = None,
    ) -> DenoiserOutput:
        """Predicts the tokens of a span, among what a cache holds of the others.

        Args:
            tokens: (B, L) int64 ids, `mask_id` where masked.
            attention_mask: (B, L) bool, False at padding; None when there is no padding.
            cache: Keys and values of the other positions.
            span: The positions; None for all.
        """


@runtime_checkable
class Capturable(Protocol):
    """A `Decodable` whose coupling of one step can be recorded on a CUDA device and replayed."""

    def why_not_captured(self, coupling: str | CouplingSettings | None) -> str | None:
        """Why a coupling's step cannot be recorded: what was found; None if it can be."""

    def captured_distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> TokenDistribution:
        """As `Decodable.distribution`, by a replayed step that also drew one sample.

        Nothing that waits for the device is checked: a window that the circuit contradicts has the
        `log_partition` -inf.

        Args:
            output: As there.
            tokens: As there.
            start: As there.
            coupling: As there.
            valid: As there.
            temperature: Of the sample.
            generator: Source of the sample.
        """
