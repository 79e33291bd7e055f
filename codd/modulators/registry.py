"""Modulators by name."""

from __future__ import annotations

from torch import Tensor

import pcircuits as pc
from codd.errors import ConfigError
from codd.modulators.base import Modulation
from codd.modulators.latent import LatentModulator
from codd.modulators.parametric import ParametricModulator
from codd.modulators.static import StaticModulator

MODULATORS = ("static", "latent", "parametric")

AnyModulator = StaticModulator | LatentModulator | ParametricModulator


def modulate(
    circuit: pc.CircuitModel,
    modulator: AnyModulator,
    hidden: Tensor,
    *,
    conditioned: bool = True,
) -> tuple[pc.Plan, Modulation]:
    """The circuit that a coupling takes, with its parameters and latent potentials.

    Args:
        circuit: The learned circuit.
        modulator: What conditions it.
        hidden: (B, W, D) the denoiser's hidden states on the window.
        conditioned: False leaves the modulator out and takes the circuit as it was learned.
    """
    parameters = circuit.log_parameters()
    if not conditioned:
        return circuit.plan, Modulation(parameters)
    return modulator.plan, modulator(hidden, parameters)


def make_modulator(kind: str, plan: pc.Plan, hidden_size: int, *, rank: int = 64) -> AnyModulator:
    """Makes a new modulator.

    Args:
        kind: One of `MODULATORS`.
        plan: The learned circuit's plan.
        hidden_size: Width D of the denoiser's hidden states.
        rank: Width of the bottlenecks; "static" has none.

    Returns:
        The modulator, a module; "latent" starts at the circuit as it was learned, "parametric" with
        its gates 2 % open.

    Raises:
        ConfigError: If there is no such kind, or it does not fit the circuit.

    Examples:
        >>> circuit = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=5))
        >>> for kind in codd.MODULATORS:
        ...     modulator = codd.make_modulator(kind, circuit.plan, hidden_size=16, rank=2)
        ...     print(kind, sum(weights.numel() for weights in modulator.parameters()))
        static 0
        latent 43
        parametric 138
    """
    if kind == "static":
        return StaticModulator(plan)
    if kind == "latent":
        return LatentModulator(plan, hidden_size, rank)
    if kind == "parametric":
        return ParametricModulator(plan, hidden_size, rank)
    raise ConfigError(f"modulator must be one of {MODULATORS}; found {kind!r}")
