"""The circuits of a coupled model, each with its modulator: what couples a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings, couple
from codd.coupling.distribution import TokenDistribution
from codd.coupling.rowwise import RowwiseDistribution
from codd.coupling.settings import FACTORISED
from codd.coupling.stepper import CouplingStepper
from codd.errors import ConfigError
from codd.modulators.base import Modulation
from codd.modulators.choice import CircuitChoice
from codd.modulators.registry import AnyModulator, make_modulator, modulate
from codd.window import Window


class Members:
    """One circuit, or several of which one is chosen for each window.

    Args:
        pairs: Circuits over the same window and categories, each with its modulator.
    """

    def __init__(self, pairs: Sequence[tuple[pc.CircuitModel, AnyModulator]]) -> None:
        self.pairs = tuple(pairs)
        self._prepared: dict[int, tuple[tuple[tuple[int, int], ...], pc.PreparedParameters]] = {}
        self._stepper: CouplingStepper | None = None

    def check(self, count: int) -> None:
        """Checks that there are so many circuits, all about the same window.

        Raises:
            ConfigError: If not.
        """
        if len(self.pairs) != count:
            raise ConfigError(
                f"choice: expected {count} circuits, found {len(self.pairs)} with alternatives"
            )
        sizes = {(c.plan.num_variables, c.plan.num_categories) for c, _ in self.pairs}
        if len(sizes) > 1:
            raise ConfigError(
                f"circuits: expected one number of variables and categories, found {sorted(sizes)}"
            )

    def couple(
        self,
        settings: CouplingSettings,
        window: Window,
        choice: CircuitChoice | None,
        domain: str | Sequence[str] | None,
    ) -> TokenDistribution:
        """The joint distribution of a window, each row under the circuit that serves it."""
        if choice is None or settings.kind == FACTORISED:
            return self._coupled(settings, window, 0)
        index = choice.index(window.denoised[2], window.valid, domain)
        chosen = index.unique().tolist()
        if len(chosen) == 1:
            return self._coupled(settings, window, chosen[0])
        rows = tuple((index == member).nonzero()[:, 0] for member in chosen)
        groups = zip(rows, chosen, strict=True)
        return RowwiseDistribution(
            rows, tuple(self._coupled(settings, window.take(own), i) for own, i in groups)
        )

    def why_not_captured(
        self, settings: CouplingSettings, choice: CircuitChoice | None
    ) -> str | None:
        """Why the step of a coupling cannot be recorded as a CUDA graph; None if it can be."""
        circuit, modulator = self.pairs[0]
        device = circuit.log_weights[0].device
        if device.type != "cuda":
            return f"expected the model on a CUDA device, found {device}"
        if settings.kind == FACTORISED:
            return "expected a coupling with a circuit, found 'factorised'"
        if modulator.kind == "parametric" and settings.conditioned:
            return "expected parameters that all windows share, found a parametric modulator"
        if choice is not None:
            return f"expected one circuit for all windows, found a choice by {choice.by}"
        if not pc.queries.is_chain(circuit.plan):
            return "expected a hidden Markov chain, found another circuit"
        return None

    def captured(
        self,
        settings: CouplingSettings,
        window: Window,
        *,
        temperature: float,
        generator: torch.Generator | None,
    ) -> TokenDistribution:
        """As `couple` with the first circuit, by a step recorded on a CUDA device and replayed.

        The recorded step is kept until the settings or the parameters are others.
        """
        own = self._stepper
        plan, parameters, latent = self.modulated(window.hidden, settings.conditioned)
        if own is None or own.settings != settings or own.parameters is not parameters:
            capture = window.denoised[1].is_cuda
            own = CouplingStepper(settings, plan, parameters, capture=capture)
            self._stepper = own
        return own.distribution(
            *window.denoised,
            latent=latent,
            valid=window.valid,
            temperature=temperature,
            generator=generator,
        )

    def modulated(
        self, hidden: Tensor, conditioned: bool, member: int = 0
    ) -> tuple[pc.Plan, Any, dict[str, Tensor] | None]:
        """Plan, parameters and latent potentials of one circuit for hidden states (B, W, D)."""
        circuit, modulator = self.pairs[member]
        if torch.is_grad_enabled() or (conditioned and modulator.kind == "parametric"):
            plan, modulation = modulate(circuit, modulator, hidden, conditioned=conditioned)
            return plan, modulation.parameters, modulation.latent
        # Shared parameters are laid out once, and again only after they were changed.
        modulation = modulator(hidden, {}) if conditioned else Modulation({})
        version = tuple((w.data_ptr(), w._version) for w in circuit.log_weights)
        if member not in self._prepared or self._prepared[member][0] != version:
            self._prepared[member] = (version, circuit.prepare())
        return circuit.plan, self._prepared[member][1], modulation.latent

    def description(self) -> dict[str, Any]:
        """JSON values that `read_members` reads: the first, and under "alternatives" the rest."""
        first, *others = [
            {
                "circuit": pc.structure_to_json(circuit.circuit),
                "modulator": {"kind": modulator.kind, "rank": modulator.rank},
            }
            for circuit, modulator in self.pairs
        ]
        return {**first, "alternatives": others}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Part of a checkpoint -> its named tensors."""
        found: dict[str, dict[str, Tensor]] = {}
        for i, (circuit, modulator) in enumerate(self.pairs):
            found[_numbered("modulator", i)] = modulator.state_dict()
            found[_numbered("circuit", i)] = circuit.log_parameters()
        return found

    def _coupled(
        self, settings: CouplingSettings, window: Window, member: int
    ) -> TokenDistribution:
        circuit, _ = self.pairs[member]
        plan, parameters, latent = circuit.plan, dict[str, Tensor](), None
        if settings.kind != FACTORISED:
            plan, parameters, latent = self.modulated(window.hidden, settings.conditioned, member)
        return couple(
            settings,
            plan,
            parameters,
            *window.denoised,
            latent=latent,
            valid=window.valid,
            include=window.include,
        )


def read_members(
    metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], hidden_size: int
) -> list[tuple[pc.CircuitModel, AnyModulator]]:
    """The circuits and modulators that a checkpoint describes, with their tensors."""
    found = []
    for i, described in enumerate([metadata, *metadata.get("alternatives", [])]):
        structure = pc.structure_from_json(described["circuit"])
        weights = part_of(tensors, _numbered("circuit", i))
        circuit = pc.CircuitModel.of(pc.WeightedCircuit(structure, weights))
        kind, rank = described["modulator"]["kind"], described["modulator"]["rank"]
        with torch.device("meta"):  # the tensors come from the checkpoint, whatever it claims
            modulator = make_modulator(kind, circuit.plan, hidden_size, rank=rank)
        modulator.load_state_dict(part_of(tensors, _numbered("modulator", i)), assign=True)
        found.append((circuit, modulator))
    return found


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one part of a checkpoint, in float32, by their names in it."""
    start = len(prefix) + 1
    return {n[start:]: t.float() for n, t in tensors.items() if n.startswith(f"{prefix}.")}


def _numbered(part: str, member: int) -> str:
    """Name of a part of one of the circuits; the first has no number."""
    return part if member == 0 else f"{part}-{member}"
