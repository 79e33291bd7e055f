"""MDLM and BD3-LM: a diffusion transformer whose layer norms depend on the noise.

MDLM (Sahoo et al. 2024, arXiv 2406.07524) sees all positions. BD3-LM (Arriola et al. 2025, arXiv
2503.09573) is the same network under a block-causal mask: a token sees its own block and those
before it. The mask is the last id of their tables; where it is, V is one less. Their modules have
the published names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codd.denoisers.attention import visible_positions
from codd.denoisers.base import LoadOptions
from codd.denoisers.folders import NetworkFolder
from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.llama import rotary_table, rotate
from codd.denoisers.spanned import SpannedDenoiser
from codd.denoisers.weights import assign_weights, open_tensors
from codd.errors import CheckpointError, ConfigError

_FREQUENCIES = 256  # sinusoids that the noise is told by
_LARGEST_SHARE = 1.0 - 1e-3  # of tokens that log-linear noise masks


@dataclass(frozen=True)
class MDLMConfig:
    """The shape of an `MDLMDenoiser`.

    Attributes:
        rows: Ids in the table, the mask among them.
        mask_id: The id of a hidden token.
        width: D.
        num_layers: Blocks.
        num_heads: Attention heads.
        condition_width: Width of what is said of the noise.
        max_length: Longest sequence, in tokens.
        time_conditioning: Whether the noise is told; if not it is said to be zero.
        block_length: Tokens of a block under a block-causal mask; None if all see all.
    """

    rows: int
    mask_id: int
    width: int
    num_layers: int
    num_heads: int
    condition_width: int
    max_length: int
    time_conditioning: bool = False
    block_length: int | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: If a field is impossible.
        """
        names = ("rows", "width", "num_layers", "num_heads", "condition_width", "max_length")
        for name in names if self.block_length is None else (*names, "block_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected an integer of at least 1, found {value!r}")
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"width: expected a multiple of 2 * num_heads = {2 * self.num_heads}, "
                f"found {self.width}"
            )

    @property
    def num_categories(self) -> int:
        """V: without the mask where it is the last id."""
        return self.rows - (self.mask_id == self.rows - 1)


