"""Published Llama-like denoisers as codd sees them: aligned logits, mask, caches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from codd.denoisers.attention import aligned
from codd.denoisers.base import DenoiserModule, DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span, check_span
from codd.denoisers.llama import LlamaConfig, LlamaNetwork
from codd.vocabulary import Vocabulary


@dataclass(frozen=True)
class NativeConfig:
    """A `NativeDenoiser`.

    Attributes:
        network: The shape of its network.
        mask_id: The id of a hidden token.
        shifted: Whether the network's output at position i - 1 is about token i, as in networks
            that were made from causal ones; position 0 keeps its own output.
        end_ids: Ids that end a text.
    """

    network: LlamaConfig
    mask_id: int
    shifted: bool = False
    end_ids: tuple[int, ...] = ()


class NativeDenoiser(DenoiserModule):
    """A `LlamaNetwork` whose logits and states are about the token at their own position.

    Args:
        config: Its shape and special ids.
        vocabulary: Its tokenizer.
    """

    kind = "native"

    def __init__(self, config: NativeConfig, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(
            num_categories=config.network.num_categories,
            mask_id=config.mask_id,
            hidden_size=config.network.width,
            max_length=config.network.max_length,
            end_ids=config.end_ids,
            vocabulary=vocabulary,
        )
        self.config = config
        self.network = LlamaNetwork(config.network)

    @property
    def attention_block(self) -> int | None:
        """Tokens of a block under a block-causal mask; None if all tokens see all."""
        return self.config.network.block_length

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
            attention_mask: (B, L) bool, False at padding; None when there is no padding.
            span: With a cache, the positions to compute; the output is about them alone.
            cache: Keys and values of the other positions.

        Raises:
            DenoiserError: If shapes, types or ids are wrong.
        """
        self.check_tokens(tokens, attention_mask)
        place = check_span(span, tokens.shape[1], cache)
        if not self.config.shifted:
            return self.finish(*self.network(tokens, attention_mask, span, cache))
        first = max(0, place.start - 1)  # what says the span's first token
        inner = None if span is None else Span(first, place.stop)
        logits, hidden = self.network(tokens, attention_mask, inner, cache)
        mask = None if attention_mask is None else attention_mask[:, : place.stop]
        moved = (aligned(found, first < place.start, mask) for found in (logits, hidden))
        return self.finish(*moved)


def config_to_json(denoiser: NativeDenoiser) -> dict[str, Any]:
    """The configuration as JSON."""
    return asdict(denoiser.config)


def make_native(config: dict[str, Any]) -> NativeDenoiser:
    """A network from its configuration, its weights random."""
    network = LlamaConfig(**config["network"])
    rest = {**config, "network": network, "end_ids": tuple(config["end_ids"])}
    return NativeDenoiser(NativeConfig(**rest))
