"""Which positions see which, and which output is about which: padding, blocks, shifts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codd.denoisers.key_values import Span


def visible_positions(
    length: int,
    span: Span,
    attention_mask: Tensor | None,
    block_length: int | None,
    device: torch.device,
) -> Tensor | None:
    """Says for each position of a span what it sees.

    Args:
        length: L, positions that have keys.
        span: The n positions that look.
        attention_mask: (B, >= L) bool, False at padding; None without any.
        block_length: Tokens of a block under a block-causal mask; None if all see all. Padding is
            no token: blocks are counted from each row's first one.
        device: Where the result shall be.

    Returns:
        (B or 1, 1, n or 1, L) bool, True where seen; None if everything is.
    """
    valid = None if attention_mask is None else attention_mask[:, :length]
    seen = None if valid is None else valid[:, None, None, :]
    if block_length is None:
        return seen
    blocks = block_numbers(length, block_length, attention_mask, device)
    looking = blocks[:, span.start : span.stop]
    earlier = (blocks[:, None, :] <= looking[:, :, None])[:, None]
    return earlier if seen is None else earlier & seen


def block_numbers(
    length: int, block_length: int, attention_mask: Tensor | None, device: torch.device
) -> Tensor:
    """(B or 1, L) the block of each position; padding counts as in the first token's."""
    if attention_mask is None:
        return torch.arange(length, device=device)[None] // block_length
    return (attention_mask[:, :length].long().cumsum(dim=1) - 1).clamp(min=0) // block_length


def block_start(position: int, block_length: int | None, attention_mask: Tensor | None) -> int:
    """The last position at or before `position` where a block begins in no row later.

    What stands before it sees nothing from it on, so its keys and values are final once its
    tokens are. Without blocks that is `position` itself.

    Args:
        position: A position of the sequence.
        block_length: Tokens of a block, or None.
        attention_mask: (B, L) bool, False at padding; None without any.
    """
    if block_length is None:
        return position
    if attention_mask is None:
        return position - position % block_length
    before = attention_mask[:, :position].sum(dim=1)
    return max(0, position - int((before % block_length).max()))


def aligned(found: Tensor, begins_before: bool, attention_mask: Tensor | None) -> Tensor:
    """Moves a shifted network's outputs to the positions that they are about.

    Args:
        found: (B, n, .) outputs up to the last position; the one at i - 1 is about token i.
        begins_before: Whether the first is only there to say the second token; if not, it is at
            the sequence's first position, whose token keeps its own output.
        attention_mask: (B, L) bool, False at padding, up to the last position; None without any. A
            row's first token after padding keeps its own output too.

    Returns:
        (B, n - 1, .) if `begins_before`, else (B, n, .).
    """
    if not begins_before:
        found = torch.cat((found[:, :1], found), dim=1)
    moved, own = found[:, :-1], found[:, 1:]
    if attention_mask is None:
        return moved
    before = F.pad(attention_mask, (1, 0))[:, :-1]
    first = (attention_mask & ~before)[:, -moved.shape[1] :]
    return torch.where(first[..., None], own, moved)
