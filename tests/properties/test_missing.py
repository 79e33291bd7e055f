"""What is not observed is summed out, whatever is stored in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from tests.support.evidence import Case, random_values
from tests.support.oracle import oracle_of
from tests.support.properties import Trial, over_circuits

STORED = (-1, 0, 7, 10**6, -(2**62), 2**62)


@over_circuits("an all-missing row equals log Z")
def test_an_all_missing_row_is_log_z(trial: Trial) -> None:
    """Also beside rows that are observed; 0 where the circuit is normalised."""
    trial = trial.shared()
    values = random_values(trial.circuit, 3, trial.generator)
    observed = torch.ones(3, trial.length, dtype=torch.bool)
    observed[1] = False
    case = Case(trial.circuit, trial.case.parameters, pc.Evidence(values, observed))
    nothing = replace(case, evidence=pc.Evidence())
    log_z = np.log(oracle_of(nothing).weights.sum(1))
    for found in trial.evaluations(case).values():
        trial.compare(found[1:2], log_z)
    for found in trial.evaluations(nothing).values():
        trial.compare(found, log_z)
    normal = pc.operators.normalise(pc.WeightedCircuit(trial.circuit, trial.case.parameters))
    trial.compare(normal[1].reshape(1), log_z)
    model = pc.CircuitModel.of(normal[0])
    trial.compare(model.log_likelihood(values, observed)[1:2], [0.0])


@over_circuits("the stored value under a missing mark is irrelevant", tolerance=0.0)
def test_stored_values_are_irrelevant(trial: Trial) -> None:
    """The same bits from every query, whatever integer is stored."""
    values = random_values(trial.circuit, trial.batch, trial.generator)
    observed = torch.as_tensor(trial.dice.random(values.shape) < 0.5)
    other = torch.where(observed, values, int(trial.dice.choice(STORED)))
    first, second = (_answers(trial, stored, observed) for stored in (values, other))
    assert first.keys() == second.keys()
    for name, found in first.items():
        trial.equal(second[name], found)


def _answers(trial: Trial, values: Tensor, observed: Tensor) -> dict[str, Tensor]:
    plan, parameters, given = trial.given
    soft = given.log_potentials is not None and given.batch_size == len(values)
    extra = (given.log_potentials, None, given.categories) if soft else ()
    evidence = pc.Evidence(values, observed, *extra)
    case = Case(trial.circuit, parameters, evidence)
    found = trial.of(replace(case)).evaluations(case)
    if bool((next(iter(found.values())) == -torch.inf).any()):
        return found
    queries, dice = pc.queries, torch.Generator().manual_seed(1)
    found["marginals"] = queries.marginals(plan, parameters, evidence)
    found["information"] = queries.mutual_information(plan, parameters, evidence)
    found["samples"] = queries.sample(plan, parameters, 5, evidence, generator=dice)
    found["map"] = queries.map(plan, parameters, evidence).values
    found["conditional"] = queries.Conditioner(plan, parameters, evidence).marginals()
    own = trial.shared().case.parameters
    if not own:
        return found
    counts, _ = pc.flows(plan, own, evidence)
    return found | {f"flow of {name}": count for name, count in counts.items()}
