"""The loss of masked diffusion and the figures it is judged by."""

import torch
import torch.nn.functional as F
from torch import Tensor

from codd.denoisers.base import Denoiser
from codd.training.corruption import CorruptedBatch, corrupt, prompted_rows, stratified_ratios


def masked_cross_entropy(logits: Tensor, batch: CorruptedBatch) -> Tensor:
    """The cross entropy of every masked token.

    Args:
        logits: (B, L, V).
        batch: The corrupted windows.

    Returns:
        (B, L) nats, zero where visible.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return losses.view_as(batch.targets) * batch.masked


def plain_loss(logits: Tensor, batch: CorruptedBatch) -> Tensor:
    """Mean cross entropy over the masked tokens, every one counted once.

    It has no rare large weights, so training on it first gets a small network past predicting
    character frequencies.

    Args:
        logits: (B, L, V).
        batch: The corrupted windows.

    Returns:
        A scalar in nats per masked token; zero if nothing is masked.
    """
    return masked_cross_entropy(logits, batch).sum() / batch.masked.sum().clamp(min=1)


def diffusion_loss(logits: Tensor, batch: CorruptedBatch) -> Tensor:
    """The bound on the negative log-likelihood per token, continuous time, linear masking.

    The mean over windows of (sum of the masked tokens' cross entropies) / (t * candidates)
    (Sahoo et al. 2024, arXiv 2406.07524, equation 10). The weight stops growing below one
    expected mask a window, where it would only add variance.

    Args:
        logits: (B, L, V).
        batch: The corrupted windows.

    Returns:
        A scalar in nats per token.
    """
    expected = (batch.ratio * batch.candidates).clamp(min=1.0)
    return (masked_cross_entropy(logits, batch).sum(dim=1) / expected).mean()


def validation_loss(
    denoiser: Denoiser,
    windows: Tensor,
    *,
    block_length: int,
    prompt_fraction: float,
    seed: int = 0,
    batch_size: int = 64,
) -> float:
    """The diffusion loss at masks that `seed` fixes, so that two networks compare fairly.

    Args:
        denoiser: The network.
        windows: (N, L) clean ids.
        block_length: Tokens of the block that follows a prompt.
        prompt_fraction: Share of windows with a visible prompt.
        seed: Seed of the mask ratios and masks.
        batch_size: Windows a call.

    Returns:
        Nats per token.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(windows)
    ratios = stratified_ratios(count, generator)
    batch = corrupt(
        windows,
        ratios[torch.randperm(count, generator=generator)],
        prompted_rows(count, prompt_fraction),
        block_length=block_length,
        mask_id=denoiser.mask_id,
        generator=generator,
    )
    expected = (batch.ratio * batch.candidates).clamp(min=1.0)
    return float((_row_losses(denoiser, batch, batch_size) / expected).mean())


def loss_at_ratio(
    denoiser: Denoiser,
    windows: Tensor,
    ratio: float,
    *,
    block_length: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> float:
    """Mean cross entropy per masked token at one mask ratio, at masks that `seed` fixes.

    Args:
        denoiser: The network.
        windows: (N, L) clean ids.
        ratio: t in (0, 1].
        block_length: Mask only the last tokens, the rest is a visible prompt; None masks anywhere.
        seed: Seed of the masks.
        batch_size: Windows a call.

    Returns:
        Nats per masked token.
    """
    count = len(windows)
    batch = corrupt(
        windows,
        torch.full((count,), ratio),
        torch.full((count,), block_length is not None),
        block_length=block_length or windows.shape[1],
        mask_id=denoiser.mask_id,
        generator=torch.Generator().manual_seed(seed),
    )
    total = float(_row_losses(denoiser, batch, batch_size).sum())
    return total / max(int(batch.masked.sum()), 1)


@torch.no_grad()
def _row_losses(denoiser: Denoiser, batch: CorruptedBatch, batch_size: int) -> Tensor:
    """The summed cross entropy of every window's masked tokens, (N,) float64."""
    losses = []
    for rows in torch.arange(len(batch.tokens)).split(batch_size):
        part = batch.select(rows)
        entropies = masked_cross_entropy(denoiser(part.tokens).logits, part)
        losses.append(entropies.sum(dim=1, dtype=torch.float64))
    return torch.cat(losses)
