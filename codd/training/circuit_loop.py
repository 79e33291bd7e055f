"""Training the circuit alone: maximum likelihood on text by mini-batch EM, no denoiser involved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import pcircuits as pc
from codd.checkpoint import save_checkpoint
from codd.errors import CheckpointError, ConfigError
from codd.training.loop import (
    HistoryEntry,
    Outcome,
    check_shares,
    checkpoint_of,
    progress_bar,
    step_seed,
)
from codd.training.windows import evaluation_windows, sample_windows


@dataclass(frozen=True)
class CircuitTraining:
    """How a hidden Markov model is learned from text.

    Attributes:
        num_states: States K.
        steps: Mini-batches.
        batch_size: Windows a batch.
        decay: Exponent of the step sizes.
        warmup: Batches averaged before the first update.
        pseudocount: Expected count added to every distribution.
        validate_every: Batches between validations.
        checkpoint_every: Batches between checkpoints.
        seed: Seed of the windows.
    """

    num_states: int = 1024
    steps: int = 300
    batch_size: int = 512
    decay: float = 0.6
    warmup: int = 8
    pseudocount: float = 1.0
    validate_every: int = 20
    checkpoint_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_states", "steps", "batch_size", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")


def train_circuit(
    circuit: pc.CircuitModel,
    train: Tensor,
    valid: Tensor,
    training: CircuitTraining,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    resume: bool = False,
    group: dist.ProcessGroup | None = None,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Learns a circuit's parameters from text, in place; keeps the best on the held-out windows.

    Args:
        circuit: The circuit with its starting parameters; see `starting_circuit`.
        train: (N,) tokens, or (N, R) of rows.
        valid: (M, W) held-out windows.
        training: How.
        folder: Where checkpoints go.
        identity: JSON values that say what the circuit and data are.
        resume: Continue from the checkpoint in `folder` if there is one.
        group: Processes that share every batch; each is given the same arguments, and all end with
            the same parameters.
        log: Called with every validation, by the first process only.
        show_progress: Draw a progress bar.

    Returns:
        History and step; losses are nats per token.

    Raises:
        CheckpointError: If `folder` holds a checkpoint of another run, or one while not resuming.
    """
    check_shares(group, training.batch_size)
    run = _Run(circuit, training, group)
    identity = {**identity, "training": asdict(training)}
    checkpoint = checkpoint_of(folder, identity, resume=resume)
    if checkpoint is not None:
        try:
            run.restore(checkpoint.tensors, checkpoint.metadata)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: missing or misshapen entry {error}") from error
    bar = progress_bar("circuit", run, training.steps, shown=show_progress and run.leads)
    with pc.stop_on_interrupt() as stop, bar as report:
        saved = run.step
        while run.step < training.steps and not run.processes.any(stop.requested):
            run.take_step(train)
            if run.step == training.steps or run.step % training.validate_every == 0:
                run.validate(valid)
                if log is not None and run.leads:
                    log(run.history[-1])
            if run.step % training.checkpoint_every == 0:
                run.save(folder, identity)
                saved = run.step
            report()
        if saved != run.step:
            run.save(folder, identity)
    if run.history:
        circuit.set_log_parameters(run.best)
    return Outcome(tuple(run.history), run.step, run.seconds)


def starting_circuit(
    train: Tensor, window: int, num_states: int, num_categories: int, *, seed: int = 0
) -> pc.CircuitModel:
    """A homogeneous HMM over a window, started from the contexts of the text.

    Args:
        train: (N,) tokens, or (N, R) of rows.
        window: Tokens W of a window.
        num_states: States K; with fewer than V the start is random, since contexts need at least
            one state for each category.
        num_categories: Number of categories V.
        seed: Seed of a random start.

    Returns:
        The circuit with its starting parameters.
    """
    circuit = pc.CircuitModel(pc.families.hmm(window, num_states, num_categories), seed=seed)
    if num_states >= num_categories:
        text = train if train.dim() == 1 else evaluation_windows(train, window).flatten()
        circuit.set_probabilities(pc.context_hmm(text, num_states, num_categories))
    return circuit


@dataclass
class _Run:
    """Everything that changes during a run."""

    circuit: pc.CircuitModel
    training: CircuitTraining
    group: dist.ProcessGroup | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    history: list[HistoryEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = pc.EMState()
        self.parameters = {n: p.detach() for n, p in self.circuit.log_parameters().items()}
        self.device = self.circuit.log_weights[0].device
        self.processes = pc.Processes(self.group, self.device)
        self.processes.agree(self.parameters)
        self.best = self.parameters
        self.settings = pc.EMSettings(
            decay=self.training.decay,
            warmup=self.training.warmup,
            pseudocount=self.training.pseudocount,
        )

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def leads(self) -> bool:
        return self.processes.rank == 0

    def take_step(self, train: Tensor) -> None:
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(step_seed(self.training.seed, self.step))
        window = self.circuit.plan.num_variables
        windows = sample_windows(train, window, self.training.batch_size, generator)
        own = windows[self.processes.share(torch.arange(len(windows)))]
        counts, value = pc.flows(
            self.circuit.plan, self.parameters, pc.Evidence(own.to(self.device))
        )
        num_rows = len(evaluation_windows(train, window))
        scale = num_rows / len(windows)
        self.parameters, self.state = pc.em_update(
            self.circuit.plan,
            self.parameters,
            self.state,
            {name: count * scale for name, count in self.processes.add(counts).items()},
            self.settings,
            num_rows=num_rows,
        )
        total = self.processes.add_number(float(value.double().sum()))
        self.loss_sum -= total / len(windows) / window
        self.loss_count += 1
        self.seconds += time.perf_counter() - started

    def save(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        if self.leads:
            save_checkpoint(folder, self.tensors(), {**identity, **self.metadata()})

    def validate(self, valid: Tensor) -> None:
        started = time.perf_counter()
        prepared = pc.prepare(self.circuit.plan, self.parameters)
        values = [
            pc.queries.log_likelihood(self.circuit.plan, prepared, part.to(self.device))
            for part in valid.split(self.training.batch_size)
        ]
        loss = -float(torch.cat(values).double().mean()) / valid.shape[1]
        if all(loss < entry.valid_loss for entry in self.history):
            self.best = self.parameters
        self.seconds += time.perf_counter() - started
        train_loss = self.loss_sum / max(self.loss_count, 1)
        self.history.append(HistoryEntry(self.step, train_loss, loss, self.seconds))
        self.loss_sum, self.loss_count = 0.0, 0

    def summary(self) -> str:
        state = f"loss {self.loss_sum / max(self.loss_count, 1):.3f}"
        return state + (f", valid {self.history[-1].valid_loss:.4f}" if self.history else "")

    def tensors(self) -> dict[str, Tensor]:
        parts = {
            "parameters": self.parameters,
            "best": self.best,
            "counts": self.state.counts or {},
        }
        return {f"{part}.{n}": t for part, named in parts.items() for n, t in named.items()}

    def metadata(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "seconds": self.seconds,
            "history": [asdict(entry) for entry in self.history],
        }

    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            found = {name: tensors[f"{prefix}.{name}"] for name in self.parameters}
            return {name: tensor.to(self.device) for name, tensor in found.items()}

        self.parameters, self.best = part("parameters"), part("best")
        self.state = pc.EMState(metadata["step"], part("counts"))
        self.loss_sum = metadata["loss_sum"]
        self.loss_count = metadata["loss_count"]
        self.seconds = metadata["seconds"]
        self.history = [HistoryEntry(**entry) for entry in metadata["history"]]
