"""Steps through windows with one circuit, and the distributions that come of it.

A decoding step's questions are answered by `step.coupling_step`, on a CUDA device recorded once and
replayed. Nothing here looks at a value, since that would wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings, targets_of
from codd.coupling.distribution import CoupledDistribution
from codd.coupling.step import StepResult, coupling_step

# Recorded steps kept for different shapes; each holds buffers of the size of its inputs.
_MOST_CAPTURED = 8


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

        What the window holds is not checked, since that would wait for the device. Where the
        circuit gives the visible tokens probability zero, `log_partition` is -inf and the rest of
        the row means nothing.

        Args:
            log_probs: (B, W, V) the denoiser's log-probabilities.
            values: (B, W) tokens; arbitrary where masked.
            observed: (B, W) bool, True = visible.
            latent: Node name -> (B, K) log-potentials over latent units.
            valid: (B, W) bool, False at padding.
            temperature: Of the sample.
            generator: Source of the sample.

        Raises:
            CouplingError: If shapes differ.
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
        base = _Unseen(
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


class _Unseen(CoupledDistribution):
    """One whose tokens are taken as they are."""

    def _check_tokens(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class SteppedDistribution(_Unseen):
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
        """(B,) log Z; -inf where the circuit gives the visible tokens probability zero."""
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
