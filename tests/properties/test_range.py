"""Log-values far beyond what numbers of floating point can hold as they are."""

from __future__ import annotations

import torch

import pcircuits as pc
from tests.support.evidence import Case, map_evidence
from tests.support.properties import Trial, over_circuits


@over_circuits("log-values beyond ±10,000")
def test_log_values_far_from_zero_are_exact(trial: Trial) -> None:
    """Every root weight shifted by as much: so is log Z, and nothing else changes."""
    sign = trial.dice.choice([-1.0, 1.0])
    shift = sign * float(trial.dice.uniform(10_000, 40_000))
    each = shift / trial.length
    potentials = torch.zeros(trial.batch, trial.length, trial.circuit.num_categories)
    soft = pc.Evidence(log_potentials=potentials.double() + trial.normal(*potentials.shape))
    near = Case(trial.circuit, trial.case.parameters, soft)
    far = Case(near.circuit, near.parameters, map_evidence(soft, lambda t: t + each))
    expected = pc.forward(trial.plan, near.parameters, near.evidence, impl="reference") + shift
    for name, found in trial.evaluations(far).items():
        trial.compare(found, expected)
        leaf = far.evidence.log_potentials.clone().requires_grad_()
        value = pc.forward(trial.plan, far.parameters, far.evidence.rebound(leaf), impl=name)
        (flows,) = torch.autograd.grad(value.sum(), leaf)
        trial.compare(
            flows, pc.queries.marginals(trial.plan, near.parameters, soft), scale=abs(shift)
        )
