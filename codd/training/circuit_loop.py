"""Training the circuit alone: maximum likelihood on text by mini-batch EM, no denoiser involved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import pcircuits as pc
from codd.errors import ConfigError
from codd.training.loop import learn
from codd.training.processes import check_shares
from codd.training.run_state import HistoryEntry, Outcome, RunState
from codd.training.schedule import step_seed
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
    learner = _Learner(circuit, train, valid, training, group)
    outcome = learn(
        learner,
        training,
        folder,
        {**identity, "training": asdict(training)},
        title="circuit",
        resume=resume,
        log=log,
        show_progress=show_progress,
    )
    if outcome.history:
        circuit.set_log_parameters(learner.best)
    return outcome


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

    Examples:
        >>> from codd.training import starting_circuit
        >>> text = torch.tensor([0, 1, 2] * 50)  # (N,) tokens
        >>> circuit = starting_circuit(text, window=6, num_states=4, num_categories=3)
        >>> circuit.log_likelihood(text[None, :6]) > circuit.log_likelihood(text[None, :6].flip(1))
        tensor([True])
    """
    circuit = pc.CircuitModel(pc.families.hmm(window, num_states, num_categories), seed=seed)
    if num_states >= num_categories:
        text = train if train.dim() == 1 else evaluation_windows(train, window).flatten()
        circuit.set_probabilities(pc.context_hmm(text, num_states, num_categories))
    return circuit


class _Learner:
    """The circuit's parameters and the counts that they come from."""

    def __init__(
        self,
        circuit: pc.CircuitModel,
        train: Tensor,
        valid: Tensor,
        training: CircuitTraining,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.plan, self.training = circuit.plan, training
        self.train, self.valid = train, valid
        self.num_rows = len(evaluation_windows(train, self.plan.num_variables))
        self.state = pc.EMState()
        self.parameters = {n: p.detach() for n, p in circuit.log_parameters().items()}
        self.device = circuit.log_weights[0].device
        self.processes = pc.Processes(group, self.device)
        self.processes.agree(self.parameters)
        self.best = self.parameters
        self.settings = pc.EMSettings(
            decay=training.decay, warmup=training.warmup, pseudocount=training.pseudocount
        )

    def take_step(self, state: RunState) -> float:
        generator = torch.Generator().manual_seed(step_seed(self.training.seed, state.step))
        window = self.plan.num_variables
        windows = sample_windows(self.train, window, self.training.batch_size, generator)
        own = windows[self.processes.share(torch.arange(len(windows)))]
        counts, value = pc.flows(self.plan, self.parameters, pc.Evidence(own.to(self.device)))
        scale = self.num_rows / len(windows)
        self.parameters, self.state = pc.em_update(
            self.plan,
            self.parameters,
            self.state,
            {name: count * scale for name, count in self.processes.add(counts).items()},
            self.settings,
            num_rows=self.num_rows,
        )
        total = self.processes.add_number(float(value.double().sum()))
        return -total / len(windows) / window

    def validate(self, state: RunState) -> float:
        prepared = pc.prepare(self.plan, self.parameters)
        values = [
            pc.queries.log_likelihood(self.plan, prepared, part.to(self.device))
            for part in self.valid.split(self.training.batch_size)
        ]
        loss = -float(torch.cat(values).double().mean()) / self.valid.shape[1]
        if all(loss < entry.valid_loss for entry in state.history):
            self.best = self.parameters
        return loss

    def tensors(self) -> dict[str, Tensor]:
        parts = {
            "parameters": self.parameters,
            "best": self.best,
            "counts": self.state.counts or {},
        }
        return {f"{part}.{n}": t for part, named in parts.items() for n, t in named.items()}

    def restore(self, tensors: Mapping[str, Tensor], state: RunState) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            found = {name: tensors[f"{prefix}.{name}"] for name in self.parameters}
            return {name: tensor.to(self.device) for name, tensor in found.items()}

        self.parameters, self.best = part("parameters"), part("best")
        self.state = pc.EMState(state.step, part("counts"))
