"""Checks of the token ids and constraints that decoding is given."""

from collections.abc import Sequence

import torch
from torch import Tensor

import pcircuits as pc
from codd.decoding.base import Decodable
from codd.errors import DecodingError


def check_prompts(prompts: Sequence[Tensor], num_categories: int) -> None:
    """Checks that prompts are lists of visible tokens.

    Args:
        prompts: Ids of each row.
        num_categories: V.

    Raises:
        DecodingError: If there is none, or one is no (P,) int64 tensor of ids in [0, V), or two
            lie on different devices.
    """
    _check_rows("prompts", prompts)
    _check_ids("prompts", prompts, num_categories, mask_id=None)


def check_sequences(sequences: Sequence[Tensor], steps: int | None, model: Decodable) -> None:
    """Checks that sequences hold visible and masked tokens and fit the model.

    Args:
        sequences: Ids of each row.
        steps: Denoiser calls, or None.
        model: What shall fill them.

    Raises:
        DecodingError: If there is none, or one is no (L,) int64 tensor of at most `max_length`
            ids in [0, V) or equal to the mask id, or two lie on different devices, or no row has
            as many masked tokens as there are steps.
    """
    _check_rows("sequences", sequences)
    longest = max(range(len(sequences)), key=lambda i: len(sequences[i]))
    if len(sequences[longest]) > model.max_length:
        raise DecodingError(
            f"sequences[{longest}]: expected at most {model.max_length} tokens, "
            f"found {len(sequences[longest])}"
        )
    _check_ids("sequences", sequences, model.num_categories, model.mask_id)
    most = max(int((sequence == model.mask_id).sum()) for sequence in sequences)
    if steps is not None and not 1 <= steps <= most:
        raise DecodingError(
            f"steps: expected 1 to {most}, the most masked tokens of a sequence, found {steps}"
        )


def check_constraint(constraint: pc.Circuit, new_tokens: int) -> None:
    """Checks that a constraint is about all new tokens.

    Raises:
        DecodingError: If it is not.
    """
    if constraint.num_variables != new_tokens:
        raise DecodingError(
            f"constraint: expected one over the {new_tokens} new tokens, found "
            f"{constraint.num_variables}"
        )


def _check_rows(name: str, rows: Sequence[Tensor]) -> None:
    if not len(rows):
        raise DecodingError(f"{name}: expected at least one, found none")
    for i, row in enumerate(rows):
        if row.dim() != 1 or row.dtype != torch.int64:
            raise DecodingError(
                f"{name}[{i}]: expected int64 of one dimension, found {row.dtype} of shape "
                f"{tuple(row.shape)}"
            )
        if row.device != rows[0].device:
            raise DecodingError(
                f"{name}[{i}]: expected device {rows[0].device}, found {row.device}"
            )


def _check_ids(name: str, rows: Sequence[Tensor], num_categories: int, mask_id: int | None) -> None:
    ids = torch.cat(tuple(rows))
    wrong = ids != ids.clamp(0, num_categories - 1)
    if mask_id is not None:
        wrong &= ids != mask_id
    if not bool(wrong.any()):
        return
    place = int(wrong.byte().argmax())
    ends = torch.tensor([len(row) for row in rows]).cumsum(dim=0)
    also = "" if mask_id is None else f" or the mask id {mask_id}"
    raise DecodingError(
        f"{name}[{int((ends <= place).sum())}]: expected ids 0 to {num_categories - 1}{also}, "
        f"found {int(ids[place])}"
    )
