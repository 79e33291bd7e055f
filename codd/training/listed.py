"""Couplings of cached windows, where the denoiser's output is known for listed categories only.

Categories that are not listed are ruled out, so with the true token listed the likelihood is that
of the coupling of a slightly sharper denoiser; `omitted_mass` says how much sharper.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings, couple
from codd.coupling.distribution import TokenDistribution
from codd.coupling.targets import Listing
from codd.training.cache import CachedBatch


def listed_distribution(
    settings: CouplingSettings,
    plan: pc.Plan,
    parameters: Mapping[str, Tensor],
    batch: CachedBatch,
    latent: dict[str, Tensor] | None = None,
) -> TokenDistribution:
    """The joint distribution of the masked tokens of cached windows.

    Args:
        settings: The coupling; its `top_k` is that of the cache.
        plan: The circuit over W variables.
        parameters: Its log-weights by name, shared or per window.
        batch: What the denoiser said of B windows.
        latent: Node name -> (B, K) log-potentials over latent units.

    Raises:
        CouplingError: If the circuit contradicts the visible tokens.
    """
    return couple(
        settings,
        plan,
        parameters,
        batch.log_probs,
        batch.tokens,
        ~batch.masked,
        latent=latent,
        listing=Listing(batch.categories, batch.log_omitted),
    )


def omitted_mass(batch: CachedBatch) -> Tensor:
    """(B,) the most probability that a window's unlisted tokens have under the denoiser.

    The sum over the masked positions of what is not listed there bounds the probability that the
    factorised output leaves the listed categories at one of them; it never exceeds 1.
    """
    each = batch.log_omitted.exp().masked_fill(~batch.masked, 0.0)
    return each.sum(-1).clamp(max=1.0)
