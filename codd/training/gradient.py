"""What gradient training changes: parameters, their moving averages, the optimisers' moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

import pcircuits as pc
from codd.errors import TrainingError
from codd.training.muon import Muon
from codd.training.run_state import RunState
from codd.training.schedule import Schedule, rate_factor, step_seed

AVERAGE_PREFIX = "ema."
Losses = Callable[[int], Iterable[Tensor]]
"""A step -> the parts of its loss, each made when the one before has been differentiated."""
_STATE = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum",)}


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        parameters: Name -> parameter.
        learning_rate: Its peak.
        weight_decay: Decoupled weight decay.
        method: "adamw", or "muon" for weight matrices.
        momentum: Muon's moving-average rate.
        dtype: Number type of Muon's matrix products.
    """

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0
    method: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.95
    dtype: torch.dtype = torch.float32


class GradientLearner:
    """Groups of parameters that follow the gradient of a loss.

    Args:
        losses_at: The loss of a step, in parts that are added up.
        validation: The validation loss of the parameters as they are.
        groups: What is trained.
        schedule: How.
        group: Processes that train together.
    """

    def __init__(
        self,
        losses_at: Losses,
        validation: Callable[[], float],
        groups: Sequence[Group],
        schedule: Schedule,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.losses_at = losses_at
        self.validation = validation
        self.groups = groups
        self.schedule = schedule
        self.named = {n: p for group in groups for n, p in group.parameters.items()}
        self.processes = pc.Processes(group, next(iter(self.named.values())).device)
        self.processes.agree(self.named)
        self.averages = {name: p.detach().clone() for name, p in self.named.items()}
        self.optimisers = [_optimiser(group, schedule) for group in groups]

    def take_step(self, state: RunState) -> float:
        """One step of the optimisers.

        Returns:
            The loss before it, over all processes.

        Raises:
            TrainingError: If the loss is not finite.
        """
        value = self._differentiate(state.step)
        torch.nn.utils.clip_grad_norm_(list(self.named.values()), self.schedule.gradient_clip)
        factor = rate_factor(state.step, self.schedule)
        for optimiser, group in zip(self.optimisers, self.groups, strict=True):
            optimiser.param_groups[0]["lr"] = group.learning_rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self._update_averages(state.step)
        return value

    def validate(self, state: RunState) -> float:
        """The validation loss of the averaged parameters."""
        with torch.no_grad(), self._with_averages():
            return self.validation()

    def install_averages(self) -> None:
        """The averages become the parameters."""
        _copy(self.averages, self.named)

    def tensors(self) -> dict[str, Tensor]:
        """All that later steps depend on."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            found[f"model.{name}"] = parameter.detach()
            found[f"{AVERAGE_PREFIX}{name}"] = self.averages[name]
        for optimiser, group in zip(self.optimisers, self.groups, strict=True):
            for name, parameter in group.parameters.items():
                for key in _STATE[group.method]:
                    found[f"{group.method}.{key}.{name}"] = optimiser.state[parameter][key]
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], state: RunState) -> None:
        """Continues from what `tensors` gave."""
        for name, parameter in self.named.items():
            parameter.copy_(tensors[f"model.{name}"])
            self.averages[name].copy_(tensors[f"{AVERAGE_PREFIX}{name}"])
        for optimiser, group in zip(self.optimisers, self.groups, strict=True):
            for name, parameter in group.parameters.items():
                optimiser.state[parameter] = {
                    key: tensors[f"{group.method}.{key}.{name}"].clone().to(parameter.device)
                    for key in _STATE[group.method]
                }

    def _differentiate(self, step: int) -> float:
        """The loss over all processes; the parameters are given its gradient."""
        own = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(self.schedule.seed, step))
            for loss in self.losses_at(step):
                own += loss.item()
                loss.backward()
        value = self.processes.add_number(own)
        if not math.isfinite(value):
            raise TrainingError(f"step {step}: expected a finite loss, found {value}")
        self._add_gradients()
        return value

    def _add_gradients(self) -> None:
        if self.processes.group is None:
            return
        own = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self.named.items()
        }
        for name, total in self.processes.add(own).items():
            self.named[name].grad = total

    @contextmanager
    def _with_averages(self) -> Iterator[None]:
        current = {name: p.detach().clone() for name, p in self.named.items()}
        self.install_averages()
        try:
            yield
        finally:
            _copy(current, self.named)

    @torch.no_grad()
    def _update_averages(self, step: int) -> None:
        # Early on the average must forget the initial weights faster than its final rate.
        decay = min(self.schedule.ema_decay, (1 + step) / (10 + step))
        current = [p.detach() for p in self.named.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1.0 - decay)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])


def _optimiser(group: Group, schedule: Schedule) -> torch.optim.Optimizer:
    parameters, rate = list(group.parameters.values()), group.learning_rate
    if group.method == "muon":
        return Muon(
            parameters,
            lr=rate,
            momentum=group.momentum,
            weight_decay=group.weight_decay,
            dtype=group.dtype,
        )
    return torch.optim.AdamW(
        parameters, lr=rate, betas=schedule.betas, weight_decay=group.weight_decay, fused=True
    )
