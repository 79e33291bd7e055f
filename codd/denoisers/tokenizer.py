"""The tokenizer that lies in a published network's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codd.errors import CheckpointError, VocabularyError
from codd.vocabulary import PublishedVocabulary

_DESCRIPTION = "tokenizer.json"
_BYTE_PAIRS = ("vocab.json", "merges.txt")
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>")  # LLaDA's and Llama's; Dream's and Qwen's


def read_tokenizer(
    folder: Path, *, num_categories: int, mask_id: int
) -> PublishedVocabulary | None:
    """Reads a folder's tokenizer; none of its remote code is run.

    Args:
        folder: With `tokenizer.json`; or with `vocab.json` and `merges.txt` as Dream's and Qwen2's,
            which transformers turns into one (extra `hub`).
        num_categories: V of the network.
        mask_id: The network's id of a hidden token.

    Returns:
        The vocabulary; None if no tokenizer lies there.

    Raises:
        CheckpointError: If it is damaged, or has more tokens than the network.
    """
    try:
        if (folder / _DESCRIPTION).is_file():
            text = (folder / _DESCRIPTION).read_text(encoding="utf-8")
        elif all((folder / name).is_file() for name in _BYTE_PAIRS):
            text = _byte_pairs(folder)
        else:
            return None
        # Through JSON and back, as the vocabulary is stored: its fingerprint must not differ.
        text = json.dumps(json.loads(text))
        return PublishedVocabulary(text, num_categories, mask_id)
    except (VocabularyError, ValueError, OSError) as error:  # ValueError: no JSON, or no UTF-8
        raise CheckpointError(f"{folder}: tokenizer: {error}") from error


def turn_ends(vocabulary: PublishedVocabulary) -> tuple[int, ...]:
    """Ids of the tokens that end a turn of a conversation, of those that published networks use."""
    listed = json.loads(vocabulary.tokenizer_json).get("added_tokens") or []
    ids = {str(token.get("content")): int(token["id"]) for token in listed}
    return tuple(ids[name] for name in _TURN_ENDS if name in ids)


def _byte_pairs(folder: Path) -> str:
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"{folder}: expected the package 'transformers' to read {' and '.join(_BYTE_PAIRS)}, "
            "found none; install the extra `hub`"
        ) from error
    library: Any = transformers  # its names are made when they are asked for
    tokenizer = library.Qwen2TokenizerFast.from_pretrained(folder)
    return str(tokenizer.backend_tokenizer.to_str())
