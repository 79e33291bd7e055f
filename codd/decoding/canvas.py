"""Ragged prompts and the tokens to generate, laid out as one rectangle.

Prompts are padded on the left, so that the new tokens of all rows stand in the same columns.
Padding holds the mask id: the denoiser does not attend to it and a circuit sums it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, eq=False)
class Canvas:
    """Prompts and new tokens of a batch.

    Attributes:
        tokens: (B, P + N) int64 ids: padding and prompt in P columns, then N new tokens.
        valid: (B, P + N) bool, False at padding.
        prompt_length: P.
    """

    tokens: Tensor
    valid: Tensor
    prompt_length: int


def lay_out(
    prompts: Sequence[Tensor], new_tokens: int, *, context: int, least: int, mask_id: int
) -> Canvas:
    """Builds the canvas with every new token masked.

    Args:
        prompts: (P_b,) int64 ids of each row.
        new_tokens: N.
        context: Prompt tokens that can ever be seen; earlier ones are left out.
        least: The smallest P.
        mask_id: The id of a masked token.
    """
    seen = [prompt[max(0, len(prompt) - context) :] for prompt in prompts]
    length = max(least, *(len(prompt) for prompt in seen))
    device = prompts[0].device
    width = torch.empty(length, dtype=torch.int64, device=device)  # sets the width of the padding
    padded = pad_sequence([width, *seen], True, mask_id, padding_side="left")[1:]
    new = torch.full((len(seen), new_tokens), mask_id, device=device)
    lengths = torch.tensor([len(prompt) for prompt in seen], device=device)
    columns = torch.arange(length + new_tokens, device=device)
    tokens = torch.cat((padded, new), dim=1)
    valid = columns >= length - lengths.unsqueeze(1)
    return Canvas(tokens=tokens, valid=valid, prompt_length=length)
