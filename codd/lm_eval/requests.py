"""What a request of the harness asks for, read as decoding options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codd.decoding.arguments import SPELLINGS, is_given
from codd.decoding.loop import generate
from codd.errors import EvaluationError
from codd.vocabulary import Vocabulary

_NOT_OPTIONS = {
    *("model", "prompts", "constraint", "end_id", "stop", "spellings"),
    *("callback", "record_history", "log_probs"),
}
OPTIONS = frozenset(inspect.signature(generate).parameters) - _NOT_OPTIONS
"""Names of `codd.generate`'s arguments that may be given."""

# These draw whole windows at temperature 1; every other sampler is greedy unless a task samples.
_UNTEMPERED = ("exact", "map")


@dataclass(frozen=True)
class DecodingRequest:
    """How to continue the texts of some requests.

    Attributes:
        new_tokens: Tokens to generate, a multiple of the block.
        kept: Of these, the tokens that the task has room for.
        until: Texts that end a continuation.
        options: The other arguments of `codd.generate`.
    """

    new_tokens: int
    kept: int
    until: tuple[str, ...]
    options: Mapping[str, Any]


def check_options(options: Mapping[str, Any]) -> None:
    """Checks that decoding options have names that `codd.generate` knows, in any spelling.

    Raises:
        EvaluationError: If one does not.
    """
    other = [n for n in options if n not in OPTIONS and SPELLINGS.get(n) not in OPTIONS]
    if other:
        raise EvaluationError(
            f"{other[0]}: expected one of {', '.join(sorted(OPTIONS))}, or another spelling of "
            "one; found none of them"
        )


def read_request(given: Mapping[str, Any], asked: Mapping[str, Any], block: int) -> DecodingRequest:
    """Joins what the user and the task say.

    The user's options hold. Of the task's, `until` and the number of tokens are taken; it is greedy
    unless it says `do_sample`, and then its temperature and top-p count.

    Args:
        given: Decoding options of the command line.
        asked: The request's generation arguments, as the harness normalises them.
        block: The model's own block length.

    Raises:
        EvaluationError: If the task has an argument that means nothing here.
    """
    asked = dict(asked)
    until = tuple(text for text in asked.pop("until") if text)
    room, sample = asked.pop("max_gen_toks"), asked.pop("do_sample")
    temperature, top_p = asked.pop("temperature", 1.0), asked.pop("top_p", None)
    check_options(asked)
    options = {"sampler": "any_order", **given, **asked}
    if not is_given("temperature", options):
        greedy = 0.0 if options["sampler"] not in _UNTEMPERED else 1.0
        options["temperature"] = temperature if sample else greedy
        if sample and top_p is not None and not is_given("top_p", options):
            options["top_p"] = top_p
    if not any(is_given(name, options) for name in ("steps", "tokens_per_step", "quota")):
        options["tokens_per_step"] = 1
    room = _taken(options, "new_tokens", room)
    return DecodingRequest(_rounded(options, room, block), room, until, options)


def stop_sequences(until: Sequence[str], vocabulary: Vocabulary) -> list[list[int]]:
    """Token sequences that end a text early, for those texts that have one.

    A vocabulary may write the same text in several ways or not at all: the text is cut at its end
    anyway, this only saves work.

    Args:
        until: Texts that end a continuation.
        vocabulary: Text to ids.
    """
    encoded = [vocabulary.encode(text) for text in until]
    return [
        ids.tolist()
        for text, ids in zip(until, encoded, strict=True)
        if len(ids) and vocabulary.decode(ids) == text
    ]


def cut_at(text: str, until: Sequence[str]) -> str:
    """The part of a text before the first of some others."""
    places = [text.find(other) for other in until]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def encode_pair(vocabulary: Vocabulary, context: str, continuation: str) -> tuple[Tensor, Tensor]:
    """Encodes a text in two parts, as it would be encoded whole.

    Blanks between the two belong to the second, as everywhere in the harness. Where the vocabulary
    would join them in one token, each is encoded by itself.

    Args:
        vocabulary: Text to ids.
        context: May be empty.
        continuation: What follows it.

    Returns:
        (C,) and (N,) int64 ids.
    """
    bare = context.rstrip()
    continuation, context = context[len(bare) :] + continuation, bare
    first, whole = vocabulary.encode(context), vocabulary.encode(context + continuation)
    if torch.equal(whole[: len(first)], first):
        return first, whole[len(first) :]
    return first, vocabulary.encode(continuation)


def _taken(options: dict[str, Any], name: str, default: int) -> int:
    """Takes an integer argument out of the options, in whatever spelling."""
    spellings = [name, *(other for other, own in SPELLINGS.items() if own == name)]
    values = [options.pop(spelling, None) for spelling in spellings]
    return next((int(value) for value in values if value is not None), default)


def _rounded(options: Mapping[str, Any], room: int, block: int) -> int:
    """The smallest multiple of the block that has room for the tokens."""
    if options.get("mode", "block") != "block":
        return room
    length = options.get("block_length") or options.get("block_size") or block
    return -(-room // length) * length
