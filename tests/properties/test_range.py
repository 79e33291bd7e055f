"""Log-values far beyond what numbers of floating point can hold as they are."""

from __future__ import annotations

import pytest
import torch

import pcircuits as pc
from tests.support.evidence import Case, map_evidence, random_values
from tests.support.properties import RECORDS, Record, Trial, over_circuits


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


# Every step of a chain rounds the value so far: the errors add up as the steps of a random walk.
# In units of the value's last place, over the square root of the length: measured below 1.
DRIFT = 3.0


@pytest.mark.parametrize("family", ["chain", "tree"])
def test_float32_drifts_as_a_random_walk(family: str) -> None:
    """The error of float32 against float64, by length."""
    record = RECORDS.setdefault(
        f"float32 drift of a {family}: last places over √length, up to 4,096 variables",
        Record(tolerance=DRIFT),
    )
    for length in (16, 64, 256, 1024, 4096):
        if family == "chain":
            circuit = pc.families.hmm(length, 8, 5)
        else:
            circuit = pc.families.binary_tree(length, 4, 5)
        plan = pc.compile_circuit(circuit)
        double = pc.random_parameters(plan, seed=length, spread=2.0, dtype=torch.float64)
        single = {name: log.float() for name, log in double.items()}
        rounded = {name: log.double() for name, log in single.items()}
        values = random_values(circuit, 4, torch.Generator().manual_seed(length))
        evidence = pc.Evidence(values)
        exact = pc.forward(plan, rounded, evidence, impl="eager")
        for impl in ("eager", "fused"):
            found = pc.forward(plan, single, evidence, impl=impl)
            last = torch.finfo(torch.float32).eps * exact.abs()
            drift = float(((found.double() - exact).abs() / last).max()) / length**0.5
            record.error, record.compared = max(record.error, drift), record.compared + 4
            assert drift <= DRIFT, f"{impl}, {length} variables: off by {drift:.1f} √length"
        record.circuits += 1
