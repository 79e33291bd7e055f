"""A small bidirectional transformer that trains on a processor core in minutes.

Its parts are chosen by what they cost there: layer norm and a depthwise convolution have fused
bfloat16 kernels, a squared ReLU is two cheap passes, and at windows this short the explicit
attention product is several times faster than the fused one.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codd.denoisers.attention import block_numbers, visible_positions
from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.spanned import SpannedDenoiser
from codd.errors import ConfigError

ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a `TransformerDenoiser`.

    Attributes:
        num_categories: V, without the mask.
        max_length: Longest sequence, in tokens.
        width: D, a multiple of twice `num_heads`.
        num_layers: Blocks of attention and feed-forward.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward layer over D.
        conv_width: Taps of the depthwise convolution before attention; odd.
        dropout: Probability of dropping an entry of a block's output while training.
        block_length: Tokens of a block under a block-causal mask, where each sees its own block
            and those before it; None if all see all.

    Examples:
        >>> shape = codd.TransformerConfig(num_categories=10, width=32, num_layers=2, num_heads=2)
        >>> sum(weights.numel() for weights in codd.TransformerDenoiser(shape).parameters())
        21514
    """

    num_categories: int
    max_length: int = 64
    width: int = 256
    num_layers: int = 5
    num_heads: int = 4
    mlp_ratio: float = 3.0
    conv_width: int = 3
    dropout: float = 0.0
    block_length: int | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: If a field is impossible.
        """
        for name in ("num_categories", "max_length", "width", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"width: expected a multiple of 2 * num_heads = {2 * self.num_heads}, "
                f"found {self.width}"
            )
        if self.conv_width % 2 == 0 or self.conv_width < 1:
            raise ConfigError(
                f"conv_width: expected an odd positive number, found {self.conv_width}"
            )
        if self.mlp_ratio * self.width < 1:
            raise ConfigError(f"mlp_ratio: expected a positive number, found {self.mlp_ratio}")
        if self.block_length is not None and self.block_length < 1:
            raise ConfigError(f"block_length: expected at least 1, found {self.block_length}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout: expected 0 <= dropout < 1, found {self.dropout}")


class TransformerDenoiser(SpannedDenoiser):
    """Pre-norm bidirectional transformer; implements `codd.denoisers.base.Denoiser`.

    The mask is the id after the last category.

    It is not told the mask ratio: it sees it (Ou et al. 2024, arXiv 2406.03736).

    Args:
        config: Its shape.
        seed: Seed of the initial weights.

    Examples:
        >>> shape = codd.TransformerConfig(num_categories=10, max_length=8, width=16, num_heads=2)
        >>> denoiser = codd.TransformerDenoiser(shape, seed=0).eval()
        >>> tokens = torch.tensor([[3, 10, 10, 7], [3, 10, 10, 0]])
        >>> padding = torch.tensor([[True] * 4, [True] * 3 + [False]])
        >>> short = denoiser(tokens[1:, :3]).logits[0]
        >>> torch.allclose(denoiser(tokens, padding).logits[1, :3], short, atol=1e-5)
        True
    """

    kind = "transformer"
    cosine: Tensor
    sine: Tensor

    def __init__(self, config: TransformerConfig, *, seed: int = 0) -> None:
        """Draws initial weights from `seed` without touching the global generator."""
        super().__init__(
            num_categories=config.num_categories,
            mask_id=config.num_categories,
            hidden_size=config.width,
            max_length=config.max_length,
        )
        self.config = config
        with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights when made
            self.embedding = nn.Embedding(config.num_categories + 1, config.width)
            self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
            self.norm = nn.LayerNorm(config.width, bias=False)
            self.head = nn.Linear(config.width, config.num_categories)
        cosine, sine = _rotary_table(config.max_length, config.width // config.num_heads)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        _initialise(self, seed)

    @property
    def attention_block(self) -> int | None:
        """Tokens of a block under a block-causal mask; None if all tokens see all."""
        return self.config.block_length

    def _at_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        span: Span,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Tensor]:
        length = span.stop if cache is None else max(span.stop, cache.length)
        block = self.config.block_length
        seen = visible_positions(length, span, attention_mask, block, tokens.device)
        sight = _Sight(span, length, attention_mask, seen, block, cache)
        x = self.embedding(tokens[:, span.start : span.stop])  # (B, n, D)
        rotary = (
            self.cosine[span.start : span.stop].to(x.dtype),
            self.sine[span.start : span.stop].to(x.dtype),
        )
        for number, layer in enumerate(self.blocks):
            x = layer(x, rotary, sight, number)
        hidden = self.norm(x)
        return self.head(hidden), hidden


@dataclass(frozen=True, eq=False)
class _Sight:
    """What the positions of a span see.

    Attributes:
        span: The n positions.
        length: L, positions that have keys.
        mask: (B, >= L) bool, False at padding; None without any.
        seen: (B or 1, 1, n or 1, L) bool for attention; None if everything is seen.
        block: Tokens of a block under a block-causal mask, or None.
        cache: What is kept of positions outside the span, or None.
    """

    span: Span
    length: int
    mask: Tensor | None
    seen: Tensor | None
    block: int | None
    cache: KeyValueCache | None

    def kept(self, name: str, fresh: Tensor) -> Tensor:
        """(B, ..., n, d) at the span -> (B, ..., L, d) at all positions."""
        return fresh if self.cache is None else self.cache.merge(name, fresh, self.span)


class _Block(nn.Module):
    """x + attention(conv(norm(x))), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        hidden = int(config.mlp_ratio * config.width)
        self.attention_norm = nn.LayerNorm(config.width, bias=False)
        self.conv = nn.Conv2d(
            config.width,
            config.width,
            (1, config.conv_width),
            padding=(0, config.conv_width // 2),
            groups=config.width,
            bias=False,
        )
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.attention_out = nn.Linear(config.width, config.width, bias=False)
        self.mlp_norm = nn.LayerNorm(config.width, bias=False)
        self.mlp_in = nn.Linear(config.width, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], sight: _Sight, number: int
    ) -> Tensor:
        h = self._mix_neighbours(self.attention_norm(x), sight, number)
        x = x + self.dropout(self.attention_out(self._attend(h, rotary, sight, number)))
        h = F.relu(self.mlp_in(self.mlp_norm(x)))
        updated: Tensor = x + self.dropout(self.mlp_out(h * h))
        return updated

    def _mix_neighbours(self, h: Tensor, sight: _Sight, number: int) -> Tensor:
        h = sight.kept(f"{number}.input", h)
        if sight.mask is not None:
            # Padding must look like the outside of the window.
            h = h * sight.mask[:, : h.shape[1]].unsqueeze(-1)
        if sight.block is not None:
            return self._mix_earlier_neighbours(h, sight)
        reach = self.conv.kernel_size[1] // 2
        start, stop = max(0, sight.span.start - reach), sight.span.stop + reach
        image = h[:, start:stop].transpose(1, 2).unsqueeze(2)  # (B, D, 1, .): channels last
        mixed: Tensor = self.conv(image)
        mixed = mixed.squeeze(2).transpose(1, 2)
        before = sight.span.start - start
        return mixed[:, before : before + sight.span.stop - sight.span.start]

    def _mix_earlier_neighbours(self, h: Tensor, sight: _Sight) -> Tensor:
        """The same without what later blocks hold: tap by tap, so that it does not enter at all."""
        taps = self.conv.weight[:, 0, 0]  # (D, taps)
        reach = taps.shape[1] // 2
        place = slice(*sight.span)
        numbers = block_numbers(h.shape[1], sight.block or 1, sight.mask, h.device)
        own = numbers[:, place]
        mixed = torch.zeros_like(h[:, place])
        for tap in range(-reach, reach + 1):
            shifted = F.pad(h, (0, 0, reach, reach))[:, reach + tap :][:, place]
            others = F.pad(numbers, (reach, reach))[:, reach + tap :][:, place]
            mixed = (
                mixed + shifted.masked_fill((others > own)[..., None], 0.0) * taps[:, reach + tap]
            )
        return mixed

    def _attend(
        self, h: Tensor, rotary: tuple[Tensor, Tensor], sight: _Sight, number: int
    ) -> Tensor:
        batch, length, width = h.shape
        query_key, value = self.qkv(h).split((2 * width, width), dim=-1)
        query_key = _rotate(query_key.view(batch, length, 2, self.num_heads, -1), *rotary)
        query, key = query_key.permute(2, 0, 3, 1, 4).unbind()  # (B, heads, n, d)
        value = value.view(batch, length, self.num_heads, -1).transpose(1, 2)
        key, value = sight.kept(f"{number}.key", key), sight.kept(f"{number}.value", value)
        scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        if sight.seen is not None:
            scores = scores.masked_fill(~sight.seen, torch.finfo(scores.dtype).min)
        mixed: Tensor = scores.softmax(dim=-1) @ value
        return mixed.transpose(1, 2).reshape(batch, length, width)


def _rotary_table(length: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (Su et al. 2021, arXiv 2104.09864), each (L, 1, 1, d / 2)."""
    rates = ROPE_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return angles.cos().float()[:, None, None], angles.sin().float()[:, None, None]


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


@torch.no_grad()
def _initialise(model: TransformerDenoiser, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * model.config.num_layers
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name.endswith("conv.weight"):
            # Starts as the identity plus a little of the neighbours.
            parameter.normal_(0.0, 0.1, generator=generator)
            parameter[..., parameter.shape[-1] // 2] += 1.0
        elif name == "embedding.weight":
            parameter.normal_(0.0, 0.5, generator=generator)
        elif name == "head.bias":
            parameter.zero_()
        else:
            scale = 1.0 / math.sqrt(parameter.shape[-1])
            if name.endswith("_out.weight"):
                scale /= math.sqrt(outputs)
            parameter.normal_(0.0, scale, generator=generator)
