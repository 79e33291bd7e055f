"""How everything is trained: the stages of `codd train` and the settings of each."""

from __future__ import annotations

from dataclasses import dataclass

from codd.coupling.couplings import CouplingSettings
from codd.denoisers.lora import LoraSettings
from codd.errors import ConfigError
from codd.modulators.registry import MODULATORS
from codd.training.circuit_loop import CircuitTraining
from codd.training.coupling_loop import CouplingTraining
from codd.training.denoiser_config import DenoiserTraining
from codd.training.schedule import Schedule

STAGES = ("denoiser", "circuit", "coupling")
JOINT = "joint"
"""A fourth stage, on request: everything is trained along."""


@dataclass(frozen=True)
class Recipe:
    """How everything is trained.

    Attributes:
        denoiser: The denoiser's stage.
        circuit: The circuit's stage.
        coupling: What the coupling's stage trains.
        schedule: How long the coupling's stage runs.
        joint: What the joint stage trains; None without one.
        joint_schedule: How long it runs.
        lora: Adapters of the denoiser that it trains; None trains all of the denoiser.
        settings: The coupling that is trained and becomes the model's own.
        window: Tokens W that the circuit couples.
        block: Default block of the model.
        modulator: Kind of modulator.
        rank: Width of the modulator's bottlenecks.
    """

    denoiser: DenoiserTraining
    circuit: CircuitTraining
    coupling: CouplingTraining
    schedule: Schedule
    joint: CouplingTraining | None
    joint_schedule: Schedule
    lora: LoraSettings | None
    settings: CouplingSettings
    window: int
    block: int
    modulator: str
    rank: int

    def __post_init__(self) -> None:
        """Checks what no stage checks before the first one has run.

        Raises:
            ConfigError: If lengths contradict each other or the modulator is impossible.
        """
        longest = self.denoiser.window_length
        if not 1 <= self.block <= self.window <= longest:
            raise ConfigError(
                f"expected 1 <= block <= window <= max_length; found {self.block}, "
                f"{self.window}, {longest}"
            )
        if self.modulator not in MODULATORS:
            raise ConfigError(f"modulator: expected one of {MODULATORS}, found {self.modulator!r}")
        if self.rank < 1:
            raise ConfigError(f"rank: expected at least 1, found {self.rank}")

    @property
    def trains_coupling(self) -> bool:
        """Whether the third stage has anything to train; some couplings need no training."""
        return self.modulator != "static" or self.coupling.circuit_learning_rate > 0

    def steps(self, stage: str) -> int:
        """Steps of a stage."""
        return {
            "denoiser": self.denoiser.steps,
            "circuit": self.circuit.steps,
            "coupling": self.schedule.steps,
            JOINT: self.joint_schedule.steps,
        }[stage]
