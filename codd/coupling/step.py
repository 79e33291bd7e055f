"""The whole coupling of one decoding step as one function of tensors that never waits.

`couple` makes a distribution that answers every question and checks what it is given; a decoding
step asks three: log Z, the marginals, a joint sample. Here they are computed with fixed shapes and
without a look at any value, so that on a CUDA device the step can be recorded once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.conditioner import require_possible
from codd.coupling.couplings import LARGEST_LOG_POTENTIAL, CouplingSettings, targets_of
from codd.coupling.distribution import CoupledDistribution
from codd.coupling.settings import FACTORISED
from codd.coupling.targets import marginal_distance
from codd.errors import CouplingError

# Recorded steps kept for different shapes; each holds buffers of the size of its inputs.
_MOST_CAPTURED = 8


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


@dataclass(frozen=True, eq=False)
class CouplingStepper:
    """Steps through windows with one circuit.

    Attributes:
        settings: Which coupling.
        plan: The chain.
        parameters: Its parameters.
        capture: Whether each shape's step is recorded on the CUDA device and replayed.
        precision: Of the emission table; see `pc.queries.chain_passes`.
    """

    settings: CouplingSettings
    plan: pc.Plan
    parameters: pc.PreparedParameters
    capture: bool = False
    precision: str = "tf32x3"
    _captured: dict[tuple[object, ...], Callable[..., StepResult]] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def passes(self) -> pc.queries.ChainPasses:
        """The passes over the chain.

        Raises:
            BackendError: If the circuit is no chain with shared parameters.
        """
        return pc.queries.chain_passes(self.plan, self.parameters, precision=self.precision)

    def step(
        self,
        log_probs: Tensor,
        values: Tensor,
        observed: Tensor,
        uniforms: Tensor,
        *more: Tensor | None,
        temperature: float = 1.0,
    ) -> StepResult:
        """Runs or replays `coupling_step` on its tensors, in its order.

        A replay's results are overwritten by the next of the same shapes.

        Raises:
            BackendError: If the step shall be captured and cannot be.
        """
        inputs = (log_probs, values, observed, uniforms, *more)
        function = partial(coupling_step, self.settings, self.passes, temperature=temperature)
        if not self.capture:
            with torch.no_grad():
                return function(log_probs, values, observed, uniforms, *more)
        shapes = tuple(None if x is None else (x.shape, x.dtype, x.device) for x in inputs)
        key = (temperature, *shapes)
        if key not in self._captured:
            if len(self._captured) == _MOST_CAPTURED:
                self._captured.pop(next(iter(self._captured)))
            self._captured[key] = pc.queries.captured_step(function, inputs)
        return self._captured[key](*inputs)

    def distribution(
        self,
        log_probs: Tensor,
        values: Tensor,
        observed: Tensor,
        *,
        latent: dict[str, Tensor] | None = None,
        valid: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> SteppedDistribution:
        """As `couplings.couple`, with marginals and one sample already computed.

        Args:
            log_probs: (B, W, V) the denoiser's log-probabilities.
            values: (B, W) tokens; arbitrary where masked.
            observed: (B, W) bool, True = visible.
            latent: Node name -> (B, K) log-potentials over latent units.
            valid: (B, W) bool, False at padding.
            temperature: Of the sample.
            generator: Source of the sample.

        Raises:
            CouplingError: If the circuit gives some window's visible tokens probability zero.
            BackendError: If the step shall be captured and cannot be.
        """
        uniforms = torch.rand(
            (len(values), 1, values.shape[1], 2), generator=generator, device=values.device
        )
        missing = None if valid is None else ~valid
        states = pc.queries.chain_latents(self.plan, latent)
        log_probs, listing = targets_of(self.settings, log_probs)
        listed = None if listing is None else listing.categories
        found = self.step(
            log_probs, values, observed, uniforms, listed, missing, states, temperature=temperature
        )
        require_possible(found.log_partition)
        base = CoupledDistribution(
            self.plan, self.parameters, log_probs, values, observed, latent, valid, listing=listing
        )
        return SteppedDistribution(
            self.plan,
            self.parameters,
            found.potentials,
            values,
            observed,
            self._by_name(found.latent),
            valid,
            listing=listing,
            kind=self.settings.kind,
            base=base,
            found=found,
            temperature=temperature,
        )

    def _by_name(self, states: Tensor | None) -> dict[str, Tensor] | None:
        """Potentials (B, W, K) of the chain's states by the names of their nodes."""
        if states is None:
            return None
        return {n: states[:, t] for n, (layer, t) in self.plan.places.items() if layer == 0}


@dataclass(frozen=True, eq=False)
class SteppedDistribution(CoupledDistribution):
    """A coupled distribution of which a step computed log Z, the marginals and one sample.

    All other questions are answered as by any `CoupledDistribution`, from the same potentials.

    Args:
        found: What the step computed; of a captured step, until its next.
        temperature: Of the sample in it.
    """

    found: StepResult = field(kw_only=True)
    temperature: float = field(kw_only=True)

    @cached_property
    def log_partition(self) -> Tensor:
        """(B,) log Z."""
        return self.found.log_partition

    def marginals(self) -> Tensor:
        """(B, W, V) exact single-token posteriors; one-hot where observed, zero at padding."""
        if self.listing is None:
            return self.found.marginals
        spread = self.listing.spread(self.found.marginals, self.num_categories)
        # A visible token need not be listed.
        visible = self.values.masked_fill(~self.observed, 0)[..., None]
        one_hot = torch.zeros_like(spread).scatter_(2, visible, 1.0)
        return torch.where(self.observed[..., None], one_hot, spread)

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, num_samples, W) joint samples: the step's own where one of its kind is asked for.

        The step's sample is the same at every call; a distribution is asked once in a decoding
        step.
        """
        if num_samples == 1 and temperature == self.temperature:
            return self.found.tokens
        return super().sample(num_samples, temperature=temperature, generator=generator)

    def condition(self, tokens: Tensor, observed: Tensor) -> CoupledDistribution:
        """The same distribution given more tokens; potentials stay as they are."""
        return CoupledDistribution(
            self.plan,
            self.parameters,
            self.log_potentials,
            tokens,
            observed,
            self.latent,
            self.valid,
            listing=self.listing,
            kind=self.kind,
            base=self.base,
        )
