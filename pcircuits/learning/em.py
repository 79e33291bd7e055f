"""Expectation-maximisation, on the full data or by mini-batches."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import prepare
from pcircuits.learning.flows import flows, maximise
from pcircuits.learning.history import History, Record, progress_bar


class Learnable(Protocol):
    """A plan with parameters that can be read and replaced, such as `CircuitModel`."""

    @property
    def plan(self) -> Plan:
        """The compiled circuit."""

    def log_parameters(self) -> Mapping[str, Tensor]:
        """Name -> normalised log-weights."""

    def set_log_parameters(self, log_weights: Mapping[str, Tensor]) -> None:
        """Replaces log-weights."""


@dataclass(frozen=True)
class EMState:
    """What mini-batch EM remembers between batches.

    Attributes:
        step: Batches seen.
        counts: Name -> running expected counts on the scale of the whole data; None at the start.
    """

    step: int = 0
    counts: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class EMSettings:
    """How expected counts are averaged over mini-batches and turned into parameters.

    Attributes:
        decay: Exponent of the step sizes (k + 1)^-decay, in (0.5, 1].
        warmup: First batches that are plainly averaged before the parameters are touched, so that
            a good starting point is not forgotten for one small batch.
        pseudocount: Expected count added to each distribution, spread over its entries. Zero
            allows weights of exactly zero, under which unseen data may be impossible.
    """

    decay: float = 0.7
    warmup: int = 1
    pseudocount: float = 0.1

    def __post_init__(self) -> None:
        if not 0.5 < self.decay <= 1 or self.warmup < 1:
            raise ValueError(
                f"expected decay in (0.5, 1] and warmup >= 1; found {self.decay}, {self.warmup}"
            )
        if not (self.pseudocount >= 0 and math.isfinite(self.pseudocount)):
            raise ValueError(f"expected a finite pseudocount >= 0; found {self.pseudocount}")


def em_step(
    plan: Plan,
    parameters: Mapping[str, Tensor],
    state: EMState,
    evidence: Evidence,
    settings: EMSettings,
    *,
    num_rows: int,
) -> tuple[dict[str, Tensor], EMState, Tensor]:
    """One step of mini-batch EM.

    Expected counts are averaged online and the parameters refreshed from the average (Cappe and
    Moulines, "On-line expectation-maximization algorithm for latent data models", JRSS B 2009,
    section 2).

    Args:
        plan: The compiled circuit.
        parameters: Current log-weights by name.
        state: What earlier steps left.
        evidence: Evidence about the batch.
        settings: Step sizes and smoothing.
        num_rows: Rows N of the whole data, which the pseudocounts are relative to.

    Returns:
        New log-weights, the new state, and the batch's (B,) log-values before the step.

    Raises:
        EvidenceError: If the evidence does not fit or an example is impossible.
    """
    counts, value = flows(plan, parameters, evidence)
    warming = state.step < settings.warmup
    rate = 1.0 / (state.step + 1) if warming else (state.step + 1.0) ** -settings.decay
    scale = num_rows / len(value)
    new = EMState(state.step + 1, _average(state.counts, counts, rate, scale))
    assert new.counts is not None
    if new.step < settings.warmup:
        return dict(parameters), new, value
    return maximise(new.counts, settings.pseudocount), new, value


def fit_em(
    model: Learnable,
    values: Tensor,
    *,
    observed: Tensor | None = None,
    epochs: int = 20,
    batch_size: int | None = None,
    decay: float = 0.7,
    pseudocount: float = 0.1,
    chunk_size: int = 512,
    tolerance: float = 0.0,
    valid: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Fits a model's parameters to data by EM; the model is updated in place.

    Without `batch_size` every epoch is one full EM step, which never lowers the likelihood times
    the prior that the pseudocounts stand for. With it, see `em_step`.

    Args:
        model: A model such as `CircuitModel`.
        values: (N, L) integers.
        observed: (N, L) bool, True = observed; default all.
        epochs: Passes over the data.
        batch_size: Rows of a mini-batch; default all.
        decay: Exponent of the mini-batches' step sizes, in (0.5, 1].
        pseudocount: Expected count added to each distribution; see `EMSettings`.
        chunk_size: Rows evaluated at once in full EM: bounds memory, changes nothing else.
        tolerance: Stop when an epoch's mean log-likelihood changes by less than this; 0 = never.
        valid: (M, L) held-out rows, measured after each epoch.
        seed: Seed of the batches' order.
        progress: Whether to show a progress bar.

    Returns:
        One record an epoch. Interrupting (Ctrl-C) ends learning after the last finished update and
        returns the history so far.

    Raises:
        EvidenceError: If values do not fit, or a row has probability zero.
        ValueError: If a number is out of range.
    """
    if epochs < 1 or (batch_size is not None and batch_size < 1) or chunk_size < 1:
        raise ValueError(
            f"epochs, batch_size and chunk_size must be >= 1; found {epochs}, {batch_size}, "
            f"{chunk_size}"
        )
    if len(values) == 0:
        raise EvidenceError("values are about no example; expected at least one row")
    settings = EMSettings(decay=decay, pseudocount=pseudocount)
    started, records, stopped = time.monotonic(), list[Record](), "finished"
    state = EMState()
    with progress_bar("EM", shown=progress) as report:
        try:
            for epoch in range(epochs):
                if batch_size is None:
                    total = _full_step(model, values, observed, settings, chunk_size)
                    state = EMState(state.step + 1)
                else:
                    order = batches(len(values), batch_size, seed, epoch)
                    total, state = _epoch(model, values, observed, settings, state, order)
                held_out = None if valid is None else mean_log_likelihood(model, valid, chunk_size)
                train, seconds = total / len(values), time.monotonic() - started
                records.append(Record(state.step, epoch + 1.0, train, held_out, seconds))
                report((epoch + 1) / epochs, f"{train:.4f} nats a row")
                if len(records) > 1 and abs(train - records[-2].train) < tolerance:
                    stopped = "converged"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
    return History(tuple(records), stopped)


