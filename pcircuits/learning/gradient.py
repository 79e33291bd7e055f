"""Maximum likelihood by any torch optimiser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.learning.em import Learnable, batches, mean_log_likelihood
from pcircuits.learning.history import History, Record, progress_bar


class LearnableModule(Learnable, nn.Module):
    """A learnable whose log-weights are functions of module parameters."""


def fit_gradient(
    model: LearnableModule,
    values: Tensor,
    *,
    observed: Tensor | None = None,
    epochs: int = 20,
    batch_size: int = 64,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    valid: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Fits a model's parameters to data by gradient ascent; the model is updated in place.

    Args:
        model: A module such as `CircuitModel`.
        values: (N, L) integers.
        observed: (N, L) bool, True = observed; default all.
        epochs: Passes over the data.
        batch_size: Rows of a mini-batch.
        optimizer: Makes the optimiser of the parameters; default Adam at 0.05.
        valid: (M, L) held-out rows, measured after each epoch.
        seed: Seed of the batches' order.
        progress: Whether to show a progress bar.

    Returns:
        One record an epoch; interrupting (Ctrl-C) returns the history so far.

    Raises:
        EvidenceError: If values do not fit the circuit.
        ValueError: If a row's log-likelihood becomes -inf, which has no gradient to follow.
    """
    make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.05))
    steps = make(list(model.parameters()))
    started, records, stopped, step = time.monotonic(), list[Record](), "finished", 0
    with progress_bar("gradient", shown=progress) as report:
        try:
            for epoch in range(epochs):
                total = 0.0
                for batch in batches(len(values), batch_size, seed, epoch):
                    mask = None if observed is None else observed[batch]
                    evidence = Evidence(values[batch], mask)
                    value = forward(model.plan, model.log_parameters(), evidence).sum()
                    if not bool(torch.isfinite(value)):
                        raise ValueError(f"a row of batch {step} has log-likelihood -inf")
                    steps.zero_grad()
                    (-value / len(batch)).backward()
                    steps.step()
                    total += float(value.detach())
                    step += 1
                    share = min(1.0, step * batch_size / len(values) - epoch)
                    message = f"{float(value.detach()) / len(batch):.4f} nats a row"
                    report((epoch + share) / epochs, message)
                held_out = None if valid is None else mean_log_likelihood(model, valid)
                seconds = time.monotonic() - started
                records.append(Record(step, epoch + 1.0, total / len(values), held_out, seconds))
        except KeyboardInterrupt:
            stopped = "interrupted"
    return History(tuple(records), stopped)
