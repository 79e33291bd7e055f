"""LLaDA's and Dream's folders: what their config.json says, and what their tensors are called.

LLaDA (Nie et al. 2025, arXiv 2502.09992) is a Llama with names of its own; Dream (Ye et al. 2025,
arXiv 2508.15487) a Qwen2 whose output at a position is about the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from codd.denoisers.base import LoadOptions
from codd.denoisers.folders import NetworkFolder
from codd.denoisers.llama import LlamaConfig
from codd.denoisers.native import NativeConfig, NativeDenoiser
from codd.denoisers.weights import assign_weights, open_tensors
from codd.errors import CheckpointError, ConfigError

_LLADA_PARTS = {
    "attention_norm": "attn_norm",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "attention_out": "attn_out",
    "mlp_norm": "ff_norm",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
_LLADA_ENDS = {"embedding": "wte", "norm": "ln_f", "head": "ff_out"}
_QWEN_PARTS = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_QWEN_ENDS = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def llada_name(name: str) -> str:
    """LLaDA's name of a parameter of `LlamaNetwork`."""
    return "model.transformer." + _renamed(name, "blocks", _LLADA_PARTS, _LLADA_ENDS)


def dream_name(name: str) -> str:
    """Dream's name, which is Qwen2's, of a parameter of `LlamaNetwork`."""
    return _renamed(name, "model.layers", _QWEN_PARTS, _QWEN_ENDS)


def reads_llada(config: dict[str, Any]) -> bool:
    """Whether a config.json is LLaDA's."""
    return _is_called(config, "llada", "LLaDAModelLM")


def reads_dream(config: dict[str, Any]) -> bool:
    """Whether a config.json is Dream's."""
    return _is_called(config, "dream", "DreamModel")


def read_llada(folder: NetworkFolder, options: LoadOptions) -> NativeDenoiser:
    """Loads LLaDA; none of its remote code is run.

    Raises:
        CheckpointError: If the folder is damaged or describes something else.
    """
    return _read(folder, options, llada_config, llada_name)


def read_dream(folder: NetworkFolder, options: LoadOptions) -> NativeDenoiser:
    """Loads Dream; none of its remote code is run.

    Raises:
        CheckpointError: If the folder is damaged or describes something else.
    """
    return _read(folder, options, dream_config, dream_name)


def llada_config(config: dict[str, Any]) -> NativeConfig:
    """Reads LLaDA's config.json.

    Raises:
        ConfigError: If a field is missing, or asks for what LLaDA does not have.
    """
    _require(config, "block_type", "llama")
    _require(config, "layer_norm_type", "rms")
    _require(config, "activation_type", "silu")
    _require(config, "rope", True, absent=True)
    for name in ("alibi", "attention_layer_norm", "input_emb_norm", "clip_qkv"):
        _require(config, name, False, None, absent=True)
    heads = _field(config, "n_heads")
    own_kv = 1 if config.get("multi_query_attention") else heads
    ratio = config.get("mlp_ratio", 4)
    network = LlamaConfig(
        num_categories=_field(config, "vocab_size"),
        width=_field(config, "d_model"),
        num_layers=_field(config, "n_layers"),
        num_heads=heads,
        num_kv_heads=_or(config.get("n_kv_heads"), own_kv),
        mlp_width=_or(config.get("mlp_hidden_size"), ratio * _field(config, "d_model")),
        max_length=_field(config, "max_sequence_length"),
        embedding_rows=config.get("embedding_size"),
        rope_theta=float(config.get("rope_theta", 10_000.0)),
        norm_eps=float(config.get("rms_norm_eps", 1e-5)),
        qkv_bias=bool(config.get("include_qkv_bias", False)),
        out_bias=bool(config.get("include_bias", False)),
        tied=bool(config.get("weight_tying", False)),
        scale_logits=bool(config.get("scale_logits", False)),
    )
    return NativeConfig(network, _field(config, "mask_token_id"), end_ids=_ends(config))


def dream_config(config: dict[str, Any]) -> NativeConfig:
    """Reads Dream's config.json.

    Raises:
        ConfigError: If a field is missing, or asks for what Dream does not have.
    """
    _require(config, "hidden_act", "silu", absent=True)
    _require(config, "use_sliding_window", False, absent=True)
    _require(config, "rope_scaling", None, absent=True)
    rope = config.get("rope_parameters") or {}
    _require(rope, "rope_type", "default", absent=True)
    heads = _field(config, "num_attention_heads")
    network = LlamaConfig(
        num_categories=_field(config, "vocab_size"),
        width=_field(config, "hidden_size"),
        num_layers=_field(config, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_or(config.get("num_key_value_heads"), heads),
        mlp_width=_field(config, "intermediate_size"),
        max_length=_field(config, "max_position_embeddings"),
        head_size=config.get("head_dim"),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        qkv_bias=bool(config.get("attention_bias", True)),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    mask = _field(config, "mask_token_id")
    return NativeConfig(network, mask, shifted=True, end_ids=_ends(config))


def _read(
    folder: NetworkFolder,
    options: LoadOptions,
    read_config: Callable[[dict[str, Any]], NativeConfig],
    published_name: Callable[[str], str],
) -> NativeDenoiser:
    try:
        config = read_config(folder.config)
    except (TypeError, ValueError, AttributeError) as error:  # ConfigError is a ValueError
        raise CheckpointError(f"{folder.name}: config.json: {error}") from error
    with open_tensors(folder.path) as tensors:
        last = f"blocks.{config.network.num_layers - 1}.query.weight"
        tensors.require({published_name(last)})  # before anything of that many blocks is made
        try:
            with torch.device("meta"):
                denoiser = NativeDenoiser(config)
        except (ConfigError, RuntimeError) as error:  # RuntimeError: sizes that overflow
            raise CheckpointError(f"{folder.name}: config.json: {error}") from error
        assign_weights(
            denoiser.network,
            tensors,
            published_name,
            options=options,
            # Written beside the embedding by some exporters, though it is the same.
            ignored=lambda name: config.network.tied and name == published_name("head.weight"),
        )
    return denoiser


def _renamed(name: str, blocks: str, parts: Mapping[str, str], ends: Mapping[str, str]) -> str:
    inside = re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inside:
        return f"{blocks}.{inside[1]}.{parts[inside[2]]}.{inside[3]}"
    part, _, kind = name.partition(".")
    return f"{ends[part]}.{kind}"


def _is_called(config: dict[str, Any], kind: str, architecture: str) -> bool:
    names: Iterable[Any] = config.get("architectures") or []
    return str(config.get("model_type")).lower() == kind or architecture in names


def _field(config: dict[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise ConfigError(f"{name}: expected a value, found none")
    return config[name]


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value


def _require(config: dict[str, Any], name: str, *expected: Any, absent: bool = False) -> None:
    if absent and name not in config:
        return
    if config.get(name) not in expected:
        raise ConfigError(f"{name}: expected {expected[0]!r}, found {config.get(name)!r}")


def _ends(config: dict[str, Any]) -> tuple[int, ...]:
    found = config.get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    wrong = [each for each in listed if each is not None and type(each) is not int]
    if wrong:
        raise ConfigError(f"eos_token_id: expected ids, found {wrong[0]!r:.60}")
    return tuple(each for each in listed if each is not None)
