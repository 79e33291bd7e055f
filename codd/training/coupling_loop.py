"""Training the coupling: exact conditional log-likelihood through the denoiser.

The circuit and the modulator learn to make the true masked tokens likely, jointly, given what the
denoiser says of a partly masked window, over uniformly drawn mask ratios. The denoiser is frozen,
or trained along: all of it, or its adapters alone where it has some (`codd.denoisers.lora`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import pcircuits as pc
from codd.denoisers.lora import lora_of, lora_parameters
from codd.errors import ConfigError
from codd.model import CoupledModel
from codd.training.corruption import CorruptedBatch, WindowTask
from codd.training.gradient import Group
from codd.training.loop import optimise
from codd.training.processes import check_shares, micro_batches
from codd.training.run_state import HistoryEntry, Outcome
from codd.training.schedule import Schedule, step_seed
from codd.training.windows import sample_windows


@dataclass(frozen=True)
class CouplingTraining:
    """How a circuit and a modulator are trained through a denoiser.

    Attributes:
        batch_size: Windows a step.
        prompt_fraction: Share of windows of which only the last block is masked.
        modulator_learning_rate: Peak for the modulator.
        circuit_learning_rate: Peak for the circuit's log-weights; 0 keeps what maximum likelihood
            found, and makes a step about twice as fast.
        denoiser_learning_rate: Peak for the denoiser, or for its adapters where it has some; 0
            keeps it frozen.
        validation_windows: Windows a validation uses.
        micro_batches: Parts of a step that follow each other, their gradients added up: a step
            takes the memory of one part.

    Examples:
        >>> from codd.training import CouplingTraining
        >>> CouplingTraining(batch_size=8).circuit_learning_rate  # the circuit stays as it is
        0.0
    """

    batch_size: int = 32
    prompt_fraction: float = 0.75
    modulator_learning_rate: float = 2e-3
    circuit_learning_rate: float = 0.0
    denoiser_learning_rate: float = 0.0
    validation_windows: int = 128
    micro_batches: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "validation_windows", "micro_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.prompt_fraction <= 1:
            raise ConfigError(f"prompt_fraction: expected 0 to 1, found {self.prompt_fraction}")


def train_coupling(
    model: CoupledModel,
    train: Tensor,
    valid: Tensor,
    training: CouplingTraining,
    schedule: Schedule,
    folder: str | Path,
    identity: Mapping[str, Any],
    *,
    resume: bool = False,
    group: dist.ProcessGroup | None = None,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Trains a model's circuit and modulator, and on request its denoiser, in place.

    Args:
        model: The coupled model; its own settings say which coupling is trained.
        train: (N,) training tokens, or (N, R) of rows.
        valid: (M, L) held-out windows; the training windows have as many tokens L, at most the
            denoiser's longest sequence.
        training: What is trained and how fast.
        schedule: How long.
        folder: Where checkpoints go.
        identity: JSON values that say what the model and data are.
        resume: Continue from the checkpoint in `folder` if there is one.
        group: Processes that share every batch; each is given the same arguments, and all end with
            the same parameters.
        log: Called with every validation, by the first process only.
        show_progress: Draw a progress bar.

    Returns:
        History and step; losses are nats per masked token of the window.

    Raises:
        ConfigError: If nothing would be trained, or the windows are shorter than the circuit's or
            longer than the denoiser takes.
        CheckpointError: If `folder` holds a checkpoint of another run.

    Examples:
        >>> from codd.training import CouplingTraining, Schedule, train_coupling
        >>> shape = codd.TransformerConfig(num_categories=3, max_length=8, width=8, num_layers=1)
        >>> circuit = pc.CircuitModel(pc.families.hmm(8, num_states=4, num_categories=3), seed=0)
        >>> model = codd.CoupledModel.from_parts(
        ...     codd.TransformerDenoiser(shape, seed=0),
        ...     circuit,
        ...     modulator="latent",
        ...     vocabulary=codd.CharacterVocabulary.from_text(["ab"], min_count=1),
        ... )
        >>> text = torch.tensor([0, 1, 2] * 50)  # (N,) tokens
        >>> run = train_coupling(
        ...     model,
        ...     text,
        ...     text[:64].view(8, 8),
        ...     CouplingTraining(batch_size=4),
        ...     Schedule(steps=2),
        ...     "run",  # checkpoints go there
        ...     {"about": "an example"},
        ...     show_progress=False,
        ... )
        >>> run.step, len(run.history)
        (2, 1)
    """
    if not model.window <= valid.shape[1] <= model.max_length:
        raise ConfigError(
            f"valid: expected windows of {model.window} to {model.max_length} tokens, found "
            f"{valid.shape[1]}"
        )
    groups = rate_groups(
        [
            *_member_parts(model, training),
            ("denoiser", model.denoiser, training.denoiser_learning_rate),
        ]
    )
    check_shares(group, training.batch_size)
    device = model.circuit.log_weights[0].device
    processes = pc.Processes(group, device)
    length, task = valid.shape[1], _task(model, training)

    def losses_at(step: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(step_seed(schedule.seed, step))
        windows = sample_windows(train, length, training.batch_size, generator)
        batch, start = task.draw(windows, generator)
        own = processes.share(torch.arange(training.batch_size))
        for rows in micro_batches(own, training.micro_batches):
            part = batch.select(rows).to(device)
            loss = coupling_loss(model, part, start[rows].to(device), training)
            yield loss * len(rows) / training.batch_size

    def validate() -> float:
        generator = torch.Generator().manual_seed(schedule.seed)
        count = min(training.validation_windows, len(valid))
        chosen = valid[torch.randperm(len(valid), generator=generator)[:count]]
        losses = []
        for part in chosen.split(training.batch_size):
            batch, start = task.draw(part, generator)
            loss = coupling_loss(model, batch.to(device), start.to(device), training)
            losses.append(float(loss) * len(part))
        return sum(losses) / count

    adapters = lora_of(model.denoiser)
    identity = {
        **identity,
        "coupling": asdict(model.settings),
        "training": asdict(training),
        "lora": None if adapters is None else adapters.to_json(),
    }
    return optimise(
        losses_at,
        validate,
        groups,
        schedule,
        folder,
        identity,
        title="coupling",
        resume=resume,
        group=group,
        log=log,
        show_progress=show_progress,
    )


def coupling_loss(
    model: CoupledModel, batch: CorruptedBatch, start: Tensor, training: CouplingTraining
) -> Tensor:
    """Mean negative conditional log-likelihood per masked token of each row's window.

    Args:
        model: The coupled model.
        batch: Corrupted sequences (B, L).
        start: (B,) first position of each row's window.
        training: Says whether gradients go through the denoiser.

    Returns:
        A scalar in nats per masked token; rows without a masked token count zero.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and training.denoiser_learning_rate > 0):
        output = model.denoise(batch.tokens)
    distribution = model.distribution(output, batch.tokens, start, include=batch.targets)
    index = start[:, None] + torch.arange(model.window, device=start.device)
    log_prob = distribution.log_prob(batch.targets.gather(1, index))
    masked = batch.masked.gather(1, index).sum(1)
    return -(log_prob / masked.clamp_min(1)).mean()


def _member_parts(
    model: CoupledModel, training: CouplingTraining
) -> list[tuple[str, nn.Module, float]]:
    """Circuits and modulators with their rates; what does not condition is not trained."""
    rate = training.modulator_learning_rate * model.settings.conditioned
    found: list[tuple[str, nn.Module, float]] = []
    for i, (circuit, modulator) in enumerate(model.members):
        number = f"-{i}" if i else ""
        found.append((f"modulator{number}", modulator, rate))
        found.append((f"circuit{number}", circuit, training.circuit_learning_rate))
    return found


def _task(model: CoupledModel, training: CouplingTraining) -> WindowTask:
    return WindowTask(model.window, model.block, model.mask_id, training.prompt_fraction)


def rate_groups(parts: Sequence[tuple[str, nn.Module, float]]) -> list[Group]:
    """What is trained of some modules; the rest of them is frozen.

    Args:
        parts: (prefix of the parameters' names, module, peak learning rate); 0 freezes. Of a
            module with adapters these alone are trained.

    Raises:
        ConfigError: If nothing would be trained.
    """
    groups = []
    for prefix, module, rate in parts:
        module.requires_grad_(False)
        trainable = lora_parameters(module) or dict(module.named_parameters())
        named = {f"{prefix}.{n}": p for n, p in trainable.items()}
        for parameter in named.values():
            parameter.requires_grad_(rate > 0)
        if named and rate > 0:
            groups.append(Group(named, rate))
    if not groups:
        raise ConfigError("nothing would be trained: every learning rate is zero")
    return groups
