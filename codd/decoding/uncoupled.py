"""A denoiser alone, decodable without a circuit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import FactorisedDistribution, TokenDistribution
from codd.coupling.settings import FACTORISED
from codd.decoding.holding import HoldsDenoiser
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError


class UncoupledModel(HoldsDenoiser):
    """A denoiser that is decoded by its own factorised output; a `Decodable`.

    Args:
        denoiser: A module with the `Denoiser` protocol.
        block: Tokens W of a block, at most the denoiser's longest sequence.

    Raises:
        DecodingError: If the block is impossible.
    """

    def __init__(self, denoiser: nn.Module, block: int) -> None:
        self.denoiser = denoiser
        self.block = block
        if not 1 <= block <= self.max_length:
            raise DecodingError(f"block: expected 1 to {self.max_length}, found {block}")

    @property
    def window(self) -> int:
        """W; a block, for lack of anything that reaches further."""
        return self.block

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
    ) -> TokenDistribution:
        """The independent tokens of one window of each row.

        Args:
            output: What the denoiser said of `tokens`.
            tokens: (B, L) ids; every token other than `mask_id` is visible.
            start: (B,) first position of each row's window.
            coupling: None or "factorised".
            valid: (B, L) bool, False at padding.

        Raises:
            DecodingError: If a coupling is asked for.
        """
        kind = coupling.kind if isinstance(coupling, CouplingSettings) else coupling
        if kind not in (None, FACTORISED):
            raise DecodingError(
                f"coupling: expected {FACTORISED!r} without a circuit, found {kind!r}"
            )
        index = start[:, None] + torch.arange(self.window, device=tokens.device)
        values = tokens.gather(1, index)
        logits = output.logits.gather(1, index[..., None].expand(-1, -1, self.num_categories))
        own = None if valid is None else valid.gather(1, index)
        observed = values != self.mask_id if own is None else (values != self.mask_id) & own
        return FactorisedDistribution(logits.float().log_softmax(dim=-1), values, observed, own)
