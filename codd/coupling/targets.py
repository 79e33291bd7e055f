"""What is coupled: the denoiser's output, sharpened if asked for, on all tokens or on a list."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codd.coupling.settings import CouplingSettings
from codd.errors import CouplingError


@dataclass(frozen=True, eq=False)
class Listing:
    """The tokens that potentials speak of; all others are ruled out.

    Attributes:
        categories: (B, W, J) int64, each at most once at a position.
        log_omitted: (B, W) log of the probability of all tokens that are not listed; None if it
            is not known.
        log_ceiling: (B, W) log of the largest probability of one of them; None if not known.
    """

    categories: Tensor
    log_omitted: Tensor | None = None
    log_ceiling: Tensor | None = None

    def place(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W) where the lists have tokens (B, W), and whether they have them."""
        hits = self.categories == tokens[..., None]
        return hits.to(torch.uint8).argmax(-1), hits.any(-1)

    def spread(self, listed: Tensor, num_categories: int) -> Tensor:
        """(B, W, V) of (B, W, J) numbers of the listed tokens; zero elsewhere."""
        shape = (*listed.shape[:2], num_categories)
        return listed.new_zeros(shape).scatter_add(2, self.categories, listed)

    def omitted(self) -> Tensor:
        """(B, W) probability of the tokens that are not listed.

        Raises:
            CouplingError: If it is not known.
        """
        if self.log_omitted is None:
            raise CouplingError(
                "the probability of the tokens that are not listed is not known: the lists were "
                "made before the target was changed; expected `top_k`, which lists after it"
            )
        return self.log_omitted.exp()


def target_log_probs(settings: CouplingSettings, log_probs: Tensor) -> Tensor:
    """The distributions whose marginals a coupling is given.

    Args:
        settings: Temperature, nucleus and floor.
        log_probs: (B, W, V) the denoiser's log-probabilities; or (B, W, J) of listed tokens,
            which are normalised if anything is changed.

    Returns:
        Log-probabilities of the same shape; itself if nothing is changed.
    """
    if not settings.changes_target:
        return log_probs
    found = (log_probs / settings.target_temperature).log_softmax(-1)
    if settings.target_top_p < 1:
        found = _nucleus(found, settings.target_top_p)
    floor = settings.target_floor
    if floor == 0:
        return found
    untouched = log_probs.log_softmax(-1)
    dead = untouched.isneginf()  # kept out of the arithmetic, whose gradient would be NaN
    both = torch.logaddexp(
        found.masked_fill(dead, 0.0) + math.log1p(-floor),
        untouched.masked_fill(dead, 0.0) + math.log(floor),
    )
    return both.masked_fill(dead, -torch.inf)


def list_top(
    log_probs: Tensor, top_k: int, include: Tensor | None = None
) -> tuple[Tensor, Listing]:
    """Lists the likeliest tokens of each position.

    Args:
        log_probs: (B, W, V) normalised log-probabilities.
        top_k: J; all V if it is more.
        include: (B, W) tokens that take the place of the least likely one listed where they are
            not among them: the true ones, in training.

    Returns:
        (B, W, J) log-probabilities of the listed tokens, in falling order but for what is
        included, and the lists.
    """
    categories = log_probs.topk(min(top_k, log_probs.shape[-1]), dim=-1).indices
    if include is not None:
        absent = (categories != include[..., None]).all(-1)
        last = torch.where(absent, include, categories[..., -1])
        categories = torch.cat([categories[..., :-1], last[..., None]], dim=-1)
    others = log_probs.detach().scatter(-1, categories, -torch.inf)
    listing = Listing(categories, others.logsumexp(-1), others.amax(-1))
    return log_probs.gather(-1, categories), listing


def marginal_distance(marginals: Tensor, log_probs: Tensor, skipped: Tensor) -> Tensor:
    """(B,) largest total variation between (B, W, V) distributions, but where skipped (B, W)."""
    gap = (marginals - log_probs.exp()).abs().sum(-1) / 2
    return gap.masked_fill(skipped, 0.0).amax(1)


def _nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """The smallest set of the likeliest tokens that holds `top_p`, renormalised."""
    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    shares = ordered.detach().exp()
    before = shares.cumsum(-1) - shares  # exactly 0 for the likeliest: it stays
    kept = ordered.masked_fill(before >= top_p, -torch.inf).log_softmax(-1)
    return torch.empty_like(kept).scatter(-1, order, kept)
