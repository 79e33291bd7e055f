"""Maximum likelihood, or maximum conditional likelihood, by any torch optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pcircuits.errors import EvidenceError
from pcircuits.execute.evidence import Evidence
from pcircuits.learning.flows import log_prior
from pcircuits.learning.history import History
from pcircuits.learning.loop import Schedule, learn
from pcircuits.learning.objective import (
    Learnable,
    check_has_parameters,
    checked_targets,
    log_objective,
    total_objective,
)
from pcircuits.learning.processes import Processes
from pcircuits.learning.rows import Rows, rows_of


class LearnableModule(Learnable, Protocol):
    """A module whose log-weights are functions of its parameters, such as `CircuitModel`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimiser changes, as of any `nn.Module`."""


def fit_gradient(
    model: LearnableModule,
    data: Tensor | Evidence,
    *,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    targets: Sequence[int] = (),
    epochs: int = 20,
    batch_size: int | None = 64,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    pseudocount: float = 0.1,
    tolerance: float = 0.0,
    valid: Tensor | Evidence | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    group: dist.ProcessGroup | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Fits a model's parameters to data by gradient ascent; the model is updated in place.

    The objective is the rows' mean log-likelihood plus the prior that pseudocounts stand for,
    which is what full EM climbs too. Where sums or inputs have no weights, the circuit is divided
    by its total. Weights that are exactly zero stay zero.

    Args:
        model: A module such as `CircuitModel`.
        data: (N, L) integers, or evidence of any kind about N examples.
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        targets: Variables, for example a class label, that are to be predicted: the objective is
            then log p(targets | all other evidence), the conditional likelihood.
        epochs: Passes over the data.
        batch_size: Rows of a mini-batch; None: all.
        optimizer: Makes the optimiser of the parameters; default Adam at 0.05. Its `step` is
            given a closure, so LBFGS works too.
        pseudocount: Count added to each distribution, spread over its non-zero weights.
        tolerance: Stop when an epoch's mean objective changes by less than this; 0 = never.
        valid: (M, L) held-out rows or evidence about them, measured after each epoch.
        patience: As in `fit_em`.
        checkpoint: As in `fit_em`; the optimiser's state is part of it.
        checkpoint_every: As in `fit_em`.
        resume: As in `fit_em`.
        group: As in `fit_em`.
        seed: Seed of the batches' order.
        progress: Whether to show a progress bar.

    Returns:
        One record an epoch; interrupting (Ctrl-C) ends learning after the update under way.

    Raises:
        EvidenceError: If data does not fit the circuit, a row has probability zero, or a
            log-likelihood is NaN because the optimiser has left the finite numbers.
        ParameterError: If the circuit has no parameters.
        FormatError: If the folder holds a checkpoint of another run, or one while not resuming.
        ValueError: If a number is out of range.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> rows = torch.tensor([[0], [0], [0], [1]])
        >>> history = pc.fit_gradient(
        ...     model, rows, epochs=100, batch_size=None, pseudocount=0.0, progress=False
        ... )
        >>> model.probabilities()["input_0"].round(decimals=2)
        tensor([[0.7500, 0.2500]])
    """
    schedule = Schedule(
        epochs=epochs,
        batch_size=batch_size,
        tolerance=tolerance,
        patience=patience,
        has_valid=valid is not None,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )
    if not 0 <= pseudocount < torch.inf:
        raise ValueError(f"expected a finite pseudocount >= 0; found {pseudocount}")
    check_has_parameters(model.plan)
    rows = rows_of(model.plan, data, observed, weights)
    held_out = None if valid is None else rows_of(model.plan, valid)
    make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.05))
    checked = checked_targets(model.plan, targets)
    optimised = make([parameter for _, parameter in model.named_parameters()])
    learner = _GradientLearner(model, rows, held_out, checked, pseudocount, optimised, group)
    return learn(learner, schedule)


@dataclass
class _GradientLearner:
    """Gradient ascent as the loop runs it."""

    model: LearnableModule
    rows: Rows
    valid: Rows | None
    targets: tuple[int, ...]
    pseudocount: float
    optimizer: torch.optim.Optimizer
    group: dist.ProcessGroup | None
    title: str = field(default="gradient", init=False)

    def __post_init__(self) -> None:
        named = {name: p.data for name, p in self.model.named_parameters()}
        self.processes = Processes(self.group, next(iter(named.values())).device)
        self.processes.agree(named)

    def identity(self) -> dict[str, Any]:
        shapes = {name: list(p.shape) for name, p in self.model.named_parameters()}
        return {
            "method": f"gradient by {type(self.optimizer).__name__}",
            "targets": list(self.targets),
            "pseudocount": self.pseudocount,
            "parameters": shapes,
        }

    def update(self, index: Tensor) -> float:
        totals: list[float] = []

        def closure() -> float:
            self.optimizer.zero_grad()
            total, loss = self._backward(index, first=not totals)
            totals.append(total)
            return loss

        self.optimizer.step(closure)
        return totals[0]

    def validate(self) -> float | None:
        if self.valid is None:
            return None
        share = self.processes.share(torch.arange(len(self.valid)))
        total = 0.0
        if len(share):
            own, log_weights = self.valid.select(share), self.model.log_parameters()
            total = total_objective(self.model.plan, log_weights, own, self.targets)
        return self.processes.add_number(total) / self.valid.total_weight

    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @torch.no_grad()
    def use(self, parameters: Mapping[str, Tensor]) -> None:
        for name, own in self.model.named_parameters():
            own.copy_(parameters[name])

    def state(self) -> dict[str, Any]:
        return {"parameters": self.parameters(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.use(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _backward(self, index: Tensor, *, first: bool) -> tuple[float, float]:
        """Adds the batch's gradient to the parameters'; total objective and loss of the batch."""
        scale = len(self.rows) / len(index) / self.rows.total_weight
        own = self.processes.share(index)
        log_weights = self.model.log_parameters()
        prior = log_prior(self.model.plan, log_weights, self.pseudocount)
        loss = prior * (-1.0 / (self.rows.total_weight * self.processes.size))
        total, error = 0.0, None
        if len(own):
            try:
                total, added = self._objective(log_weights, own, first=first)
                loss = loss - scale * added
            except EvidenceError as found:
                error = found
        self.processes.fail_together(error)
        loss.backward()
        self._add_gradients()
        add = self.processes.add_number
        return add(total), add(float(loss.detach()))

    def _objective(
        self, log_weights: Mapping[str, Tensor], index: Tensor, *, first: bool
    ) -> tuple[float, Tensor]:
        part = self.rows.select(index)
        values = log_objective(self.model.plan, log_weights, part.evidence, self.targets)
        # Later evaluations of one step are an optimiser's trials, which may go too far.
        if first and not bool(torch.isfinite(values.detach()).all()):
            row = int((~torch.isfinite(values.detach())).nonzero()[0])
            raise EvidenceError(
                f"row {int(index[row])} has log-likelihood {float(values[row].detach())}; expected "
                f"a finite one, since there is no gradient to follow otherwise"
            )
        added = values.sum() if part.weights is None else values @ part.weights.to(values)
        return part.sum(values), added

    def _add_gradients(self) -> None:
        if self.group is None:
            return
        named = dict(self.model.named_parameters())
        own = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items()}
        for name, gradient in self.processes.add(own).items():
            named[name].grad = gradient.clone()
