"""A denoiser whose windows are coupled by circuits: what decoding and training ask of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.decoding.holding import HoldsDenoiser
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.placement import first_device
from codd.errors import ConfigError, CouplingError
from codd.members import Members
from codd.modulators.choice import CircuitChoice
from codd.modulators.registry import AnyModulator
from codd.window import check_start, read_window


class CoupledDenoiser(HoldsDenoiser, nn.Module):
    """A denoiser, circuits and modulators over tokens; a `Decodable`.

    Args:
        denoiser: A module with the `Denoiser` protocol, for V categories.
        circuit: The learned circuit over W variables of V categories.
        modulator: Turns hidden states into the circuit's parameters.
        settings: The default coupling.
        block_length: Default block of block diffusion, at most W.
        alternatives: More circuits over the same window, each with its modulator.
        choice: By which of all circuits, `circuit` being the first, a window is coupled.

    Raises:
        ConfigError: If the parts do not fit together.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        circuit: pc.CircuitModel,
        modulator: AnyModulator,
        *,
        settings: CouplingSettings | None = None,
        block_length: int = 32,
        alternatives: Sequence[tuple[pc.CircuitModel, AnyModulator]] = (),
        choice: CircuitChoice | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.circuit = circuit
        self.modulator = modulator
        self.settings = settings or CouplingSettings()
        self.block = block_length
        self.alternatives = nn.ModuleList(nn.ModuleList(pair) for pair in alternatives)
        self.choice = choice
        self._members = Members([(circuit, modulator), *alternatives])
        self._check()

    @property
    def window(self) -> int:
        """Tokens W that the circuit couples."""
        return self.circuit.plan.num_variables

    @property
    def members(self) -> tuple[tuple[pc.CircuitModel, AnyModulator], ...]:
        """All circuits with their modulators, in the order of the choice."""
        return self._members.pairs

    @property
    def device(self) -> torch.device:
        """Where its circuit lies, and tokens are expected."""
        return first_device(self.circuit)

    @property
    def has_caches(self) -> bool:
        """Whether the denoiser computes spans of a sequence, as decoding with a cache asks."""
        return hasattr(self.denoiser, "attention_block")

    @property
    def attention_block(self) -> int | None:
        """Tokens of a block under the denoiser's block-causal mask; None if all see all."""
        found: int | None = self.denoiser.attention_block
        return found

    def denoise_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KeyValueCache,
        span: Span | None = None,
    ) -> DenoiserOutput:
        """As `denoise`, of a span's tokens alone, among what a cache holds of the others."""
        output: DenoiserOutput = self.denoiser(tokens, attention_mask, span=span, cache=cache)
        return output

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
        include: Tensor | None = None,
        domain: str | Sequence[str] | None = None,
    ) -> TokenDistribution:
        """The joint distribution of the masked tokens of one window of each row.

        Args:
            output: What the denoiser said of `tokens`.
            tokens: (B, L) tokens, L >= W; all but the mask are visible.
            start: (B,) first position of each row's window.
            coupling: A name of `COUPLING_NAMES`, or settings; default the model's.
            valid: (B, L) bool, False at padding.
            include: (B, L) tokens that the settings' `top_k` lists whatever their rank: the true
                ones, when their probability is learned or judged.
            domain: Of all rows or of each, where circuits are chosen by domain.

        Returns:
            A distribution over positions start .. start + W - 1.

        Raises:
            DenoiserError: If a window leaves the sequence.
            CouplingError: If the circuit contradicts the visible tokens.
        """
        check_start(start, self.window, tokens)
        window = read_window(
            output,
            tokens,
            start,
            self.window,
            mask_id=self.mask_id,
            valid=valid,
            include=include,
        )
        return self._members.couple(self._settings(coupling), window, self.choice, domain)

    def why_not_captured(self, coupling: str | CouplingSettings | None = None) -> str | None:
        """Why the step of a coupling cannot be recorded as a CUDA graph; None if it can be.

        Args:
            coupling: Name of a coupling, or its settings; default the model's.
        """
        return self._members.why_not_captured(self._settings(coupling), self.choice)

    @torch.no_grad()
    def captured_distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> TokenDistribution:
        """As `distribution`, by one step that is recorded on a CUDA device and replayed.

        On the CPU the same step runs as it is. Its marginals and its sample, of the temperature
        given, are overwritten by the next step. No value is looked at, since that would wait for
        the device: where a window starts and what it holds is taken as given, and a window that the
        circuit contradicts has the `log_partition` -inf, and nothing else of it means anything.

        Args:
            output: As there.
            tokens: As there.
            start: As there.
            coupling: As there, but not "factorised".
            valid: As there.
            temperature: Of the sample's tokens given the circuit's states.
            generator: Source of the sample.

        Raises:
            CouplingError: If shapes differ.
            BackendError: If the step cannot be recorded; see `why_not_captured`.
        """
        window = read_window(output, tokens, start, self.window, mask_id=self.mask_id, valid=valid)
        return self._members.captured(
            self._settings(coupling), window, temperature=temperature, generator=generator
        )

    def joint(
        self,
        tokens: Tensor,
        *,
        start: Tensor | int | None = None,
        coupling: str | CouplingSettings | None = None,
        domain: str | Sequence[str] | None = None,
    ) -> TokenDistribution:
        """One forward of the denoiser, then the exact joint of a window's masked tokens.

        Args:
            tokens: (B, L) tokens, `mask_id` where masked.
            start: (B,) or one first position of the window; default the last W positions.
            coupling: A name of `COUPLING_NAMES`, or settings; default the model's.
            domain: Of all rows or of each, where circuits are chosen by domain.

        Returns:
            The distribution; see `distribution`.
        """
        if start is None:
            start = tokens.shape[1] - self.window
        first = torch.as_tensor(start, device=tokens.device).expand(len(tokens))
        output = self.denoise(tokens)
        return self.distribution(output, tokens, first, coupling=coupling, domain=domain)

    def _settings(self, coupling: str | CouplingSettings | None) -> CouplingSettings:
        if coupling is None:
            return self.settings
        if isinstance(coupling, CouplingSettings):
            return coupling
        if coupling.startswith("conditioned") and self.modulator.kind == "static":
            raise CouplingError(
                f"coupling {coupling!r}: expected a model with a modulator that reads hidden "
                f"states, found a static one"
            )
        return self.settings.named(coupling)

    def _check(self) -> None:
        self._members.check(1 if self.choice is None else self.choice.num_circuits)
        found = self.circuit.plan.num_categories
        if found != self.num_categories:
            raise ConfigError(
                f"the denoiser has {self.num_categories} categories; the circuit has {found}"
            )
        if not 1 <= self.block <= self.window <= self.max_length:
            raise ConfigError(
                f"expected 1 <= block_length <= window <= max_length; found {self.block}, "
                f"{self.window}, {self.max_length}"
            )
