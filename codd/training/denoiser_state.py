"""Everything that changes during a training run, and its way to tensors and JSON and back."""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from codd.denoisers.transformer import TransformerDenoiser
from codd.training.denoiser_config import DenoiserTraining
from codd.training.loop import HistoryEntry, rate_factor
from codd.training.muon import Muon

AVERAGE_PREFIX = "ema."


@dataclass
class TrainingState:
    """Everything that changes during a run.

    Attributes:
        model: The network with its latest weights.
        training: How it is trained.
        step: Optimiser steps done.
        loss_sum: Sum of the training losses since the last validation.
        loss_count: Their number.
        seconds: Training time so far.
        history: One entry a validation.
        average: Moving average of the weights by name.
        optimisers: Muon for the blocks' matrices, AdamW for all else.
    """

    model: TransformerDenoiser
    training: DenoiserTraining
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    history: list[HistoryEntry] = field(default_factory=list)
    average: dict[str, Tensor] = field(init=False)
    optimisers: tuple[torch.optim.Optimizer, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Starts the average at the initial weights and makes fresh optimisers."""
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.optimisers = _optimisers(self.model, self.training)

    def averaged_model(self) -> TransformerDenoiser:
        """A copy of the network with the averaged weights, for evaluation only."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    def descend(self) -> None:
        """Moves the weights along the gradients they hold, then their average, then the step."""
        parameters = list(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(parameters, self.training.gradient_clip)
        factor = rate_factor(self.step, self.training.schedule)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            optimiser.step()
        self.model.zero_grad(set_to_none=True)
        # Early on the average must forget the initial weights faster than its final rate.
        decay = min(self.training.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, parameter in zip(self.average.values(), parameters, strict=True):
                average.lerp_(parameter, 1.0 - decay)
        self.step += 1

    def tensors(self) -> dict[str, Tensor]:
        """All weights, averages and optimiser states by name, not copied."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            found[f"model.{name}"] = parameter.detach()
            found[f"{AVERAGE_PREFIX}{name}"] = self.average[name]
            for optimiser in self.optimisers:
                # `get`, since looking a missing parameter up would create an empty entry.
                for key, value in optimiser.state.get(parameter, {}).items():
                    found[f"{type(optimiser).__name__}.{key}.{name}"] = value
        return found

    def summary(self) -> str:
        """The latest losses in a few words."""
        words = f"loss {self.loss_sum / max(self.loss_count, 1):.3f}"
        return words + (f", valid {self.history[-1].valid_loss:.3f}" if self.history else "")

    def metadata(self) -> dict[str, Any]:
        """The counters and the history as JSON."""
        return {
            "step": self.step,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "seconds": self.seconds,
            "history": [asdict(entry) for entry in self.history],
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Takes over what `tensors` and `metadata` gave.

        Args:
            tensors: Name to tensor.
            metadata: Counters and history.

        Raises:
            KeyError: If an entry is missing.
            RuntimeError: If a tensor has another shape.
        """
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            self.average[name].copy_(tensors[f"{AVERAGE_PREFIX}{name}"])
        for optimiser in self.optimisers:
            _restore_optimiser(optimiser, self.model, tensors)
        self.step = metadata["step"]
        self.loss_sum = metadata["loss_sum"]
        self.loss_count = metadata["loss_count"]
        self.seconds = metadata["seconds"]
        self.history = [HistoryEntry(**entry) for entry in metadata["history"]]


def _optimisers(
    model: TransformerDenoiser, training: DenoiserTraining
) -> tuple[torch.optim.Optimizer, ...]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = name.startswith("blocks.") and parameter.dim() == 2
        (matrices if inside else others).append(parameter)
    muon = Muon(
        matrices,
        lr=training.matrix_learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        dtype=training.dtype,
    )
    adam = torch.optim.AdamW(
        others, lr=training.learning_rate, betas=training.betas, weight_decay=0.0, fused=True
    )
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return muon, adam


def _restore_optimiser(
    optimiser: torch.optim.Optimizer, model: TransformerDenoiser, tensors: dict[str, Tensor]
) -> None:
    own = {id(p) for group in optimiser.param_groups for p in group["params"]}
    keys = ("momentum",) if isinstance(optimiser, Muon) else ("step", "exp_avg", "exp_avg_sq")
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            optimiser.state[parameter] = {
                key: tensors[f"{type(optimiser).__name__}.{key}.{name}"].clone() for key in keys
            }
