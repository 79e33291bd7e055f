"""Impossible evidence is exactly -inf, and spoils nothing beside it."""

from __future__ import annotations

import numpy as np
import torch

import pcircuits as pc
from tests.support.evidence import Case
from tests.support.fast_paths import gradients, with_gradients
from tests.support.properties import Trial, over_circuits


@over_circuits("impossible evidence is exactly -inf, with finite gradients", possible=False)
def test_impossible_evidence(trial: Trial) -> None:
    """One example is made impossible by its potentials; others may be by weights that are zero."""
    potentials = trial.normal(trial.batch, trial.length, trial.circuit.num_categories)
    nowhere = int(trial.dice.integers(trial.length))
    potentials[0, nowhere] = -torch.inf
    own = trial.of(
        Case(trial.circuit, trial.case.parameters, pc.Evidence(log_potentials=potentials))
    )
    with np.errstate(divide="ignore"):
        expected = np.log(own.worlds.weights.sum(1))
    assert expected[0] == -np.inf
    reference = None
    for name, found in own.evaluations().items():
        trial.compare(found, expected)
        leaves = with_gradients(own.case)
        value = pc.forward(own.plan, leaves.parameters, leaves.evidence, impl=name)
        flows = gradients(value, leaves, torch.ones_like(value))
        assert not flows["log_potentials"][expected == -np.inf].any()
        reference = reference or flows
        for key, flow in flows.items():
            trial.holds(flow.isfinite().all(), f"{name}: gradient of {key} is not finite")
            trial.compare(flow, reference[key])


@over_circuits("impossible rows change no other row's answers", possible=False)
def test_impossible_rows_change_no_other(trial: Trial) -> None:
    weights = trial.worlds.weights.sum(1)
    possible = np.flatnonzero(weights > 0).tolist()
    evidence = trial.case.evidence
    trial.applies(0 < len(possible) < len(weights) and evidence.batch_size > 1)
    together = trial.evaluations()
    alone = trial.of(trial.case.rows(possible))
    for name, found in alone.evaluations().items():
        if name in together:
            trial.compare(together[name][possible], found)
