"""Density estimation: a mixture of hidden Chow-Liu trees, by one rule for every data set.

Each member has its own tree, which spans the pairwise mutual information times random factors, and
its own start (`pc.hclt_start`). It is learned by EM on the training rows until the validation rows
become no likelier. The weights of the mixture are then learned on the validation rows. Test rows
are evaluated once, at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.density_data import DataSet, Rows


@dataclass(frozen=True)
class DensitySettings:
    """The rule; nothing in it depends on a data set except through its number of rows.

    Attributes:
        members: Trees in the mixture.
        unit_divisor: Hidden variables have about sqrt(N) / this units, as a power of two.
        min_units: Fewest units.
        max_units: Most units.
        tree_noise: Standard deviation of the logarithm of the factors on the mutual information
            from which all trees but the first are made.
        batch_size: Distinct rows of a mini-batch.
        updates: Least number of updates that learning is allowed.
        step_size: Share of the data in Anemone's updates.
        momentum: Share of earlier batches in Anemone's counts.
        repetition: Where rows occur this often on average, batches of distinct rows would differ
            too much in weight: all rows are taken at once, by plain EM.
        full_epochs: Steps of plain EM.
        pseudocount: Expected count added to each distribution.
        patience: Epochs without progress on the validation rows after which learning ends; with
            fewer than 16 updates an epoch as many more epochs.
        stopping_rows: Most validation rows that are evaluated after each epoch.
    """

    members: int = 8
    unit_divisor: float = 2.5
    min_units: int = 16
    max_units: int = 64
    tree_noise: float = 0.15
    batch_size: int = 512
    updates: int = 600
    step_size: float = 0.4
    momentum: float = 0.9
    repetition: float = 4.0
    full_epochs: int = 150
    pseudocount: float = 0.3
    patience: int = 3
    stopping_rows: int = 5000

    def num_units(self, num_rows: float) -> int:
        """Units K of every hidden variable."""
        power = round(math.log2(max(1.0, math.sqrt(num_rows) / self.unit_divisor)))
        return int(min(self.max_units, max(self.min_units, 2**power)))

    def schedule(self, rows: Rows) -> dict[str, Any]:
        """How `fit_em` is to learn from these rows."""
        if rows.total >= self.repetition * len(rows.values):
            return {"algorithm": "plain", "epochs": self.full_epochs, "patience": 4 * self.patience}
        num_batches = math.ceil(len(rows.values) / self.batch_size)
        return {
            "algorithm": "anemone",
            # Batches of equal size: a small last one would count as much as the others.
            "batch_size": math.ceil(len(rows.values) / num_batches),
            "step_size": self.step_size,
            "momentum": self.momentum,
            "epochs": math.ceil(self.updates / num_batches),
            "patience": self.patience * math.ceil(16 / num_batches),
        }


class WrongDensityError(Exception):
    """A log-likelihood that no distribution can have."""


def run_set(
    data: DataSet,
    settings: DensitySettings,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Learns a mixture for one set and evaluates it.

    Args:
        data: The set.
        settings: The rule.
        report: Called with a line after each member.

    Returns:
        The row of results; log-likelihoods are means in nats.

    Raises:
        WrongDensityError: If the result is not that of a distribution.
        KeyboardInterrupt: If learning was interrupted.
    """
    started = time.monotonic()
    units = settings.num_units(data.train.total)
    models: list[pc.CircuitModel] = []
    valid: list[Tensor] = []
    weights = torch.ones(0)
    information = pc.pairwise_mutual_information(
        data.train.values, weights=data.train.weights, num_categories=2
    )
    for seed in range(settings.members):
        parents = pc.spanning_tree(_perturbed(information, seed, settings.tree_noise))
        models.append(_learn_member(data, parents, units, seed, settings))
        valid.append(log_likelihoods(models[-1], data.valid))
        weights = mixture_weights(torch.stack(valid), data.valid)
        mixed = data.valid.mean(_mix(torch.stack(valid), weights))
        own, seconds = data.valid.mean(valid[-1]), time.monotonic() - started
        report(
            f"{data.name}: member {seed + 1} of {settings.members} valid {own:.4f}, mixture "
            f"{mixed:.4f}, {seconds:.0f} s"
        )
    test = _mix(torch.stack([log_likelihoods(model, data.test) for model in models]), weights)
    _check(models, data.test, data.test.mean(test))
    return {
        "dataset": data.name,
        "valid_log_likelihood": data.valid.mean(_mix(torch.stack(valid), weights)),
        "test_log_likelihood": data.test.mean(test),
        "test_standard_error": _standard_error(data.test, test),
        "seconds": time.monotonic() - started,
        "num_units": units,
        "num_parameters": sum(model.plan.cost().num_parameters for model in models),
        "mixture_weights": [round(float(weight), 6) for weight in weights],
        "threads": torch.get_num_threads(),
        "settings": asdict(settings),
    }


