"""The order of rows, variables and units is a name and no more; rows do not know each other."""

from __future__ import annotations

import numpy as np
import torch

import pcircuits as pc
from tests.support.properties import Trial, over_circuits
from tests.support.renamed import with_other_units, with_other_variables


@over_circuits("permuting rows changes nothing", possible=False)
def test_the_order_of_rows(trial: Trial) -> None:
    count = max(trial.batch, 2)
    order = trial.dice.integers(trial.batch, size=count).tolist()
    mixed = trial.of(trial.case.rows(order) if trial.batch > 1 else trial.case)
    before, after = trial.evaluations(), mixed.evaluations()
    for name in before.keys() & after.keys():
        expected = before[name][order] if trial.batch > 1 else before[name]
        trial.compare(after[name], expected)


@over_circuits("a batch of one equals a batch of many")
def test_rows_alone(trial: Trial) -> None:
    """Values, marginals, and the rest that is asked of every row."""
    together = trial.evaluations()
    single = pc.queries.marginals(*trial.given)
    others = pc.queries.leave_one_out(*trial.given)
    information = pc.queries.mutual_information(*trial.given)
    for row in range(trial.batch):
        own = trial.of(trial.case.rows([row]))
        for name, found in own.evaluations().items():
            if name in together:
                trial.compare(found, together[name][row : row + 1])
        at = slice(row, row + 1)
        trial.compare(pc.queries.marginals(*own.given), single[at])
        trial.compare(pc.queries.leave_one_out(*own.given), others[at])
        trial.compare(pc.queries.mutual_information(*own.given), information[at])


@over_circuits("permuting variables changes nothing", possible=False)
def test_the_order_of_variables(trial: Trial) -> None:
    places = trial.dice.permutation(trial.length).tolist()
    other = trial.of(with_other_variables(trial.case, places))
    with np.errstate(divide="ignore"):
        expected = np.log(trial.worlds.weights.sum(1))
    for found in other.evaluations().values():
        trial.compare(found, expected)
    if np.isfinite(expected).all():
        moved = pc.queries.marginals(*other.given)
        trial.compare(moved[:, places], pc.queries.marginals(*trial.given))


@over_circuits("permuting units changes nothing", possible=False)
def test_the_order_of_units(trial: Trial) -> None:
    other = trial.of(with_other_units(trial.case, trial.dice))
    before = trial.evaluations()
    for name, found in other.evaluations().items():
        if name in before:
            trial.compare(found, before[name])
    if bool((before["reference"] > -torch.inf).all()):
        trial.compare(pc.queries.marginals(*other.given), pc.queries.marginals(*trial.given))
