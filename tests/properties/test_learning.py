"""A step of EM is the expected counts, normalised, and never lowers the likelihood."""

from __future__ import annotations

import numpy as np
import torch

import pcircuits as pc
from tests.support.properties import Trial, over_circuits

PLAIN = pc.EMSettings("plain", pseudocount=0.0)


@over_circuits("an EM step is the flows, normalised")
def test_an_em_step_normalises_flows(trial: Trial) -> None:
    """The flows by the reference's own gradient, the division by numpy."""
    trial = trial.shared().normalised()
    plan, parameters, evidence = trial.given
    trial.applies(parameters)
    found, _, value = pc.em_step(
        plan, parameters, pc.EMState(), evidence, PLAIN, num_rows=evidence.batch_size
    )
    trial.compare(value, np.log(trial.worlds.weights.sum(1)))
    leaves = {name: log.clone().requires_grad_() for name, log in parameters.items()}
    total = pc.forward(plan, leaves, evidence, impl="reference").sum()
    counts = torch.autograd.grad(total, list(leaves.values()))
    for (name, old), count in zip(parameters.items(), counts, strict=True):
        rows = plan.parameter_rows[name]
        row = np.arange(count.numel()) // rows if isinstance(rows, int) else np.asarray(rows)
        flat = count.numpy().reshape(-1)
        sums = np.bincount(row, flat)[row]
        expected = np.where(sums > 0, flat / np.where(sums > 0, sums, 1), old.exp().flatten())
        trial.compare(found[name].exp().flatten(), expected)


@over_circuits("an EM step never lowers the likelihood")
def test_em_never_lowers_the_likelihood(trial: Trial) -> None:
    """Five steps with soft evidence, missing values and weights of rows."""
    trial = trial.shared().normalised()
    plan, parameters, evidence = trial.given
    trial.applies(parameters)
    weights = torch.as_tensor(trial.dice.uniform(0.1, 3.0, size=evidence.batch_size))
    before = -np.inf
    for _ in range(5):
        parameters, _, value = pc.em_step(
            plan,
            parameters,
            pc.EMState(),
            evidence,
            PLAIN,
            num_rows=float(weights.sum()),
            weights=weights,
        )
        now = float((weights * value).sum())
        lost = max(0.0, before - now)
        trial.compare([lost], [0.0], scale=max(1.0, abs(now)))
        before = now


@over_circuits("a mini-batch of all rows is full EM")
def test_chunks_of_rows_are_one_step(trial: Trial) -> None:
    """The counts of parts of the data add up to those of the whole."""
    trial = trial.shared()
    plan, parameters, evidence = trial.given
    trial.applies(parameters and evidence.batch_size > 1)
    whole, _ = pc.flows(plan, parameters, evidence)
    parts = [
        pc.flows(plan, parameters, trial.case.rows([row]).evidence)[0]
        for row in range(evidence.batch_size)
    ]
    for name, count in whole.items():
        trial.compare(sum(part[name] for part in parts), count)
