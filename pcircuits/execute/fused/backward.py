"""The way down through a program: gradients of values as numbers, and of inputs as logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.arenas import Arenas, sizes_of
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.forward import Kept
from pcircuits.execute.fused.kernels import divide
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
    batch, layout = len(gradient), program.reused
    # Of a sum's products the gradients are there for a moment; their parts are not used.
    sizes = sizes_of(program, layout.folds, program.product_folds_at_once, batch, gradient.dtype)
    room = Arenas(sizes)
    flows = room.values
    first = int(layout.firsts[-1][-1]) * batch
    given = np.ascontiguousarray(gradient.numpy())
    divide(given, evaluated.total, flows[1][first : first + batch, 0])
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
        if len(run.units) > 1:
            own, table, collector = run.sums[0], weights[run.tables[0]], collectors[run.tables[0]]
            assert isinstance(table, Weights)
            rows = slice(firsts[0] * batch, (firsts[0] + own.num_folds) * batch)
            u = flows[own.num_units][rows]
            both = (run.factors_of(places, 0), run.factors_of(flow_places, 0))
            pairs.backward(own, both, down, table, u, collector, bool(run.adds[0]))
            continue
        (units,) = run.units
        of_run = (tables.addresses, tables.strides, addresses)
        outs = room.addresses[run.arenas] + firsts * batch * run.num_units * flows[units].itemsize
        _descend(
            run,
            tuple(own[run.tables] for own in of_run),
            evaluated,
            (places, flow_places),
            outs,
            room.products[units],
            down[units],
        )
    return [None if own is None else own.total() for own in collectors]


def _descend(
    run: Run,
    tables: tuple[np.ndarray, ...],
    evaluated: Kept,
    places: tuple[np.ndarray, np.ndarray],
    outs: np.ndarray,
    back: np.ndarray,
    down: Down,
) -> None:
    """Gives the gradients of a run of sums to what they read, and to their weights.

    Args:
        run: The run.
        tables: Addresses and strides of the sums' tables, and addresses of their gradients.
        evaluated: What the evaluation kept.
        places: Places of the sums' factors, and of their gradients.
        outs: (S,) addresses of the gradients of the sums.
        back: Room for the gradients of the products of one sum.
        down: The arenas of what is read.
    """
    (units,), arenas = run.units, evaluated.arenas
    products, parts, batch = arenas.products[units], arenas.parts[units], arenas.sizes.batch
    stops = np.array([own.layer in evaluated.exact for own in run.sums])
    fixed: tuple[Any, ...] = (
        *(address_of(arenas.sizes.dtype), *tables, run.adds, outs, run.num_units, back),
        *(products, parts, run.products * batch, *places, run.shapes, run.starts),
        *(batch, *down, stops),
    )
    at = len(run.sums)
    while True:
        at = descend(*(*fixed, at))
        if at < 0:
            return
        own = run.sums[at]
        to = run.factors_of(places[1], at) - down.leaf_folds
        of_sum = torch.from_numpy(back[: own.num_folds * batch])
        _give_exactly(evaluated.exact[own.layer], to, of_sum, down)


def _down(
    program: Program, evaluated: Kept, units: int, leaf_flows: LeafFlows, flows: np.ndarray
) -> Down:
    inputs, values = evaluated.inputs[units], evaluated.arenas.values[units]
    return Down(
        *(inputs.values.numpy(), inputs.rows, program.input_folds[units]),
        *(leaf_flows.mode, leaf_flows.values.numpy(), leaf_flows.rows),
        *(values, np.arange(len(values))),
        flows,
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
