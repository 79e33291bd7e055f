"""Tiny networks in the layouts of published ones, random, written to folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "he", "is", "from", "new", "york", "san")


def word_tokenizer() -> Tokenizer:
    """One token a word, special ones first."""
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(WORDS[:5]))
    return tokenizer


def write_masked_lm(folder: Path, family: str = "bert", *, seed: int = 0) -> Any:
    """A tiny masked language model of transformers and its tokenizer; returns the network."""
    import transformers

    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    }
    config = transformers.AutoConfig.for_model(family, **sizes)
    torch.manual_seed(seed)
    network = transformers.AutoModelForMaskedLM.from_config(config)
    for weight in network.parameters():
        weight.data.normal_(0.0, 0.3)
    network.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return network.eval()


def write_sharded(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """A folder as published: config.json, shards of three tensors each, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    groups = [names[i : i + 3] for i in range(0, len(names), 3)]
    weight_map = {}
    for i, group in enumerate(groups, 1):
        file = f"model-{i:05}-of-{len(groups):05}.safetensors"
        save_file({name: tensors[name].contiguous() for name in group}, folder / file)
        weight_map |= dict.fromkeys(group, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


LLADA = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "clip_qkv": None,
    "d_model": 24,
    "n_heads": 6,
    "n_kv_heads": 6,
    "n_layers": 3,
    "mlp_hidden_size": 40,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "vocab_size": 29,
    "embedding_size": 32,
    "max_sequence_length": 64,
    "weight_tying": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "scale_logits": False,
    "mask_token_id": 26,
    "eos_token_id": 21,
    "pad_token_id": 21,
}
DREAM = {
    "architectures": ["DreamModel"],
    "model_type": "Dream",
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-6,
    "vocab_size": 31,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "mask_token_id": 27,
    "eos_token_id": 22,
    "pad_token_id": 22,
}


def write_llada(folder: Path, *, seed: int = 0, **changes: Any) -> Any:
    """A tiny random LLaDA; returns transformers' own Llama of the same weights."""
    import transformers

    config = {**LLADA, **changes}
    oracle = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config["embedding_size"],
            hidden_size=config["d_model"],
            intermediate_size=config["mlp_hidden_size"],
            num_hidden_layers=config["n_layers"],
            num_attention_heads=config["n_heads"],
            num_key_value_heads=config["n_kv_heads"],
            max_position_embeddings=config["max_sequence_length"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_theta=config["rope_theta"],
            attention_bias=config["include_bias"],
            mlp_bias=config["include_bias"],
            tie_word_embeddings=config["weight_tying"],
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    )
    tensors = _randomised(oracle, seed)
    renamed = {_llada_key(name): tensor for name, tensor in tensors.items()}
    write_sharded(folder, renamed, config)
    return oracle.eval()


def write_dream(folder: Path, *, seed: int = 0, **changes: Any) -> Any:
    """A tiny random Dream; returns transformers' own Qwen2 of the same weights."""
    import transformers

    config = {**DREAM, **changes}
    named = {name: config[name] for name in DREAM if name not in ("architectures", "model_type")}
    named |= {"pad_token_id": None, "eos_token_id": None, "bos_token_id": None}
    oracle = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**named, attn_implementation="eager")
    )
    tensors = _randomised(oracle, seed)
    write_sharded(folder, tensors, config)
    return oracle.eval()


@torch.no_grad()
def full_attention(oracle: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and last states of a causal network of transformers when every token sees all."""
    batch, length = tokens.shape
    everything = torch.zeros(batch, 1, length, length, dtype=next(oracle.parameters()).dtype)
    found = oracle(input_ids=tokens, attention_mask=everything, output_hidden_states=True)
    return found.logits, found.hidden_states[-1]


def _randomised(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random weights, norms and biases too; what is tied is written once."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            weight.normal_(centre, 0.3, generator=generator)
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def _llada_key(name: str) -> str:
    """LLaDA's name of a parameter that Llama calls `name`."""
    for llama, llada in _LLAMA_TO_LLADA:
        name = re.sub(llama, llada, name)
    return name


# The output head and a block's last layer share a name.
_LLAMA_TO_LLADA = (
    (r"^model\.embed_tokens\.", "model.transformer.wte."),
    (r"^model\.norm\.", "model.transformer.ln_f."),
    (r"^lm_head\.", "model.transformer.ff_out."),
    (r"^model\.layers\.", "model.transformer.blocks."),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ff_norm."),
    (r"\.self_attn\.o_proj\.", ".attn_out."),
    (r"\.self_attn\.", "."),
    (r"\.mlp\.gate_proj\.", ".ff_proj."),
    (r"\.mlp\.up_proj\.", ".up_proj."),
    (r"\.mlp\.down_proj\.", ".ff_out."),
)
