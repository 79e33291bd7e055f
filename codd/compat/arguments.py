"""What the drop-in functions share: what decodes, and how their arguments are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.coupling.settings import FACTORISED
from codd.decoding.base import Decodable
from codd.decoding.uncoupled import UncoupledModel
from codd.errors import DecodingError
from codd.model import CoupledModel


def decodable(model: Any, coupling: str | CouplingSettings | None, window: int) -> Decodable:
    """What decodes: a coupled model, or its denoiser alone where the coupling is off.

    Args:
        model: A coupled model, or a denoiser.
        coupling: What a coupled model shall use; "factorised" leaves its circuit out.
        window: Tokens of a window without a circuit.

    Raises:
        DecodingError: If a denoiser shall be coupled.
    """
    if isinstance(model, CoupledModel):
        return UncoupledModel(model.denoiser, window) if coupling == FACTORISED else model
    if coupling not in (None, FACTORISED):
        raise DecodingError(
            f"coupling: a denoiser has no circuit; expected a CoupledModel for {coupling!r}, found "
            f"{type(model).__name__}"
        )
    return UncoupledModel(model, window)


def check_mask(model: Decodable, mask_id: int | None) -> None:
    """Checks a mask that a caller names.

    Raises:
        DecodingError: If the model has another.
    """
    if mask_id is not None and mask_id != model.mask_id:
        raise DecodingError(f"mask_id: expected the model's {model.mask_id}, found {mask_id}")


def read_mask(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(B, P) bool, True at tokens, from a mask of any number type or none.

    Raises:
        DecodingError: If tokens are no (B, P) int64, shapes differ, or a row pads on the right.
    """
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise DecodingError(
            f"tokens: expected int64 of shape (B, P), found {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}"
        )
    if attention_mask is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    if attention_mask.shape != tokens.shape:
        raise DecodingError(
            f"attention_mask: expected shape {tuple(tokens.shape)}, found "
            f"{tuple(attention_mask.shape)}"
        )
    valid = attention_mask.bool()
    if bool((valid[:, :-1] & ~valid[:, 1:]).any()):
        raise DecodingError("attention_mask: expected padding on the left, found some on the right")
    return valid


def seed_of(seed: int | None) -> int:
    """The seed given, or one that torch's global generator draws, as it would be elsewhere."""
    return int(torch.randint(2**31, ())) if seed is None else seed
