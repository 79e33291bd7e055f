"""The way down through a program: gradients of values as numbers, and of inputs as logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.arenas import Arenas, give_back, sizes_of, taken
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.kept import Kept
from pcircuits.execute.fused.kernels import divide
from pcircuits.execute.fused.program import Program, Run
from pcircuits.execute.fused.rows import LeafFlows
from pcircuits.execute.fused.runs import descend
from pcircuits.execute.fused.tables import TableGradient, Tables


def gradients(
    program: Program,
    tables: Tables,
    evaluated: Kept,
    gradient: np.ndarray,
    leaf_flows: Mapping[int, LeafFlows],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the root's value.

    Args:
        program: The program.
        tables: Weights of the program's sums.
        evaluated: What the evaluation kept.
        gradient: (B,) gradient with respect to the root's value; where that is -inf, it counts as
            zero by convention.
        leaf_flows: Units -> room for the gradients of the inputs, filled here.
        wanted: Of each table, whether its gradient is asked for.

    Returns:
        Of each table, the gradient of its log-weights, summed over the sums that have it.
    """
    # Of a sum's products the gradients are there for a moment; their parts are not used.
    own = evaluated.arenas.sizes
    room = taken(sizes_of(program, program.reused, own.batch, own.dtype, keep=False))
    divide(np.ascontiguousarray(gradient), evaluated.arenas.root, room.root)
    descent = _Descent(tables, evaluated, room, leaf_flows, wanted)
    for number, run in reversed(list(enumerate(program.runs))):
        if len(run.units) > 1:
            descent.give_pairs(number, run)
        else:
            descent.give(number, run)
    give_back(room)
    return [None if own is None else own.total() for own in descent.collectors]


class _Descent:
    """The way down through the runs of a program.

    Args:
        tables: As in `gradients`.
        evaluated: What the evaluation kept.
        room: Arenas for the gradients.
        leaf_flows: As in `gradients`.
        wanted: As in `gradients`.

    Attributes:
        collectors: Of each table, what collects its gradient, if it is asked for.
    """

    def __init__(
        self,
        tables: Tables,
        evaluated: Kept,
        room: Arenas,
        leaf_flows: Mapping[int, LeafFlows],
        wanted: Sequence[bool],
    ) -> None:
        self._tables, self._evaluated, self._room = tables, evaluated, room
        self._leaf_flows = leaf_flows
        self.collectors = [
            TableGradient(own) if asked else None
            for own, asked in zip(tables.tables, wanted, strict=True)
        ]
        self._addresses = np.array([own.address if own else 0 for own in self.collectors])

    def give(self, number: int, run: Run) -> None:
        """Gives the gradients of a run of sums to what they read, and to their weights."""
        (units,), room = run.units, self._room
        arenas, exact = self._evaluated.arenas, self._evaluated.exact
        step, of_flows = arenas.sizes.steps[number], room.sizes.steps[number]
        folds, sums = arenas.sums[units]
        back, flows, to_leaves = room.products[units], room.values[units], self._leaf_flows[units]
        stops = np.array([own.layer in exact for own in run.sums]) if exact else step.never
        arguments: tuple[Any, ...] = (
            *(address_of(arenas.sizes.dtype), room.outs[number][0], step.shared),
            *(of_flows.shared[0], arenas.sizes.batch),
            (arenas.products[units], arenas.parts[units], step.products),
            *(self._tables.downwards, self._addresses, run.adds, back),
            *(
                self._evaluated.inputs[units].arrays,
                folds,
                to_leaves.arrays,
            ),
            *(sums, flows, stops),
        )
        at = len(run.sums)
        while (at := descend(*(*arguments, at))) >= 0:
            own = run.sums[at]
            to = run.factors_of(of_flows.shared[0], at) - folds
            of_sum = torch.from_numpy(back[: own.num_folds * arenas.sizes.batch])
            _give_exactly(exact[own.layer], to, of_sum, flows)

    def give_pairs(self, number: int, run: Run) -> None:
        """Likewise of a sum over pairs."""
        own, table = run.sums[0], int(run.tables[0])
        arenas, room = self._evaluated.arenas, self._room
        first = int(room.sizes.steps[number].firsts[0])
        u = room.values[own.num_units][first : first + own.num_folds * room.sizes.batch]
        pairs.backward(
            own,
            run.factors_of(arenas.sizes.steps[number].shared[0], 0),
            run.factors_of(room.sizes.steps[number].shared[0], 0),
            pairs.Flows(self._evaluated, self._leaf_flows, room.values),
            self._tables.tables[table],
            u,
            self.collectors[table],
            bool(run.adds[0]),
        )


def _give_exactly(
    exact: tuple[Tensor, ...], places: np.ndarray, back: Tensor, flows: np.ndarray
) -> None:
    """Gives rows of products that were computed exactly to the sums among their factors.

    Args:
        exact: Rows of `back`, and for each factor what their gradients are multiplied with.
        places: (n, F) folds in the flows of sums, negative for inputs.
        back: (F * B, K) gradient with respect to the products as numbers.
        flows: (S, K) gradients with respect to sums.
    """
    rows, *shares = exact
    to_all = torch.from_numpy(flows)
    batch = len(back) // places.shape[1]
    fold, example = rows // batch, rows % batch
    for place, own in zip(torch.from_numpy(places), shares, strict=True):
        inner = place[fold] >= 0
        to = place[fold[inner]] * batch + example[inner]
        to_all[to] = back[rows[inner]] * own[inner]