@torch.no_grad()
def mean_log_likelihood(model: Learnable, values: Tensor, chunk_size: int = 512) -> float:
    """Mean log-likelihood of rows (N, L) in nats a row."""
    prepared = prepare(model.plan, model.log_parameters())
    total = 0.0
    for part in values.split(chunk_size):
        total += float(forward(model.plan, prepared, Evidence(part)).double().sum())
    return total / len(values)


def batches(num_rows: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Row indices of the mini-batches of one epoch, in a seeded random order."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    parts: tuple[Tensor, ...] = torch.randperm(num_rows, generator=generator).split(batch_size)
    return parts


def _epoch(
    model: Learnable,
    values: Tensor,
    observed: Tensor | None,
    settings: EMSettings,
    state: EMState,
    order: tuple[Tensor, ...],
) -> tuple[float, EMState]:
    total = 0.0
    for batch in order:
        evidence = Evidence(values[batch], None if observed is None else observed[batch])
        parameters, state, value = em_step(
            model.plan, model.log_parameters(), state, evidence, settings, num_rows=len(values)
        )
        model.set_log_parameters(parameters)
        total += float(value.double().sum())
    return total, state


def _full_step(
    model: Learnable,
    values: Tensor,
    observed: Tensor | None,
    settings: EMSettings,
    chunk_size: int,
) -> float:
    parameters = model.log_parameters()
    sums: dict[str, Tensor] = {}
    total = 0.0
    for start in range(0, len(values), chunk_size):
        rows = slice(start, start + chunk_size)
        evidence = Evidence(values[rows], None if observed is None else observed[rows])
        try:
            counts, value = flows(model.plan, parameters, evidence)
        except EvidenceError as error:
            raise EvidenceError(f"rows {start} and following: {error}") from error
        sums = {name: sums[name] + c if sums else c for name, c in counts.items()}
        total += float(value.double().sum())
    model.set_log_parameters(maximise(sums, settings.pseudocount))
    return total


def _average(
    running: Mapping[str, Tensor] | None, counts: dict[str, Tensor], rate: float, scale: float
) -> dict[str, Tensor]:
    """Moves the running counts, on the scale of the whole data, towards those of a batch."""
    if running is None or rate == 1.0:
        return {name: count * scale for name, count in counts.items()}
    return {n: (1 - rate) * running[n] + (rate * scale) * count for n, count in counts.items()}
