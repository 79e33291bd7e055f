"""One window of each row of a batch: what the denoiser said of it, and what is visible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codd.denoisers.base import DenoiserOutput
from codd.errors import DenoiserError


@dataclass(frozen=True, eq=False)
class Window:
    """What the denoiser said of one window of each row.

    Attributes:
        denoised: (B, W, V) log-probabilities, (B, W) tokens, (B, W) whether they are visible.
        hidden: (B, W, D) hidden states.
        valid: (B, W) bool, False at padding; None without any.
        include: (B, W) tokens to be listed; None without any.
    """

    denoised: tuple[Tensor, Tensor, Tensor]
    hidden: Tensor
    valid: Tensor | None
    include: Tensor | None

    def take(self, rows: Tensor) -> Window:
        """Some of the rows."""
        log_probs, values, observed = self.denoised
        return Window(
            (log_probs[rows], values[rows], observed[rows]),
            self.hidden[rows],
            None if self.valid is None else self.valid[rows],
            None if self.include is None else self.include[rows],
        )


def read_window(
    output: DenoiserOutput,
    tokens: Tensor,
    start: Tensor,
    length: int,
    *,
    mask_id: int,
    valid: Tensor | None = None,
    include: Tensor | None = None,
) -> Window:
    """Cuts a window out of every row; where it starts is not checked, since that would wait.

    Args:
        output: What the denoiser said of `tokens`.
        tokens: (B, L) tokens; all but the mask are visible.
        start: (B,) first position of each row's window.
        length: W, tokens of a window.
        mask_id: The id of a masked token.
        valid: (B, L) bool, False at padding; None without any.
        include: (B, L) tokens to be listed; None without any.
    """
    index = start[:, None] + torch.arange(length, device=tokens.device)
    values = tokens.gather(1, index)
    logits, hidden = (_take(tensor, index) for tensor in (output.logits, output.hidden))
    own = None if valid is None else valid.gather(1, index)
    observed = values != mask_id if own is None else (values != mask_id) & own
    listed = None if include is None else include.gather(1, index)
    denoised = (logits.float().log_softmax(-1), values, observed)
    return Window(denoised, hidden.float(), own, listed)


def check_start(start: Tensor, length: int, tokens: Tensor) -> None:
    """Checks that windows of some length that start at (B,) lie inside of tokens (B, L).

    Raises:
        DenoiserError: If a window leaves the sequence.
    """
    if bool(((start < 0) | (start + length > tokens.shape[1])).any()):
        raise DenoiserError(
            f"windows of {length} tokens start at {start.tolist()}; "
            f"the sequence has {tokens.shape[1]}"
        )


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """(B, W, ...) of (B, L, ...) at positions (B, W)."""
    return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[2]))
