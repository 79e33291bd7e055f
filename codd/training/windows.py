"""Fixed-length windows cut from encoded documents.

Text is one stream of tokens, of which a window may begin anywhere; or it is rows, examples of equal
length, of which a window is the end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from codd.errors import CorpusError
from codd.vocabulary import Vocabulary

SEPARATOR = "\n\n"


def encode_documents(documents: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    r"""Joins documents by a blank line and encodes them.

    Args:
        documents: Texts.
        vocabulary: What turns text into ids.

    Returns:
        (N,) int64 ids.

    Examples:
        >>> from codd.training import encode_documents
        >>> vocabulary = codd.CharacterVocabulary.from_text(["ab\n"], min_count=1)
        >>> tokens = encode_documents(["ab", "ba"], vocabulary)  # apart by a blank line
        >>> vocabulary.decode(tokens)
        'ab\n\nba'
    """
    return vocabulary.encode(SEPARATOR.join(documents))


def encode_rows(documents: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """Encodes each document as a row.

    Args:
        documents: Texts of equally many tokens.
        vocabulary: What turns text into ids.

    Returns:
        (N, R) int64 ids.

    Raises:
        CorpusError: If there is none, or one has another length than the first.
    """
    rows = [vocabulary.encode(document) for document in documents]
    if not rows:
        raise CorpusError("rows: expected at least one document, found none")
    for row, document in zip(rows, documents, strict=True):
        if len(row) != len(rows[0]):
            raise CorpusError(
                f"rows: expected {len(rows[0])} tokens in every document, as in the first; found "
                f"{len(row)} in {document[:40]!r}"
            )
    return torch.stack(rows)


def encode_split(documents: Sequence[str], vocabulary: Vocabulary, *, rows: bool) -> Tensor:
    """Encodes documents as rows (N, R), or else as one stream (N,)."""
    return (encode_rows if rows else encode_documents)(documents, vocabulary)


def sample_windows(tokens: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws windows: of a stream at random offsets, across documents; of rows their ends.

    Args:
        tokens: (N,) ids of a stream, or (N, R) of rows.
        length: L, tokens a window.
        count: B, windows.
        generator: Source of the offsets.

    Returns:
        (B, L) int64 ids.

    Raises:
        CorpusError: If there are fewer than L tokens.

    Examples:
        >>> from codd.training import sample_windows
        >>> windows = sample_windows(torch.arange(100), 4, 3, torch.Generator().manual_seed(0))
        >>> windows.shape, bool((windows.diff(dim=1) == 1).all())
        (torch.Size([3, 4]), True)
    """
    _check_length(tokens, length)
    if tokens.dim() == 2:
        chosen = torch.randint(len(tokens), (count,), generator=generator)
        return tokens[chosen, tokens.shape[1] - length :]
    offsets = torch.randint(len(tokens) - length + 1, (count, 1), generator=generator)
    return tokens[offsets + torch.arange(length)]


def evaluation_windows(tokens: Tensor, length: int) -> Tensor:
    """Cuts a stream into windows that do not overlap, without the incomplete tail; rows' ends.

    Args:
        tokens: (N,) ids of a stream, or (N, R) of rows.
        length: L, tokens a window.

    Returns:
        (N // L, L) int64 ids; (N, L) of rows.

    Raises:
        CorpusError: If there are fewer than L tokens.

    Examples:
        >>> from codd.training import evaluation_windows
        >>> evaluation_windows(torch.arange(10), 4).tolist()  # the last two are left out
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    _check_length(tokens, length)
    if tokens.dim() == 2:
        return tokens[:, tokens.shape[1] - length :]
    return tokens[: len(tokens) // length * length].view(-1, length)


def _check_length(tokens: Tensor, length: int) -> None:
    found = tokens.shape[-1]
    if found < length:
        raise CorpusError(f"tokens: expected at least one window of {length} tokens, found {found}")
