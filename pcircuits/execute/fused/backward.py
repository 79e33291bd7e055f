"""The way down through a program: gradients of values as numbers, and of inputs as logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.forward import Kept, arenas
from pcircuits.execute.fused.program import Program, Run
from pcircuits.execute.fused.runs import Down, descend
from pcircuits.execute.fused.tables import TableGradient, Tables
from pcircuits.execute.weights import AnyWeights, Weights


@dataclass(frozen=True, eq=False)
class LeafFlows:
    """Gradients with respect to the logarithms of the rows of inputs with K units.

    Attributes:
        values: (R, K); none if nobody asks for them.
        rows: (F * B,) row of each fold and example.
        mode: `SKIP`, `SET` or `ADD`.
    """

    values: Tensor
    rows: np.ndarray
    mode: int


def gradients(
    program: Program,
    weights: Sequence[AnyWeights],
    evaluated: Kept,
    gradient: Tensor,
    leaf_flows: Mapping[int, LeafFlows],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the root's value.

    Args:
        program: The program.
        weights: The program's tables.
        evaluated: What the evaluation kept.
        gradient: (B,) gradient with respect to the root's value; zero where that is -inf.
        leaf_flows: Units -> room for the gradients of the inputs, filled here.
        wanted: Of each table, whether its gradient is asked for.

    Returns:
        Of each table, the gradient of its log-weights, summed over the sums that have it.
    """
    batch, total = len(gradient), evaluated.total
    layout = program.reused
    flows = arenas(layout.folds, program, batch, gradient)
    first = int(layout.firsts[-1][-1]) * batch
    flows[1][first : first + batch, 0] = gradient / total.masked_fill(total == 0, 1.0)
    down = {
        units: _down(program, evaluated, units, leaf_flows[units], own)
        for units, own in flows.items()
    }
    tables = Tables.downwards(weights)
    collectors = [
        TableGradient(own) if asked else None for own, asked in zip(weights, wanted, strict=True)
    ]
    addresses = np.array([0 if own is None else own.address for own in collectors])
    steps = zip(program.runs, program.kept.factors, layout.factors, layout.firsts, strict=True)
    for run, places, flow_places, firsts in reversed(list(steps)):
        like = run.like
        if like.pairs:
            table, collector = weights[run.tables[0]], collectors[run.tables[0]]
            assert isinstance(table, Weights)
            u = flows[like.num_units][firsts[0] * batch :][: like.num_folds * batch]
            both, adds = (places[0], flow_places[0]), bool(run.adds[0])
            pairs.backward(like, both, down, table, u, collector, adds)
            continue
        of_run = (tables.addresses, tables.strides, addresses)
        _descend(
            run,
            tuple(own[run.tables] for own in of_run),
            evaluated,
            (places, flow_places),
            flows[like.num_units].numpy(),
            firsts * batch,
            down[like.units[0]],
        )
    return [None if own is None else own.total() for own in collectors]


def _descend(
    run: Run,
    tables: tuple[np.ndarray, ...],
    evaluated: Kept,
    places: tuple[np.ndarray, np.ndarray],
    u: np.ndarray,
    firsts: np.ndarray,
    down: Down,
) -> None:
    """Gives the gradients of a run of sums to what they read, and to their weights."""
    (units,), batch = run.like.units, len(evaluated.total)
    products, parts = evaluated.products[units], evaluated.parts[units]
    back = products.new_empty((run.like.num_folds * batch, units))
    stops = np.array([own.layer in evaluated.exact for own in run.sums])
    fixed: tuple[Any, ...] = (
        *(address_of(products.dtype), *tables, run.adds, u, firsts, back.numpy()),
        *(products.numpy(), parts.numpy(), run.products * batch, *places, batch, *down, stops),
    )
    at = len(run.sums)
    while True:
        at = descend(*(*fixed, at))
        if at < 0:
            return
        exact = evaluated.exact[run.sums[at].layer]
        _give_exactly(exact, places[1][at] - down.leaf_folds, back, down)


def _down(
    program: Program, evaluated: Kept, units: int, leaf_flows: LeafFlows, flows: Tensor
) -> Down:
    inputs, values = evaluated.inputs[units], evaluated.values[units]
    return Down(
        *(inputs.values.numpy(), inputs.rows, program.input_folds[units]),
        *(leaf_flows.mode, leaf_flows.values.numpy(), leaf_flows.rows),
        *(values.numpy(), np.arange(len(values))),
        flows.numpy(),
    )


def _give_exactly(exact: tuple[Tensor, ...], places: np.ndarray, back: Tensor, down: Down) -> None:
    """Gives rows of products that were computed exactly to the sums among their factors.

    Args:
        exact: Rows of `back`, and for each factor what their gradients are multiplied with.
        places: (n, F) folds in the flows of sums, negative for inputs.
        back: (F * B, K) gradient with respect to the products as numbers.
        down: Where the flows are.
    """
    rows, *shares = exact
    flows = torch.from_numpy(down.flows)
    batch = len(back) // places.shape[1]
    fold, example = rows // batch, rows % batch
    for place, own in zip(torch.from_numpy(places), shares, strict=True):
        inner = place[fold] >= 0
        to = place[fold[inner]] * batch + example[inner]
        flows[to] = back[rows[inner]] * own[inner]
