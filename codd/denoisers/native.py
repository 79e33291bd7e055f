"""Published Llama-like denoisers as codd sees them: aligned logits, mask, caches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from codd.denoisers.attention import aligned
from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.llama import LlamaConfig, LlamaNetwork
from codd.denoisers.spanned import SpannedDenoiser
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


class NativeDenoiser(SpannedDenoiser):
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

    def _at_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        span: Span,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Tensor]:
        shifted = self.config.shifted
        first = max(0, span.start - shifted)  # where the span's first token is spoken of
        logits, hidden = self.network(tokens, attention_mask, Span(first, span.stop), cache)
        if not shifted:
            return logits, hidden
        mask = None if attention_mask is None else attention_mask[:, : span.stop]
        before = first < span.start
        return aligned(logits, before, mask), aligned(hidden, before, mask)


def config_to_json(denoiser: NativeDenoiser) -> dict[str, Any]:
    """The configuration as JSON."""
    return asdict(denoiser.config)


def make_native(config: dict[str, Any]) -> NativeDenoiser:
    """A network from its configuration, its weights random."""
    network = LlamaConfig(**config["network"])
    rest = {**config, "network": network, "end_ids": tuple(config["end_ids"])}
    return NativeDenoiser(NativeConfig(**rest))
