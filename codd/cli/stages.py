"""The stages of training, each in a folder of its own: denoiser, circuit, coupling, joint."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import pcircuits as pc
from codd.checkpoint import has_checkpoint, load_checkpoint
from codd.cli.material import Material
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.base import DenoiserModule
from codd.denoisers.lora import LoraSettings, add_lora, merge_lora
from codd.errors import CheckpointError, ConfigError
from codd.model import CoupledModel
from codd.modulators.registry import MODULATORS, make_modulator
from codd.training.cache import DenoiserCache
from codd.training.cached_loop import CachedTraining, train_cached
from codd.training.circuit_loop import CircuitTraining, starting_circuit, train_circuit
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.denoiser_config import DenoiserTraining
from codd.training.denoiser_loop import train_denoiser
from codd.training.latent_start import LatentStart, latent_hmm
from codd.training.loop import HistoryEntry, Schedule
from codd.training.tensorboard import tensorboard_log
from codd.training.windows import evaluation_windows

STAGES = ("denoiser", "circuit", "coupling")
JOINT = "joint"
"""A fourth stage, on request: everything is trained along."""
_CIRCUIT_VALIDATION_WINDOWS = 512


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


class StageInterrupted(KeyboardInterrupt):
    """A stage was stopped by Ctrl-C, with its checkpoint written."""


@dataclass(frozen=True)
class StageLog:
    """What a finished stage says of itself.

    Attributes:
        steps: Steps done.
        seconds: Over all resumed parts.
        valid_loss: The last one.
        mean_omitted: On a cache, the mean bound on the probability of what it does not list.
    """

    steps: int
    seconds: float
    valid_loss: float
    mean_omitted: float | None = None


@dataclass(frozen=True)
class Workshop:
    """Runs stages in the folders of a run.

    Attributes:
        recipe: How.
        material: On what.
        root: Holds a folder for each stage, and the model.
        resume: Continue from the checkpoints there.
        group: Processes that train together; None for this one alone.
        cache: What the denoiser said, to train the coupling from; None asks the denoiser.
        tensorboard: Folder of TensorBoard's logs; None without.
        device: Where everything is trained.
    """

    recipe: Recipe
    material: Material
    root: Path
    resume: bool
    group: dist.ProcessGroup | None = None
    cache: DenoiserCache | None = None
    tensorboard: Path | None = None
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have made."""
        return self.group is None or dist.get_rank(self.group) == 0

    def options(self, stage: str) -> dict[str, Any]:
        """Who trains a stage, and where it is logged."""
        if self.tensorboard is None or not self.leads:
            return {"group": self.group}
        return {"group": self.group, "log": tensorboard_log(self.tensorboard, stage)}

    def folder(self, stage: str) -> Path:
        """Where a stage's checkpoints are."""
        return self.root / stage

    def require_finished(self, stage: str) -> None:
        """Checks that a stage was finished before.

        Raises:
            CheckpointError: If it was not, or its checkpoint is damaged.
        """
        folder, steps = self.folder(stage), self.recipe.steps(stage)
        hint = f"run `codd train --stage {stage}` first"
        if not has_checkpoint(folder):
            raise CheckpointError(f"{folder}: expected the finished {stage}, found none; {hint}")
        found = load_checkpoint(folder).metadata.get("step")
        if found != steps:
            raise CheckpointError(
                f"{folder}: expected the {stage} after {steps} steps, found {found}; {hint}"
            )

    def train_denoiser(self, *, resume: bool) -> tuple[DenoiserModule, StageLog | None]:
        """The first stage, or what it left behind if it is finished, or the published denoiser."""
        training, network = self.recipe.denoiser, self.material.network
        if isinstance(network, DenoiserModule):
            return network, None
        trained = train_denoiser(
            self.material.corpus,
            self.material.vocabulary,
            network,
            training,
            self.folder("denoiser"),
            resume=resume,
            **self.options("denoiser"),
        )
        return trained.model, _log(trained.history, trained.step, training.steps)

    def train_circuit(self, *, resume: bool) -> tuple[pc.CircuitModel, StageLog]:
        """The second stage, or what it left behind if it is finished."""
        recipe, folder = self.recipe, self.folder("circuit")
        circuit = self._starting_circuit(resumed=resume and has_checkpoint(folder))
        circuit.to(self.device)
        valid = evaluation_windows(self.material.valid, recipe.window)
        outcome = train_circuit(
            circuit,
            self.material.train,
            valid[:_CIRCUIT_VALIDATION_WINDOWS],
            recipe.circuit,
            folder,
            {
                **self.material.identity("circuit-training"),
                "window": recipe.window,
                "start": "latents" if self._starts_from_latents else "contexts",
            },
            resume=resume,
            **self.options("circuit"),
        )
        return circuit, _log(outcome.history, outcome.step, recipe.circuit.steps)

    def train_coupling(
        self, denoiser: DenoiserModule, circuit: pc.CircuitModel, *, resume: bool
    ) -> tuple[CoupledModel, StageLog | None]:
        """The third stage, or what it left behind if it is finished; no log if it had no task."""
        recipe = self.recipe
        model = self._coupled(denoiser, circuit)
        if not recipe.trains_coupling:
            return model, None
        identity = {
            **self.material.identity("coupling-training"),
            **self._made_before(),
        }
        if self.cache is not None:
            return model, self._train_cached(model, self.cache, identity, resume=resume)
        outcome = train_coupling(
            model,
            self.material.train,
            self.material.held_out(),
            recipe.coupling,
            recipe.schedule,
            self.folder("coupling"),
            identity,
            resume=resume,
            **self.options("coupling"),
        )
        return model, _log(outcome.history, outcome.step, recipe.schedule.steps)

    def train_joint(self, model: CoupledModel, *, resume: bool) -> StageLog:
        """The joint stage: the denoiser or its adapters, the head and on request the circuit.

        Of a denoiser that is stored whole the adapters are merged at the end.
        """
        recipe = self.recipe
        assert recipe.joint is not None, "the caller has asked for it"
        identity = {
            **self.material.identity("joint-training"),
            **self._made_before(),
            "coupling_training": {**asdict(recipe.coupling), "schedule": asdict(recipe.schedule)},
            "cache": None if self.cache is None else self.cache.layout.identity,
        }
        if recipe.lora is not None:
            add_lora(model.denoiser, recipe.lora, seed=recipe.joint_schedule.seed)
        outcome = train_coupling(
            model,
            self.material.train,
            self.material.held_out(),
            recipe.joint,
            recipe.joint_schedule,
            self.folder(JOINT),
            identity,
            resume=resume,
            **self.options(JOINT),
        )
        log = _log(outcome.history, outcome.step, recipe.joint_schedule.steps)
        if recipe.lora is not None and self.material.published is None:
            merge_lora(model.denoiser)
        return log

    def _made_before(self) -> dict[str, Any]:
        """What the coupling rests on, as JSON."""
        recipe = self.recipe
        training = {**asdict(recipe.denoiser), "betas": list(recipe.denoiser.betas)}
        return {
            "denoiser": self.material.network_identity(),
            "denoiser_training": training if self.material.published is None else None,
            "circuit_training": asdict(recipe.circuit),
            "window": recipe.window,
            "length": self.material.length,
            "block": recipe.block,
            "modulator": {"kind": recipe.modulator, "rank": recipe.rank},
        }

    def _train_cached(
        self,
        model: CoupledModel,
        cache: DenoiserCache,
        identity: Mapping[str, Any],
        *,
        resume: bool,
    ) -> StageLog:
        recipe = self.recipe
        rates = CachedTraining(
            batch_size=recipe.coupling.batch_size,
            modulator_learning_rate=recipe.coupling.modulator_learning_rate,
            circuit_learning_rate=recipe.coupling.circuit_learning_rate,
            validation_rows=recipe.coupling.validation_windows,
            micro_batches=recipe.coupling.micro_batches,
        )
        outcome = train_cached(
            model.circuit,
            model.modulator,
            model.settings,
            cache,
            rates,
            recipe.schedule,
            self.folder("coupling"),
            identity,
            resume=resume,
            **self.options("coupling"),
        )
        found = _log(outcome.run.history, outcome.run.step, recipe.schedule.steps)
        return replace(found, mean_omitted=outcome.mean_omitted)

    def record(self, logs: Mapping[str, StageLog | None]) -> dict[str, Any]:
        """How a model was made, for its folder."""
        recipe, corpus = self.recipe, self.material.corpus
        return {
            "corpus": {"sha256": corpus.sha256, "source": corpus.source},
            "training": {
                "denoiser": None if self.material.published else asdict(recipe.denoiser),
                "circuit": asdict(recipe.circuit),
                "coupling": {**asdict(recipe.coupling), "schedule": asdict(recipe.schedule)},
                JOINT: _joint_record(recipe),
            },
            "stages": {stage: asdict(log) for stage, log in logs.items() if log is not None},
            "versions": {
                "codd": _installed_version(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    @property
    def _starts_from_latents(self) -> bool:
        """Whether the circuit starts from a published denoiser's hidden states.

        Contexts are better, but need a state for every category.
        """
        few = self.recipe.circuit.num_states < self.material.num_categories
        return few and self.material.published is not None

    def _starting_circuit(self, *, resumed: bool) -> pc.CircuitModel:
        size, recipe = self.material.num_categories, self.recipe
        states, seed = recipe.circuit.num_states, recipe.circuit.seed
        if resumed:
            # The checkpoint brings the parameters: counting again would be for nothing.
            return pc.CircuitModel(pc.families.hmm(recipe.window, states, size))
        denoiser = self.material.published
        if denoiser is None or not self._starts_from_latents:
            return starting_circuit(self.material.train, recipe.window, states, size, seed=seed)
        circuit = pc.CircuitModel(pc.families.hmm(recipe.window, states, size))
        sequences, start = self.material.sequences(), LatentStart(seed=seed)
        found = latent_hmm(denoiser, sequences, states, start=start, device=self.device)
        circuit.set_probabilities(found)
        return circuit

    def _coupled(self, denoiser: DenoiserModule, circuit: pc.CircuitModel) -> CoupledModel:
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights when made
            torch.manual_seed(recipe.schedule.seed)
            modulator = make_modulator(
                recipe.modulator, circuit.plan, denoiser.hidden_size, rank=recipe.rank
            ).to(self.device)
        return CoupledModel(
            denoiser.to(self.device),
            circuit,
            modulator,
            self.material.vocabulary,
            settings=recipe.settings,
            block_length=recipe.block,
        )


def _joint_record(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.joint is None:
        return None
    lora = None if recipe.lora is None else recipe.lora.to_json()
    return {**asdict(recipe.joint), "schedule": asdict(recipe.joint_schedule), "lora": lora}


def _log(history: tuple[HistoryEntry, ...], step: int, steps: int) -> StageLog:
    if step < steps:
        raise StageInterrupted
    last = history[-1]
    return StageLog(step, last.seconds, last.valid_loss)


def _installed_version() -> str:
    try:
        return metadata.version("pcircuits-codd")
    except metadata.PackageNotFoundError:
        return "not installed"
