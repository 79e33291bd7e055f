"""Fixed-length windows cut from encoded documents."""

from collections.abc import Sequence

import torch
from torch import Tensor

from codd.errors import CorpusError
from codd.vocabulary import Vocabulary

SEPARATOR = "\n\n"


def encode_documents(documents: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """Joins documents by a blank line and encodes them.

    Args:
        documents: Texts.
        vocabulary: What turns text into ids.

    Returns:
        (N,) int64 ids.
    """
    return vocabulary.encode(SEPARATOR.join(documents))


def sample_windows(tokens: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws windows at uniformly random offsets; they may straddle documents.

    Args:
        tokens: (N,) ids.
        length: L, tokens a window.
        count: B, windows.
        generator: Source of the offsets.

    Returns:
        (B, L) int64 ids.

    Raises:
        CorpusError: If there are fewer than L tokens.
    """
    _check_length(tokens, length)
    offsets = torch.randint(len(tokens) - length + 1, (count, 1), generator=generator)
    return tokens[offsets + torch.arange(length)]


def evaluation_windows(tokens: Tensor, length: int) -> Tensor:
    """Cuts the text into windows that do not overlap; the incomplete tail is left out.

    Args:
        tokens: (N,) ids.
        length: L, tokens a window.

    Returns:
        (N // L, L) int64 ids.

    Raises:
        CorpusError: If there are fewer than L tokens.
    """
    _check_length(tokens, length)
    return tokens[: len(tokens) // length * length].view(-1, length)


def _check_length(tokens: Tensor, length: int) -> None:
    if len(tokens) < length:
        raise CorpusError(
            f"tokens: expected at least one window of {length} tokens, found {len(tokens)}"
        )
