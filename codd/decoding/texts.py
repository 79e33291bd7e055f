"""Texts into decoding and out of it: prompts as tokens, the states of a generation as texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from codd.decoding.arguments import given_value, is_given
from codd.decoding.automata import matching
from codd.decoding.records import StepRecord
from codd.vocabulary import Vocabulary

_PACES = ("steps", "tokens_per_step", "quota")
_STEPS = 8


def paced(steps: int | None, options: Mapping[str, Any]) -> int | None:
    """The denoiser calls that are asked for; a default where no option says how fast."""
    if steps is None and not any(is_given(name, options) for name in _PACES):
        return _STEPS
    return steps


def read_texts(
    vocabulary: Vocabulary,
    block_length: int,
    prompts: str | Sequence[str],
    new_tokens: int | None,
    options: Mapping[str, Any],
    device: torch.device,
) -> tuple[list[Tensor], dict[str, Any]]:
    """The prompts' ids, and the options with everything said that has a default here.

    Args:
        vocabulary: Text to tokens.
        block_length: Tokens that are added where nothing says how many.
        prompts: One text or several.
        new_tokens: Tokens to add to each; None if the options say it, or nothing does.
        options: Of `codd.decoding.loop.generate`, `constraint` also as a regular expression.
        device: Where the ids go.

    Raises:
        DecodingError: If the expression is wrong or nothing of this length matches it.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    encoded = [vocabulary.encode(text).to(device) for text in texts]
    if new_tokens is None:
        new_tokens = given_value("new_tokens", options) or block_length
    said = {"new_tokens": new_tokens, **options}
    if isinstance(said.get("constraint"), str):
        end_id = given_value("end_id", options)
        said["constraint"] = matching(said["constraint"], new_tokens, vocabulary, end_id=end_id)
    return encoded, said


def growing_texts(
    vocabulary: Vocabulary, prompts: Sequence[Tensor], records: Iterable[StepRecord]
) -> Iterator[list[str]]:
    """The prompts with what has been written after each step."""
    texts = [vocabulary.decode(row) for row in prompts]
    return (
        [text + vocabulary.decode(row) for text, row in zip(texts, record.tokens, strict=True)]
        for record in records
    )