def mixture_weights(log_likelihoods: Tensor, rows: Rows, *, steps: int = 100) -> Tensor:
    """Weights of a mixture of fixed members that make rows likeliest, by EM.

    Args:
        log_likelihoods: (M, U) of every member and distinct row.
        rows: The rows.
        steps: Steps of EM from equal weights.

    Returns:
        (M,) weights that sum to 1. Each member gets one more row, so none is ruled out.
    """
    members = len(log_likelihoods)
    weights = torch.full((members,), 1 / members, dtype=torch.float64)
    for _ in range(steps):
        shares = (log_likelihoods.double() + weights.log()[:, None]).softmax(0)
        weights = (shares * rows.weights).sum(1) + 1
        weights = weights / weights.sum()
    return weights


@torch.no_grad()
def log_likelihoods(model: pc.CircuitModel, rows: Rows, chunk_size: int = 512) -> Tensor:
    """(U,) float64 log-likelihood of each distinct row, evaluated in the model's precision."""
    prepared = model.prepare()
    parts = [
        pc.forward(model.plan, prepared, pc.Evidence(part)).double()
        for part in rows.values.split(chunk_size)
    ]
    return torch.cat(parts)


def _learn_member(
    data: DataSet, parents: Sequence[int], units: int, seed: int, settings: DensitySettings
) -> pc.CircuitModel:
    train = data.train
    model = pc.CircuitModel(pc.families.hidden_chow_liu(parents, units, 2), seed=seed)
    start = pc.hclt_start(
        train.values, parents, units, weights=train.weights, num_categories=2, seed=seed
    )
    model.set_probabilities(start)
    history = pc.fit_em(
        model,
        train.values,
        weights=train.weights,
        pseudocount=settings.pseudocount,
        valid=data.valid.thinned(settings.stopping_rows),
        seed=seed,
        progress=False,
        **settings.schedule(train),
    )
    if history.stopped == "interrupted":  # half a member would pass for a whole one
        raise KeyboardInterrupt
    return model


def _perturbed(information: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Mutual information times random factors, the same for (i, j) and (j, i); none for seed 0."""
    if seed == 0:
        return information
    random = np.random.default_rng(seed).standard_normal(information.shape)
    upper = np.triu(random, 1)
    perturbed: np.ndarray = information * np.exp(noise * (upper + upper.T))
    return perturbed


def _mix(log_likelihoods: Tensor, weights: Tensor) -> Tensor:
    return (log_likelihoods.double() + weights.log()[:, None]).logsumexp(0)


@torch.no_grad()
def _check(models: Sequence[pc.CircuitModel], rows: Rows, found: float) -> None:
    for model in models:
        nothing = torch.zeros(1, model.plan.num_variables, dtype=torch.bool)
        total = float(model.log_likelihood(torch.zeros_like(nothing, dtype=torch.long), nothing))
        if abs(total) > 1e-3:
            raise WrongDensityError(f"a member's probabilities sum to exp({total}), not to 1")
    if found > -rows.entropy():
        raise WrongDensityError(
            f"test log-likelihood {found} is above {-rows.entropy()}, minus the entropy of the "
            f"test rows"
        )


def _standard_error(rows: Rows, numbers: Tensor) -> float:
    """Standard error of the mean over all rows, repetitions counted."""
    mean = rows.mean(numbers)
    return math.sqrt(rows.mean((numbers.double() - mean) ** 2) / rows.total)
