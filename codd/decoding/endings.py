"""Where texts end: at an end-of-text token, or at one of several token sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def text_lengths(
    tokens: Tensor, mask_id: int, end_id: int | None, stop: Sequence[Sequence[int]]
) -> Tensor:
    """The number of new tokens up to and with the first end before which nothing is masked.

    Args:
        tokens: (B, N) new tokens.
        mask_id: The id of a masked token.
        end_id: The token that ends a text, or None.
        stop: Token sequences that end a text.

    Returns:
        (B,) int64; N where a row has no end yet.
    """
    length = tokens.shape[1]
    ends = torch.zeros_like(tokens, dtype=torch.bool)
    if end_id is not None:
        ends |= tokens == end_id
    for sequence in stop:
        if len(sequence) <= length:
            wanted = torch.tensor(sequence, device=tokens.device)
            found = (tokens.unfold(1, len(sequence), 1) == wanted).all(dim=2)
            ends[:, len(sequence) - 1 :] |= found
    ends &= (tokens != mask_id).cumprod(dim=1).bool()
    return torch.where(ends.any(dim=1), ends.byte().argmax(dim=1) + 1, length)
