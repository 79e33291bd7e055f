"""The three stages of training, each in a folder of its own: denoiser, circuit, coupling."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import pcircuits as pc
from codd.checkpoint import has_checkpoint, load_checkpoint
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, ConfigError
from codd.model import CoupledModel
from codd.modulators.registry import MODULATORS, make_modulator
from codd.training.cache import DenoiserCache
from codd.training.cached_loop import CachedTraining, train_cached
from codd.training.circuit_loop import CircuitTraining, starting_circuit, train_circuit
from codd.training.corpus import Corpus
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.denoiser_config import DenoiserTraining
from codd.training.denoiser_loop import train_denoiser
from codd.training.loop import HistoryEntry, Schedule
from codd.training.tensorboard import tensorboard_log
from codd.training.windows import encode_split, evaluation_windows
from codd.vocabulary import Vocabulary

STAGES = ("denoiser", "circuit", "coupling")
_CIRCUIT_VALIDATION_WINDOWS = 512


@dataclass(frozen=True)
class Recipe:
    """How everything is trained.

    Attributes:
        denoiser: The denoiser's stage.
        circuit: The circuit's stage.
        coupling: What the coupling's stage trains.
        schedule: How long the coupling's stage runs.
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
        rates = (self.coupling.circuit_learning_rate, self.coupling.denoiser_learning_rate)
        return self.modulator != "static" or max(rates) > 0

    def steps(self, stage: str) -> int:
        """Steps of a stage."""
        return {
            "denoiser": self.denoiser.steps,
            "circuit": self.circuit.steps,
            "coupling": self.schedule.steps,
        }[stage]


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained on, and the network that fits it.

    Attributes:
        corpus: Text.
        vocabulary: Text to ids.
        network: Shape of the denoiser.
        train: (N,) ids of the training split; (N, R) where the corpus has rows.
        valid: (M,) ids of the validation split; (M, R) where the corpus has rows.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    network: TransformerConfig
    train: Tensor
    valid: Tensor

    @classmethod
    def encoded(
        cls, corpus: Corpus, vocabulary: Vocabulary, network: TransformerConfig
    ) -> Material:
        """Encodes both splits.

        Raises:
            CorpusError: If one is shorter than the longest sequence.
        """
        splits = [
            encode_split(split, vocabulary, rows=corpus.rows)
            for split in (corpus.train, corpus.valid)
        ]
        for tokens in splits:
            evaluation_windows(tokens, network.max_length)
        return cls(corpus, vocabulary, network, *splits)

    def identity(self, kind: str) -> dict[str, Any]:
        """What a checkpoint of this kind must agree on, as JSON."""
        return {
            "kind": kind,
            "corpus": {"sha256": self.corpus.sha256, "source": self.corpus.source},
            "vocabulary": self.vocabulary.fingerprint,
        }


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
    """

    recipe: Recipe
    material: Material
    root: Path
    resume: bool
    group: dist.ProcessGroup | None = None
    cache: DenoiserCache | None = None
    tensorboard: Path | None = None

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

    def train_denoiser(self, *, resume: bool) -> tuple[TransformerDenoiser, StageLog]:
        """The first stage, or what it left behind if it is finished."""
        training = self.recipe.denoiser
        trained = train_denoiser(
            self.material.corpus,
            self.material.vocabulary,
            self.material.network,
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
        valid = evaluation_windows(self.material.valid, recipe.window)
        outcome = train_circuit(
            circuit,
            self.material.train,
            valid[:_CIRCUIT_VALIDATION_WINDOWS],
            recipe.circuit,
            folder,
            {**self.material.identity("circuit-training"), "window": recipe.window},
            resume=resume,
            **self.options("circuit"),
        )
        return circuit, _log(outcome.history, outcome.step, recipe.circuit.steps)

    def train_coupling(
        self, denoiser: TransformerDenoiser, circuit: pc.CircuitModel, *, resume: bool
    ) -> tuple[CoupledModel, StageLog | None]:
        """The third stage, or what it left behind if it is finished; no log if it had no task."""
        recipe = self.recipe
        model = self._coupled(denoiser, circuit)
        if not recipe.trains_coupling:
            return model, None
        identity = {
            **self.material.identity("coupling-training"),
            "denoiser": asdict(self.material.network),
            "denoiser_training": {**asdict(recipe.denoiser), "betas": list(recipe.denoiser.betas)},
            "circuit_training": asdict(recipe.circuit),
            "window": recipe.window,
            "block": recipe.block,
            "modulator": {"kind": recipe.modulator, "rank": recipe.rank},
        }
        if self.cache is not None:
            return model, self._train_cached(model, self.cache, identity, resume=resume)
        outcome = train_coupling(
            model,
            self.material.train,
            evaluation_windows(self.material.valid, model.max_length),
            recipe.coupling,
            recipe.schedule,
            self.folder("coupling"),
            identity,
            resume=resume,
            **self.options("coupling"),
        )
        return model, _log(outcome.history, outcome.step, recipe.schedule.steps)

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
                "denoiser": asdict(recipe.denoiser),
                "circuit": asdict(recipe.circuit),
                "coupling": {**asdict(recipe.coupling), "schedule": asdict(recipe.schedule)},
            },
            "stages": {stage: asdict(log) for stage, log in logs.items() if log is not None},
            "versions": {
                "codd": _installed_version(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _starting_circuit(self, *, resumed: bool) -> pc.CircuitModel:
        size, recipe = self.material.vocabulary.size, self.recipe
        states = recipe.circuit.num_states
        if resumed:
            # The checkpoint brings the parameters: counting contexts again would be for nothing.
            return pc.CircuitModel(pc.families.hmm(recipe.window, states, size))
        seed = recipe.circuit.seed
        return starting_circuit(self.material.train, recipe.window, states, size, seed=seed)

    def _coupled(self, denoiser: TransformerDenoiser, circuit: pc.CircuitModel) -> CoupledModel:
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights when made
            torch.manual_seed(recipe.schedule.seed)
            modulator = make_modulator(
                recipe.modulator, circuit.plan, denoiser.hidden_size, rank=recipe.rank
            )
        return CoupledModel(
            denoiser,
            circuit,
            modulator,
            self.material.vocabulary,
            settings=recipe.settings,
            block_length=recipe.block,
        )


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
