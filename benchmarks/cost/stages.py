"""The trainings that are compared: each resumes, counts its operations and times itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from benchmarks.cost import operations
from benchmarks.cost.notes import ProcessorClock
from benchmarks.cost.settings import CostSettings
from benchmarks.cost.tasks import Tasks
from codd.checkpoint import load_checkpoint, save_checkpoint
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.transformer import TransformerDenoiser
from codd.evaluation.tasks.arithmetic import QUESTION_LENGTH, SOLUTION_LENGTH
from codd.model import CoupledModel
from codd.modulators.registry import make_modulator
from codd.training.circuit_loop import starting_circuit, train_circuit
from codd.training.coupling_loop import train_coupling
from codd.training.denoiser_loop import train_denoiser
from codd.training.grpo import train_grpo
from codd.training.grpo_config import GRPOTraining
from codd.training.run_state import HistoryEntry, Outcome
from codd.training.schedule import Schedule

Log = Callable[[HistoryEntry], None]


@dataclass(frozen=True)
class Trained:
    """A model at some point of its training.

    Attributes:
        method: "coupled", "grpo" or "fine-tuned".
        label: Which point.
        model: The model.
        operations: Floating-point operations since the common denoiser.
        seconds: Processor seconds since then.
        share: The number of steps it was trained for; None for all.
    """

    method: str
    label: str
    model: CoupledModel
    operations: float
    seconds: float
    share: int | None = None


@dataclass(frozen=True, eq=False)
class Stages:
    """Trains what is compared, in folders of a run.

    Attributes:
        settings: How.
        tasks: On what.
        root: Folder of the run.
        say: Called with a line after each validation.
    """

    settings: CostSettings
    tasks: Tasks
    root: Path
    say: Callable[[str], None]

    @cached_property
    def denoiser(self) -> TransformerDenoiser:
        """The denoiser that all comparisons start from."""
        own, vocabulary = self.settings, self.tasks.vocabulary
        trained = train_denoiser(
            self.tasks.corpus,
            vocabulary,
            own.network(vocabulary.size),
            own.denoiser,
            self.root / "denoiser",
            resume=True,
            log=self._log("denoiser"),
            show_progress=False,
        )
        self._finished(trained.step, own.denoiser.steps)
        return trained.model

    def denoiser_cost(self) -> tuple[float, float]:
        """Operations and processor seconds of the denoiser's own training."""
        own, shape = self.settings.denoiser, self.denoiser.config
        once = operations.denoiser_forward(shape, own.batch_size, own.window_length)
        return operations.TRAINED * once * own.steps, self._seconds("denoiser", own.steps)

    def circuits(self) -> Iterator[Trained]:
        """Circuits from ever longer runs of EM on solutions; no denoiser is involved."""
        for steps in self.settings.em_steps:
            training = replace(self.settings.circuit, steps=steps)
            circuit = self._circuit(steps)
            work = operations.em_step(circuit.plan, training.batch_size) * steps
            seconds = self._seconds(f"em-{steps}", steps)
            yield Trained("coupled", f"EM, {steps}", self._coupled(circuit), work, seconds)

    def heads(self) -> Iterator[Trained]:
        """The longest run's circuit with a latent head on the denoiser's hidden states."""
        own, steps = self.settings, self.settings.em_steps[-1]
        circuit, schedule = self._circuit(steps), own.head_schedule
        model = self._coupled(circuit, "latent")
        outcome = train_coupling(
            model,
            self.tasks.rows["train"],
            self.tasks.rows["valid"],
            own.head,
            schedule,
            self.root / "head",
            self._identity("head", asdict(replace(own.circuit, steps=steps))),
            resume=True,
            log=self._log("head"),
            show_progress=False,
        )
        self._finished(outcome.step, schedule.steps)
        shape = self.denoiser.config
        once = operations.coupling_step(circuit.plan, model.settings, shape, own.head.batch_size)
        em = operations.em_step(circuit.plan, own.circuit.batch_size) * steps
        seconds = self._seconds(f"em-{steps}", steps) + self._seconds("head", schedule.steps)
        yield Trained("coupled", "EM, then head", model, em + once * schedule.steps, seconds)

    def tuned_by_reinforcement(self, share: int) -> Iterator[Trained]:
        """The denoiser along its tuning for one number of steps."""
        denoiser, name = copy.deepcopy(self.denoiser), f"grpo-{share}"
        training = self._reinforcement(share, self.reinforcement_rate)

        def tune(log: Log) -> Outcome:
            return self._reinforce(denoiser, name, training, self.settings.grpo_schedule, log)

        once = operations.grpo_update(denoiser.config, training)
        yield from self._along("grpo", name, denoiser, tune, once, share)

    @cached_property
    def reinforcement_rate(self) -> float:
        """The learning rate after which most validation problems are solved in the fewest steps."""
        own, share = self.settings, max(self.settings.shares)
        schedule = replace(own.grpo_schedule, steps=own.grpo_trial)
        solved = {}
        for rate in own.grpo_rates:
            name, training = f"grpo-trial-{rate:g}", self._reinforcement(share, rate)
            denoiser = copy.deepcopy(self.denoiser)
            outcome = self._reinforce(denoiser, name, training, schedule, self._log(name))
            self._finished(outcome.step, schedule.steps)
            solved[rate] = -outcome.history[-1].valid_loss
        return max(solved, key=lambda rate: solved[rate])

    def _reinforcement(self, share: int, rate: float) -> GRPOTraining:
        own, steps = self.settings.grpo, SOLUTION_LENGTH // share
        return replace(own, decoding_steps=steps, learning_rate=rate)

    def _reinforce(
        self,
        denoiser: TransformerDenoiser,
        name: str,
        training: GRPOTraining,
        schedule: Schedule,
        log: Log,
    ) -> Outcome:
        return train_grpo(
            denoiser,
            self.tasks.rewarded("train"),
            self.tasks.rewarded("valid"),
            training,
            schedule,
            self.root / name,
            self._identity("grpo"),
            resume=True,
            log=log,
            show_progress=False,
        )

    def tuned_on_solutions(self) -> Iterator[Trained]:
        """The denoiser along further training on solutions, the control."""
        own, denoiser = self.settings, copy.deepcopy(self.denoiser)
        model = self._uncoupled(denoiser)

        def tune(log: Log) -> Outcome:
            return train_coupling(
                model,
                self.tasks.rows["train"],
                self.tasks.rows["valid"],
                own.tuning,
                own.tuning_schedule,
                self.root / "tuning",
                self._identity("tuning"),
                resume=True,
                log=log,
                show_progress=False,
            )

        shape = denoiser.config
        once = operations.denoiser_forward(shape, own.tuning.batch_size, shape.max_length)
        once *= operations.TRAINED
        yield from self._along("fine-tuned", "tuning", denoiser, tune, once, None)

    def base(self) -> Trained:
        """The common denoiser itself."""
        return Trained("factorised", "denoiser", self._uncoupled(self.denoiser), 0.0, 0.0)

    def _along(
        self,
        method: str,
        name: str,
        denoiser: TransformerDenoiser,
        tune: Callable[[Log], Outcome],
        once: float,
        share: int | None,
    ) -> Iterator[Trained]:
        """Tunes a denoiser, keeping its weights at each validation; yields it at each of them."""
        log = self._log(name)

        def keep(entry: HistoryEntry) -> None:
            log(entry)
            save_checkpoint(self.root / f"{name}-{entry.step}", denoiser.state_dict(), {})

        outcome = tune(keep)
        steps = [entry.step for entry in outcome.history]
        self._finished(outcome.step, steps[-1] if steps else 1)
        for step in steps:
            then = copy.deepcopy(self.denoiser)
            then.load_state_dict(load_checkpoint(self.root / f"{name}-{step}").tensors)
            model, seconds = self._uncoupled(then), self._seconds(name, step)
            yield Trained(method, f"{step} updates", model, once * step, seconds, share)

    def _circuit(self, steps: int) -> pc.CircuitModel:
        own, name = self.settings, f"em-{steps}"
        solutions = {s: rows[:, QUESTION_LENGTH:] for s, rows in self.tasks.rows.items()}
        log = self._log(name)  # from here on: counting the contexts to start from costs time too
        circuit = starting_circuit(
            solutions["train"], SOLUTION_LENGTH, own.circuit.num_states, self.tasks.vocabulary.size
        )
        outcome = train_circuit(
            circuit,
            solutions["train"],
            solutions["valid"],
            replace(own.circuit, steps=steps),
            self.root / name,
            self._identity("circuit"),
            resume=True,
            log=log,
            show_progress=False,
        )
        self._finished(outcome.step, steps)
        return circuit

    def _coupled(self, circuit: pc.CircuitModel, modulator: str = "static") -> CoupledModel:
        with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights when made
            torch.manual_seed(0)
            made = make_modulator(modulator, circuit.plan, self.denoiser.hidden_size, rank=32)
        return CoupledModel(
            self.denoiser, circuit, made, self.tasks.vocabulary, block_length=SOLUTION_LENGTH
        )

    def _uncoupled(self, denoiser: TransformerDenoiser) -> CoupledModel:
        """A model whose circuit, of one state, is never asked."""
        vocabulary = self.tasks.vocabulary
        circuit = pc.CircuitModel(pc.families.hmm(SOLUTION_LENGTH, 1, vocabulary.size), seed=0)
        made = make_modulator("static", circuit.plan, denoiser.hidden_size, rank=1)
        off = CouplingSettings("factorised")
        return CoupledModel(
            denoiser, circuit, made, vocabulary, settings=off, block_length=SOLUTION_LENGTH
        )

    def _identity(self, kind: str, circuit: dict[str, Any] | None = None) -> dict[str, Any]:
        training = asdict(self.settings.denoiser)
        return {
            "kind": f"cost-{kind}",
            "problems": self.tasks.corpus.sha256,
            "denoiser": {
                "width": self.settings.width,
                "layers": self.settings.layers,
                "training": {**training, "betas": list(training["betas"])},
            },
            "circuit": circuit,
        }

    def _log(self, name: str) -> Log:
        clock = ProcessorClock(self.root / name / "processor-seconds.json")

        def log(entry: HistoryEntry) -> None:
            clock.mark(entry.step)
            self.say(
                f"{name}: step {entry.step}, loss {entry.train_loss:.4f}, valid "
                f"{entry.valid_loss:.4f}, {clock.seconds()[entry.step]:.0f} processor seconds"
            )

        return log

    def _seconds(self, name: str, step: int) -> float:
        return ProcessorClock(self.root / name / "processor-seconds.json").seconds()[step]

    @staticmethod
    def _finished(step: int, steps: int) -> None:
        if step < steps:
            raise KeyboardInterrupt("; the same command continues")
