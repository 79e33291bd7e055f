"""Conditionals chain to the joint in any order, and constants are no evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import pcircuits as pc
from tests.support.evidence import Case
from tests.support.properties import Trial, over_circuits


@over_circuits("the chain rule of conditionals gives the joint, in any order")
def test_the_chain_rule(trial: Trial) -> None:
    """By queries that start anew each time, and by the one that keeps what it knows."""
    plan, parameters, evidence = trial.given
    trial.applies(evidence.batch_size == trial.batch)
    worlds = trial.worlds
    places = [int(trial.dice.choice(len(p), p=p / p.sum())) for p in worlds.posterior]
    values = torch.as_tensor(worlds.worlds[places])
    joint = np.log(worlds.posterior[np.arange(trial.batch), places])
    kept = pc.queries.Conditioner(plan, parameters, evidence)
    total, stepwise = torch.zeros(trial.batch), torch.zeros(trial.batch)
    known = torch.zeros_like(values, dtype=torch.bool)
    for variable in trial.dice.permutation(trial.length).tolist():
        now = known.clone()
        now[:, variable] = True
        each = [
            pc.queries.log_conditional(plan, parameters, values, asked, evidence)
            if bool(asked.any())
            else torch.zeros(trial.batch)
            for asked in (now, known)
        ]
        total = total + each[0] - each[1]
        known = now
        at = torch.full((trial.batch,), variable)
        categories = None if evidence.categories is None else evidence.categories[:, variable]
        found = kept.marginal(at)
        stepwise = stepwise + _probability(found, values[:, variable], categories).log()
        kept.fix(at, values[:, variable])
    trial.compare(total, joint)
    trial.compare(stepwise, joint)


def _probability(
    rows: torch.Tensor, values: torch.Tensor, categories: torch.Tensor | None
) -> torch.Tensor:
    """(B,) entries of (B, V) rows, or of (B, k) rows of listed categories."""
    if categories is None:
        return rows.gather(1, values[:, None])[:, 0]
    hits = categories == values[:, None]
    # A variable that was observed from the start may have a value that no list holds.
    return torch.where(hits.any(1), (rows * hits).sum(1), 1.0)


@over_circuits("a constant potential changes nothing", possible=False)
def test_constant_potentials(trial: Trial) -> None:
    """Zeros are no evidence; c on one variable adds c to log Z and changes no posterior."""
    plan, parameters, evidence = trial.given
    trial.applies(evidence.log_potentials is None)
    values = evidence.values
    shape = (trial.batch, trial.length, trial.circuit.num_categories)
    trial.applies(evidence.batch_size == trial.batch)
    before = trial.evaluations()
    for constant in (0.0, float(trial.dice.normal(scale=30))):
        potentials = torch.zeros(shape, dtype=torch.float64)
        variable = int(trial.dice.integers(trial.length))
        potentials[:, variable] = constant
        added = torch.full((trial.batch,), constant, dtype=torch.float64)
        mask = evidence.mask()
        if mask is not None:
            added = added.masked_fill(mask[:, variable], 0.0)
        case = Case(trial.circuit, parameters, replace(evidence, log_potentials=potentials))
        for name, found in trial.evaluations(case).items():
            trial.compare(found, before[name] + added)
        if bool((before["reference"] > -torch.inf).all()):
            single = pc.queries.marginals(plan, parameters, evidence)
            trial.compare(pc.queries.marginals(plan, parameters, case.evidence), single)
    assert evidence.values is values


@over_circuits("the product with a constant circuit changes nothing", possible=False)
def test_the_product_with_a_constant_circuit(trial: Trial) -> None:
    """`multiply` by a factorised circuit of ones, and `condition` on nothing or on constants."""
    trial = trial.shared()
    weighted = pc.WeightedCircuit(trial.circuit, trial.case.parameters)
    ones = _ones(trial.circuit)
    with np.errstate(divide="ignore"):
        expected = np.log(trial.worlds.bare[0])
    trial.applies(trial.case.evidence.latent_log_potentials is None)
    trial.applies(np.isfinite(expected).any())
    every = torch.as_tensor(trial.worlds.worlds)
    flat = {0: [0.0] * trial.circuit.categories[0]}
    for made in (
        pc.operators.multiply(weighted, ones),
        pc.operators.multiply(ones, weighted),
        pc.operators.condition(weighted, {}, log_potentials=flat),
        pc.operators.prune(weighted)[0],
        pc.operators.grow(weighted, 2, noise=0.0),
    ):
        case = Case(made.circuit, dict(made.log_weights), pc.Evidence(every))
        for found in trial.evaluations(case).values():
            trial.compare(found, expected)


def _ones(circuit: pc.Circuit) -> pc.WeightedCircuit:
    """A product of inputs whose every weight is one."""
    inputs = [
        pc.Input(i, num_units=1, num_categories=size, parameter=f"ones_{i}")
        for i, size in enumerate(circuit.categories)
    ]
    found = pc.Circuit(pc.Product(*inputs) if len(inputs) > 1 else inputs[0])
    shapes = found.parameter_shapes
    return pc.WeightedCircuit(found, {n: torch.zeros(s).double() for n, s in shapes.items()})
