"""The whole coupling of one decoding step as one function of tensors that never waits.

`couple` makes a distribution that answers every question and checks what it is given; a decoding
step asks three: log Z, the marginals, a joint sample. Here they are computed with fixed shapes and
without a look at any value, so that on a CUDA device the step can be recorded once and replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import LARGEST_LOG_POTENTIAL, CouplingSettings
from codd.coupling.settings import FACTORISED
from codd.coupling.targets import marginal_distance
from codd.errors import CouplingError


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one step computes.

    Attributes:
        log_partition: (B,) log Z; -inf where the circuit rules the visible tokens out, and then
            the rest of the row means nothing.
        potentials: (B, W, V) or (B, W, J) the log-potentials of the coupled distribution.
        marginals: (B, W, V) or (B, W, J) its single-token posteriors; one-hot where observed, zero
            at padding.
        tokens: (B, S, W) int64 joint samples; observed tokens are kept.
        latent: (B, W, K) log-potentials of the chain's states; None without any.
    """

    log_partition: Tensor
    potentials: Tensor
    marginals: Tensor
    tokens: Tensor
    latent: Tensor | None = None


def coupling_step(
    settings: CouplingSettings,
    passes: pc.queries.ChainPasses,
    log_probs: Tensor,
    values: Tensor,
    observed: Tensor,
    uniforms: Tensor,
    categories: Tensor | None = None,
    missing: Tensor | None = None,
    latent: Tensor | None = None,
    *,
    temperature: float = 1.0,
) -> StepResult:
    """Couples one window with a chain and draws from it; nothing is checked, nothing waits.

    Args:
        settings: "product", "local" or "copula" with its sweeps. What is coupled is `log_probs`
            as they are: targets and lists are made before.
        passes: Of the circuit, from `pc.queries.chain_passes`.
        log_probs: (B, W, V) the denoiser's log-probabilities; (B, W, J) with `categories`.
        values: (B, W) int64 tokens, categories where observed.
        observed: (B, W) bool, True = visible.
        uniforms: (B, S, W, 2) in [0, 1), two for each token of each of S samples.
        categories: (B, W, J) int64, the tokens that `log_probs` speaks of; the others are ruled
            out.
        missing: (B, W) bool, True at padding, which is summed out.
        latent: (B, W, K) log-potentials of the chain's states.
        temperature: Of the tokens given the states, which are drawn exactly; 0 = most likely.

    Returns:
        The step's results.

    Raises:
        CouplingError: If the coupling is "factorised".
    """
    if settings.kind == FACTORISED:
        raise CouplingError("coupling 'factorised' has no circuit to step through")
    window = pc.queries.ChainWindow(log_probs, values, observed, categories, missing, latent)
    if settings.kind == "copula":
        window = _fitted(settings, passes, window)
    if settings.kind == "local":
        window = _localised(passes, window)
    messages = passes.messages(window)
    return StepResult(
        messages.log_value,
        window.log_potentials,
        passes.marginals(window, messages),
        passes.sample(window, messages, uniforms, temperature),
        window.latent,
    )


def _fitted(
    settings: CouplingSettings, passes: pc.queries.ChainPasses, window: pc.queries.ChainWindow
) -> pc.queries.ChainWindow:
    """The window with the potentials of `couplings.fit_copula`."""
    target = window.log_potentials
    for sweep, size in enumerate(settings.step_sizes):
        # The first sweep starts from what the visible tokens alone predict.
        messages = passes.messages(window, soft=sweep > 0)
        potentials = passes.moved(window, messages, target, size, LARGEST_LOG_POTENTIAL)
        if settings.tolerance > 0 and sweep > 0:
            skipped = _skipped(window)
            found = passes.marginals(window, messages)
            settled = marginal_distance(found, target.log_softmax(-1), skipped)
            stays = (settled <= settings.tolerance)[:, None, None]
            potentials = torch.where(stays, window.log_potentials, potentials)
        window = replace(window, log_potentials=potentials)
    return window


def _localised(
    passes: pc.queries.ChainPasses, window: pc.queries.ChainWindow
) -> pc.queries.ChainWindow:
    """The window with the latent potentials of `units.local_latent`."""
    leaves = passes.leaves(window)
    masked = leaves.masked_fill(_skipped(window)[..., None], 0.0)
    own = -masked.masked_fill(masked.isneginf(), 0.0)
    return replace(window, latent=own if window.latent is None else window.latent + own)


def _skipped(window: pc.queries.ChainWindow) -> Tensor:
    """(B, W) bool, positions that are visible or padding."""
    missing = window.missing
    return window.observed if missing is None else window.observed.masked_fill(missing, True)
