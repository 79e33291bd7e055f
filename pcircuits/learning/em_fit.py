"""Fitting a model by expectation-maximisation, on the full data or by mini-batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pcircuits.errors import EvidenceError, ParameterError
from pcircuits.execute.evidence import Evidence
from pcircuits.learning.em import Algorithm, EMSettings, EMState, em_update, scaled_counts
from pcircuits.learning.flows import flows
from pcircuits.learning.history import History
from pcircuits.learning.loop import Schedule, learn
from pcircuits.learning.objective import (
    Learnable,
    check_has_parameters,
    constant_log_total,
    total_objective,
)
from pcircuits.learning.processes import Processes
from pcircuits.learning.rows import Rows, rows_of


def fit_em(
    model: Learnable,
    data: Tensor | Evidence,
    *,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    epochs: int = 20,
    batch_size: int | None = None,
    algorithm: Algorithm | None = None,
    decay: float = 0.7,
    step_size: float = 0.4,
    momentum: float = 0.9,
    pseudocount: float = 0.1,
    chunk_size: int = 512,
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
    """Fits a model's parameters to data by EM; the model is updated in place.

    Without `batch_size` every epoch is one full EM step, which never lowers the likelihood times
    the prior that the pseudocounts stand for. With it, see `EMSettings`. Weights that are exactly
    zero stay zero.

    Args:
        model: A model such as `CircuitModel`.
        data: (N, L) integers, or evidence of any kind about N examples: soft evidence, missing
            values and latent potentials are all learned from exactly.
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        epochs: Passes over the data.
        batch_size: Rows of a mini-batch; default all.
        algorithm: "plain", "online" or "anemone"; see `EMSettings`. Default: plain on all rows,
            online by mini-batches.
        decay: Exponent of online EM's step sizes, in (0.5, 1].
        step_size: Share of the data in Anemone's updates, in (0, 1].
        momentum: Share of earlier batches in Anemone's counts, in [0, 1).
        pseudocount: Expected count added to each distribution; see `EMSettings`.
        chunk_size: Rows evaluated at once: bounds memory, changes nothing else.
        tolerance: Stop when an epoch's mean log-likelihood changes by less than this; 0 = never.
        valid: (M, L) held-out rows or evidence about them, measured after each epoch.
        patience: Stop when the validation rows have not become likelier for so many epochs, and
            keep the parameters of the best one; default: never stop early, keep the last.
        checkpoint: Folder for checkpoints (safetensors and JSON); default none.
        checkpoint_every: Epochs between checkpoints; the end and Ctrl-C leave one too.
        resume: Continue from the folder's checkpoint if there is one: the result is bit for bit
            that of a run without the break.
        group: Processes of `torch.distributed` (gloo or nccl) that share the work, for example
            `torch.distributed.group.WORLD`; each is given the same data and evaluates its part of
            every batch, and all end with the same parameters. Default: this process alone.
        seed: Seed of the batches' order.
        progress: Whether to show a progress bar.

    Returns:
        One record an epoch. Interrupting (Ctrl-C) ends learning after the update under way and
        returns the history so far.

    Raises:
        EvidenceError: If data does not fit, or a row has probability zero.
        ParameterError: If the circuit has no parameters, or its total depends on the weights,
            since some sums or inputs have none: EM's closed form does not hold then, and
            `fit_gradient` learns those.
        FormatError: If the folder holds a checkpoint of another run, or one while not resuming.
        ValueError: If a number is out of range.

    Warns:
        UserWarning: If without pseudocounts a weight has become exactly zero.

    Examples:
        Rows that are all alike in both halves: two components explain them.

        >>> model = pc.CircuitModel(pc.families.mixture(4, num_components=2, num_categories=2))
        >>> rows = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]).repeat(500, 1)
        >>> history = pc.fit_em(model, rows, epochs=50, progress=False)
        >>> round(history.records[-1].train, 2)  # ln(1/2), the best there is
        -0.69
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
    settings = EMSettings(
        algorithm or ("plain" if batch_size is None else "online"),
        decay=decay,
        step_size=step_size,
        momentum=momentum,
        pseudocount=pseudocount,
    )
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1; found {chunk_size}")
    check_has_parameters(model.plan)
    log_total = constant_log_total(model.plan.circuit)
    if log_total is None:
        raise ParameterError(
            "some sums or inputs have no weights, and the circuit's total depends on the weights "
            "of others, so EM's closed form does not hold; use fit_gradient"
        )
    rows = rows_of(model.plan, data, observed, weights)
    held_out = None if valid is None else rows_of(model.plan, valid)
    learner = _EMLearner(model, rows, held_out, settings, log_total, chunk_size, group)
    before = learner.parameters()
    history = learn(learner, schedule)
    _warn_of_zeros(before, learner.parameters())
    return history