class MDLMDenoiser(SpannedDenoiser):
    """The diffusion transformer.

    Args:
        config: Its shape.
    """

    kind = "mdlm"

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__(
            num_categories=config.num_categories,
            mask_id=config.mask_id,
            hidden_size=config.width,
            max_length=config.max_length,
        )
        self.config = config
        self.backbone = _Backbone(config)

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
        noise = self._noise(tokens, attention_mask)
        logits, hidden = self.backbone(tokens, attention_mask, noise, span, cache)
        return logits[..., : self.num_categories], hidden

    def _noise(self, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B,) total noise σ: log-linear noise hides a share 1 - exp(-σ) of the tokens."""
        if not self.config.time_conditioning:
            return torch.zeros(len(tokens), device=tokens.device)
        valid = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        hidden = (tokens == self.mask_id) * valid
        return -torch.log1p(-_LARGEST_SHARE * hidden.sum(dim=1) / valid.sum(dim=1))


class _Backbone(nn.Module):
    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_embed = _Table(config)
        self.sigma_map = _NoiseEmbedding(config)
        self.blocks = nn.ModuleList(_Block(config, i) for i in range(config.num_layers))
        self.output_layer = _OutputLayer(config)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None,
        noise: Tensor,
        span: Span,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        length = span.stop if cache is None else max(span.stop, cache.length)
        block, device = config.block_length, tokens.device
        seen = visible_positions(length, span, attention_mask, block, device)
        positions = torch.arange(span.start, span.stop, device=device)
        rotary = rotary_table(positions, config.width // config.num_heads, 10_000.0)
        x = F.embedding(tokens[:, span.start : span.stop], self.vocab_embed.embedding)
        condition = F.silu(self.sigma_map(noise.to(x.dtype)))  # (B, C)
        for layer in self.blocks:
            x = layer(x, condition, rotary, seen, span, cache)
        hidden: Tensor = self.output_layer.normalised(x, condition)
        return self.output_layer.linear(hidden), hidden


class _Table(nn.Module):
    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.rows, config.width).normal_(0.0, 0.02))


class _NoiseEmbedding(nn.Module):
    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        width = config.condition_width
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noise: Tensor) -> Tensor:
        half = _FREQUENCIES // 2
        steps = torch.arange(half, device=noise.device, dtype=torch.float32)
        angles = noise.float()[:, None] * torch.exp(-math.log(10_000.0) * steps / half)
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1).to(noise.dtype)
        embedded: Tensor = self.mlp(waves)
        return embedded


class _Block(nn.Module):
    """x + gate · attention(modulated norm), then x + gate · mlp(modulated norm)."""

    def __init__(self, config: MDLMConfig, number: int) -> None:
        super().__init__()
        width = config.width
        self.number, self.num_heads = number, config.num_heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = nn.Linear(config.condition_width, 6 * width)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        rotary: tuple[Tensor, Tensor],
        seen: Tensor | None,
        span: Span,
        cache: KeyValueCache | None,
    ) -> Tensor:
        modulation = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation  # (B, 1, D) each
        h = self.norm1(x) * (1 + scale) + shift
        query, key, value = self.attn_qkv(h).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        query, key = (rotate(each.transpose(1, 2), *rotary) for each in (query, key))
        value = value.transpose(1, 2)  # (B, heads, n, d)
        if cache is not None:
            key = cache.merge(f"{self.number}.key", key, span)
            value = cache.merge(f"{self.number}.value", value, span)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + gate * self.attn_out(mixed.transpose(1, 2).flatten(2))
        updated: Tensor = x + mlp_gate * self.mlp(self.norm2(x) * (1 + mlp_scale) + mlp_shift)
        return updated


class _OutputLayer(nn.Module):
    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.width, bias=False)
        self.linear = nn.Linear(config.width, config.rows)
        self.adaLN_modulation = nn.Linear(config.condition_width, 2 * config.width)

    def normalised(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        modulated: Tensor = self.norm_final(x) * (1 + scale) + shift
        return modulated


def reads(config: dict[str, Any]) -> bool:
    """Whether a config.json is MDLM's or BD3-LM's."""
    return str(config.get("model_type")).lower() in ("mdlm", "bd3lm")


def read(folder: NetworkFolder, options: LoadOptions) -> MDLMDenoiser:
    """Loads MDLM or BD3-LM; none of its remote code is run.

    Raises:
        CheckpointError: If the folder is damaged or describes something else.
    """
    try:
        config = read_config(folder.config)
    except (TypeError, ValueError) as error:  # ConfigError is a ValueError
        raise CheckpointError(f"{folder.name}: config.json: {error}") from error
    if options.device_map == "auto" or isinstance(options.device_map, Mapping):
        raise CheckpointError(
            f"device_map: expected one device for a network as small as {folder.name}, found "
            f"{options.device_map!r}"
        )
    with open_tensors(folder.path) as tensors:
        last = f"backbone.blocks.{config.num_layers - 1}.attn_qkv.weight"
        tensors.require({last})  # before anything of that many blocks is made
        try:
            with torch.device("meta"):
                denoiser = MDLMDenoiser(config)
        except (ConfigError, RuntimeError) as error:  # RuntimeError: sizes that overflow
            raise CheckpointError(f"{folder.name}: config.json: {error}") from error
        # Rotary frequencies and the noise schedule lie beside the weights in some files.
        assign_weights(
            denoiser.backbone,
            tensors,
            lambda name: f"backbone.{name}",
            options=options,
            ignored=lambda name: name.endswith("inv_freq") or name.startswith("noise."),
        )
    return denoiser


def read_config(config: dict[str, Any]) -> MDLMConfig:
    """Reads MDLM's or BD3-LM's config.json.

    Raises:
        ConfigError: If a field is missing, or asks for what this network does not have.
    """
    fields = ("vocab_size", "hidden_dim", "n_blocks", "n_heads", "cond_dim", "model_length")
    missing = [name for name in fields if config.get(name) is None]
    if missing:
        raise ConfigError(f"{missing[0]}: expected a value, found none")
    for name, expected in (("causal", False), ("adaln", True)):
        if config.get(name, expected) is not expected:
            raise ConfigError(f"{name}: expected {expected}, found {config[name]!r}")
    blocks = str(config["model_type"]).lower() == "bd3lm"
    rows, width, layers, heads, condition, length = (config[name] for name in fields)
    mask = config.get("mask_index", config.get("mask_token_id"))
    return MDLMConfig(
        rows,
        rows - 1 if mask is None else int(mask),
        width,
        layers,
        heads,
        condition,
        length,
        time_conditioning=bool(config.get("time_conditioning", False)),
        # A block as long as the sequence is no block: plain diffusion.
        block_length=int(config["block_size"]) if blocks else None,
    )
