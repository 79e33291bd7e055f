"""Tiny networks in the layouts of published ones, random, written to folders."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "he", "is", "from", "new", "york", "san")


def word_tokenizer() -> Tokenizer:
    """One token a word, special ones first."""
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(WORDS[:5]))
    return tokenizer


def write_masked_lm(folder: Path, family: str = "bert", *, seed: int = 0) -> object:
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
