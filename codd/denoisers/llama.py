"""A Llama network without a causal mask: what LLaDA and Dream are made of.

RMS norm, rotary positions, grouped queries, a gated feed-forward layer (Touvron et al. 2023,
arXiv 2302.13971; Ainslie et al. 2023, arXiv 2305.13245). Qwen2 differs by biases alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codd.denoisers.attention import visible_positions
from codd.denoisers.key_values import KeyValueCache, Span
from codd.errors import ConfigError


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a `LlamaNetwork`.

    Attributes:
        num_categories: V, ids that are predicted.
        width: D.
        num_layers: Blocks.
        num_heads: Heads of the queries.
        num_kv_heads: Heads of keys and values; divides `num_heads`.
        mlp_width: Width of the feed-forward layer.
        max_length: Longest sequence, in tokens.
        head_size: Width of a head; None for D / `num_heads`.
        embedding_rows: Rows of the embedding and of the head, at least V; None for V.
        rope_theta: Base of the rotary angles.
        norm_eps: Added to the mean square.
        qkv_bias: Whether queries, keys and values have biases.
        out_bias: Whether the other linear layers have.
        tied: Whether the head is the embedding.
        scale_logits: Whether logits are divided by the square root of D.
        block_length: Tokens of a block under a block-causal mask; None if all see all.
    """

    num_categories: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    max_length: int
    head_size: int | None = None
    embedding_rows: int | None = None
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    out_bias: bool = False
    tied: bool = False
    scale_logits: bool = False
    block_length: int | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: If a field is impossible.
        """
        for name, value in self._counts().items():
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected an integer of at least 1, found {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_kv_heads: expected a divisor of num_heads = {self.num_heads}, "
                f"found {self.num_kv_heads}"
            )
        if self.head_size is None and self.width % self.num_heads:
            raise ConfigError(
                f"width: expected a multiple of num_heads = {self.num_heads}, found {self.width}"
            )
        if self.head_width % 2:
            raise ConfigError(f"head_size: expected an even number, found {self.head_width}")
        if self.rows < self.num_categories:
            raise ConfigError(
                f"embedding_rows: expected at least num_categories = {self.num_categories}, "
                f"found {self.rows}"
            )
        for name in ("rope_theta", "norm_eps"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)!r}"
                )

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads if self.head_size is None else self.head_size

    @property
    def rows(self) -> int:
        """Rows of the embedding."""
        return self.num_categories if self.embedding_rows is None else self.embedding_rows

    def _counts(self) -> dict[str, int]:
        names = ("num_categories", "width", "num_layers", "num_heads", "num_kv_heads", "mlp_width")
        optional = ("head_size", "embedding_rows", "block_length")
        given = {name: getattr(self, name) for name in (*names, "max_length", *optional)}
        return {n: v for n, v in given.items() if n not in optional or v is not None}


class LlamaNetwork(nn.Module):
    """Embedding, blocks, norm and head. No mask is causal; see `LlamaConfig.block_length`.

    Args:
        config: Its shape.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.rows, config.width)
        self.blocks = nn.ModuleList(LlamaBlock(config, i) for i in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.rows, bias=config.out_bias)
        if config.tied:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        span: Span | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Reads logits and states at a span.

        Args:
            tokens: (B, L) int64 ids.
            attention_mask: (B, L) bool, False at padding; None without any.
            span: The n positions computed and read; None for all.
            cache: Keys and values of the others.

        Returns:
            Logits (B, n, V) and states after the last norm (B, n, D).
        """
        config = self.config
        place = span or Span(0, tokens.shape[1])
        length = place.stop if cache is None else max(place.stop, cache.length)
        seen = visible_positions(length, place, attention_mask, config.block_length, tokens.device)
        positions = torch.arange(place.start, place.stop, device=tokens.device)
        rotary = rotary_table(positions, config.head_width, config.rope_theta)
        x = self.embedding(tokens[:, place.start : place.stop])  # (B, n, D)
        for block in self.blocks:
            x = block(x, rotary, seen, place, cache)
        hidden = self.norm(x)
        logits = self.head(hidden)[..., : config.num_categories]
        return logits / math.sqrt(config.width) if config.scale_logits else logits, hidden


class LlamaBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig, number: int) -> None:
        super().__init__()
        self.number = number
        self.head_width = config.head_width
        queries = config.num_heads * config.head_width
        keys = config.num_kv_heads * config.head_width
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        qkv_bias = config.qkv_bias or config.out_bias
        self.query = nn.Linear(config.width, queries, bias=qkv_bias)
        self.key = nn.Linear(config.width, keys, bias=qkv_bias)
        self.value = nn.Linear(config.width, keys, bias=qkv_bias)
        self.attention_out = nn.Linear(queries, config.width, bias=config.out_bias)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.gate = nn.Linear(config.width, config.mlp_width, bias=config.out_bias)
        self.up = nn.Linear(config.width, config.mlp_width, bias=config.out_bias)
        self.down = nn.Linear(config.mlp_width, config.width, bias=config.out_bias)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        seen: Tensor | None,
        span: Span,
        cache: KeyValueCache | None,
    ) -> Tensor:
        """Passes states (B, n, D) of a span on; see `LlamaNetwork.forward`."""
        x = x + self._attend(self.attention_norm(x), rotary, seen, span, cache)
        h = self.mlp_norm(x)
        updated: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return updated

    def _attend(
        self,
        h: Tensor,
        rotary: tuple[Tensor, Tensor],
        seen: Tensor | None,
        span: Span,
        cache: KeyValueCache | None,
    ) -> Tensor:
        query, key, value = (
            layer(h).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, heads, n, d)
            for layer in (self.query, self.key, self.value)
        )
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if cache is not None:
            key = cache.merge(f"{self.number}.key", key, span)
            value = cache.merge(f"{self.number}.value", value, span)
        grouped = query.shape[1] != key.shape[1]
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, enable_gqa=grouped
        )
        return self.attention_out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def rotary_table(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (Su et al. 2021, arXiv 2104.09864), each (n, d), in float32.

    As in the published networks: the angles of the first half of a head are repeated for the
    second, and float32 is what they were trained with.
    """
    steps = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None].float() * theta ** (-steps / head_width)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns each pair (i, i + d / 2) of (..., n, d) by its angle."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cosine.to(x.dtype) + turned * sine.to(x.dtype)
