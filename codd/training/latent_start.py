"""A starting point for hidden Markov models of large vocabularies: states from a denoiser.

Each token of some text is assigned to a cluster of the denoiser's hidden states, and the chain's
parameters are counted as if the clusters were its states: latent-variable distillation (Liu, Zhang
and Van den Broeck, "Scaling up probabilistic circuits by latent variable distillation", ICLR 2023).
EM refines what this starts. It serves where there are fewer states than categories, so that states
cannot be contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import pcircuits as pc
from codd.denoisers.base import Denoiser
from codd.errors import ConfigError

_LARGEST_WIDTH = 256
_BATCH = 32


@dataclass(frozen=True)
class LatentStart:
    """How much text is clustered and how its counts are smoothed.

    Attributes:
        tokens_per_state: Tokens of text that are clustered, for each state.
        smoothing: Tokens' worth of the whole text's frequencies in every state.
        max_steps: Steps of k-means.
        seed: Seed of centres and projection.
    """

    tokens_per_state: int = 50
    smoothing: float = 1.0
    max_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens_per_state", "smoothing", "max_steps"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)}"
                )


def latent_hmm(
    denoiser: Denoiser,
    sequences: Tensor,
    num_states: int,
    *,
    start: LatentStart | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Parameters of a homogeneous hidden Markov model from clusters of hidden states.

    Args:
        denoiser: In evaluation mode; it sees the sequences without a mask.
        sequences: (N, L) int64 ids of clean text.
        num_states: States K.
        start: How much text, and its smoothing.
        device: Where the denoiser is.

    Returns:
        Probabilities `initial` (K,), `transition` (K, K) and `emission` (K, V) on the CPU.

    Raises:
        ConfigError: If there are fewer tokens than states.
    """
    start = start or LatentStart()
    if sequences.numel() < num_states:
        raise ConfigError(
            f"latent start: expected at least {num_states} tokens, one a state, found "
            f"{sequences.numel()}"
        )
    wanted = -(-start.tokens_per_state * num_states // sequences.shape[1])
    chosen = torch.linspace(0, len(sequences) - 1, min(wanted, len(sequences))).round().long()
    seen = sequences[chosen]
    points = _hidden(denoiser, seen, start.seed, device)
    states, _ = pc.kmeans(points, num_states, max_steps=start.max_steps, seed=start.seed)
    sizes = num_states, denoiser.num_categories
    return _counted(seen, states.view(seen.shape), sequences, sizes, start)


@torch.no_grad()
def _hidden(denoiser: Denoiser, sequences: Tensor, seed: int, device: torch.device | str) -> Tensor:
    """(N L, D) hidden states, projected at random to fewer dimensions where D is large."""
    width = denoiser.hidden_size
    projection = None
    if width > _LARGEST_WIDTH:
        generator = torch.Generator().manual_seed(seed)
        shape = (width, _LARGEST_WIDTH)
        projection = torch.randn(shape, generator=generator).to(device) / _LARGEST_WIDTH**0.5
    found = []
    for part in sequences.split(_BATCH):
        hidden = denoiser(part.to(device)).hidden.float()
        hidden = torch.nn.functional.layer_norm(hidden, (width,))
        found.append((hidden if projection is None else hidden @ projection).cpu())
    return torch.cat(found).flatten(0, 1)


def _counted(
    tokens: Tensor, states: Tensor, text: Tensor, sizes: tuple[int, int], start: LatentStart
) -> dict[str, Tensor]:
    """Relative frequencies of (N, L) states and tokens, each smoothed by those of all states."""
    num_states, num_categories = sizes
    usage = torch.bincount(states.flatten(), minlength=num_states).double() + 1
    frequency = torch.bincount(text.flatten(), minlength=num_categories).double() + 1
    steps = states[:, :-1].flatten() * num_states + states[:, 1:].flatten()
    counts = {
        "transition": torch.bincount(steps, minlength=num_states**2).view(num_states, -1),
        "emission": torch.zeros(num_states, num_categories).index_put_(
            (states.flatten(), tokens.flatten()), torch.ones(()), accumulate=True
        ),
    }
    prior = {"transition": usage / usage.sum(), "emission": frequency / frequency.sum()}
    found = {"initial": prior["transition"].float()}
    for name, count in counts.items():
        smoothed = count.float() + start.smoothing * prior[name].float()
        found[name] = smoothed / smoothed.sum(-1, keepdim=True)
    return found
