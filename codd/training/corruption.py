"""Masking: which tokens of a window the denoiser must predict.

The forward process of masked diffusion hides every token independently with probability t
(Sahoo et al. 2024, arXiv 2406.07524). A part of the windows keeps its first tokens visible, so the
denoiser also learns to complete a block after a clean prompt, which is how it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CorruptedBatch:
    """Windows with some tokens masked.

    Attributes:
        tokens: (B, L) ids with `mask_id` where masked: what the denoiser sees.
        targets: (B, L) the clean ids.
        masked: (B, L) bool, True where masked.
        ratio: (B,) the mask ratio t in (0, 1] each window was drawn with.
        candidates: (B,) number of positions that could have been masked.
    """

    tokens: Tensor
    targets: Tensor
    masked: Tensor
    ratio: Tensor
    candidates: Tensor

    def select(self, rows: Tensor) -> "CorruptedBatch":
        """Some of the windows."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> "CorruptedBatch":
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "CorruptedBatch":
        return CorruptedBatch(
            change(self.tokens),
            change(self.targets),
            change(self.masked),
            change(self.ratio),
            change(self.candidates),
        )


def stratified_ratios(count: int, generator: torch.Generator) -> Tensor:
    """Mask ratios that cover (0, 1] evenly: one uniform shift of a regular grid.

    The low-variance sampler of Kingma et al. 2021 (arXiv 2107.00630, section I.1).

    Args:
        count: B.
        generator: Source of the shift.

    Returns:
        (B,) float32, increasing but for the wrap-around.
    """
    shift = torch.rand(1, generator=generator)
    return 1.0 - (shift + torch.arange(count) / count) % 1.0


def prompted_rows(count: int, fraction: float) -> Tensor:
    """Spreads `fraction` of the rows evenly, so that they see all mask ratios too.

    Args:
        count: B.
        fraction: Share of rows that keep a prompt, in [0, 1].

    Returns:
        (B,) bool with round-down(B * fraction) rows True.
    """
    steps = torch.floor(torch.arange(count + 1, dtype=torch.float64) * fraction)
    return steps[1:] > steps[:-1]


def corrupt(
    targets: Tensor,
    ratio: Tensor,
    prompted: Tensor,
    *,
    block_length: int,
    mask_id: int,
    generator: torch.Generator,
) -> CorruptedBatch:
    """Masks every candidate position independently with its window's ratio.

    Args:
        targets: (B, L) clean ids.
        ratio: (B,) t in (0, 1].
        prompted: (B,) bool; True keeps all but the last `block_length` tokens visible.
        block_length: Tokens of the block at the window's end.
        mask_id: The id of a masked token.
        generator: Source of the masks.

    Returns:
        The batch as the denoiser sees it, and what it must predict.
    """
    length = targets.shape[1]
    in_block = torch.arange(length) >= length - block_length
    candidate = in_block | ~prompted[:, None]  # (B, L)
    hit = torch.rand(targets.shape, generator=generator) < ratio[:, None]
    masked = hit & candidate
    return CorruptedBatch(
        tokens=targets.masked_fill(masked, mask_id),
        targets=targets,
        masked=masked,
        ratio=ratio,
        candidates=candidate.sum(dim=1),
    )


@dataclass(frozen=True)
class WindowTask:
    """How text becomes the circuit's task: what is masked, and where its window lies.

    Attributes:
        window: Tokens W that the circuit couples.
        block_length: Tokens that a window with a prompt may have masked, at its end.
        mask_id: The id of a masked token.
        prompt_fraction: Share of sequences of which only the last block is masked.
    """

    window: int
    block_length: int
    mask_id: int
    prompt_fraction: float

    def draw(self, sequences: Tensor, generator: torch.Generator) -> tuple[CorruptedBatch, Tensor]:
        """Corrupts sequences and chooses windows: at the end after a prompt, else anywhere.

        Args:
            sequences: (B, L) clean ids, L >= W.
            generator: Source of mask ratios, masks and windows.

        Returns:
            The corrupted sequences, and (B,) the first position of each one's window.
        """
        count, length = sequences.shape
        prompted = prompted_rows(count, self.prompt_fraction)
        batch = corrupt(
            sequences,
            stratified_ratios(count, generator),
            prompted,
            block_length=self.block_length,
            mask_id=self.mask_id,
            generator=generator,
        )
        latest = length - self.window
        anywhere = torch.randint(0, latest + 1, (count,), generator=generator)
        return batch, torch.where(prompted, latest, anywhere)