@dataclass
class _EMLearner:
    """EM as the loop runs it."""

    model: Learnable
    rows: Rows
    valid: Rows | None
    settings: EMSettings
    log_total: float
    chunk_size: int
    group: dist.ProcessGroup | None
    em_state: EMState = field(default_factory=EMState)
    title = "EM"

    def __post_init__(self) -> None:
        self.log_weights = {n: p.detach() for n, p in self.model.log_parameters().items()}
        self.processes = Processes(self.group, next(iter(self.log_weights.values())).device)
        self.processes.agree(self.log_weights)

    def identity(self) -> dict[str, Any]:
        shapes = {name: list(shape) for name, shape in self.model.plan.parameter_shapes.items()}
        return {"method": "EM", "settings": asdict(self.settings), "parameters": shapes}

    def update(self, index: Tensor) -> float:
        counts, total = self._counts(self.processes.share(index))
        weight = self.rows.weight_of(index)
        num_rows = self.rows.total_weight
        counts = scaled_counts(self.processes.add(counts), num_rows / weight)
        found, self.em_state = em_update(
            self.model.plan,
            self.log_weights,
            self.em_state,
            counts,
            self.settings,
            num_rows=num_rows,
        )
        self.use(found)
        return self.processes.add_number(total)

    def validate(self) -> float | None:
        if self.valid is None:
            return None
        share = self.processes.share(torch.arange(len(self.valid)))
        total = 0.0
        if len(share):
            own = self.valid.select(share)
            total = total_objective(self.model.plan, self.log_weights, own, (), self.chunk_size)
        return self.processes.add_number(total) / self.valid.total_weight

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.log_weights)  # replaced by every update, never changed in place

    def use(self, parameters: Mapping[str, Tensor]) -> None:
        old = self.log_weights
        self.log_weights = {n: parameters[n].to(old[n]) for n in old}
        self.model.set_log_parameters(self.log_weights)

    def state(self) -> dict[str, Any]:
        counts = self.em_state.counts
        return {
            "step": self.em_state.step,
            "counts": None if counts is None else dict(counts),
            "log_weights": self.log_weights,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.use(state["log_weights"])
        counts = state["counts"]
        if counts is not None:
            counts = {n: counts[n].to(log) for n, log in self.log_weights.items()}
        self.em_state = EMState(state["step"], counts)

    def _counts(self, index: Tensor) -> tuple[dict[str, Tensor], float]:
        """Counts and total of this process's share of a batch, a chunk at a time."""
        sums = {name: torch.zeros_like(log) for name, log in self.log_weights.items()}
        total, error = 0.0, None
        try:
            for chunk in index.split(self.chunk_size) if len(index) else ():
                part = self.rows.select(chunk)
                counts, value = flows(
                    self.model.plan, self.log_weights, part.evidence, weights=part.weights
                )
                sums = {name: sums[name] + count for name, count in counts.items()}
                total += part.sum(value - self.log_total)
        except EvidenceError as found:
            error = EvidenceError(f"of the rows {int(chunk[0])}, ...: {found}")
            error.__cause__ = found
        self.processes.fail_together(error)
        return sums, total


def _warn_of_zeros(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    died = {
        n: int(((after[n] == -torch.inf) & (log != -torch.inf)).sum()) for n, log in before.items()
    }
    if any(died.values()):
        name = max(died, key=lambda n: died[n])
        warnings.warn(
            f"{sum(died.values())} weights have become exactly zero, most of them in {name!r}, and "
            f"stay so: rows that need them are impossible now; a pseudocount > 0 prevents it",
            stacklevel=3,
        )
