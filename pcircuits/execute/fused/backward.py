"""The way down through a program: gradients of values as numbers, and of inputs as logarithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.arenas import give_back, sizes_of, taken
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.kept import Kept
from pcircuits.execute.fused.kernels import Rows, divide
from pcircuits.execute.fused.program import Program, Run
from pcircuits.execute.fused.rows import LeafFlows
from pcircuits.execute.fused.runs import Shared, descend
from pcircuits.execute.fused.tables import Places, TableGradient, Tables


class _Arguments(NamedTuple):
    """What `runs.descend` is told of a run, in its order; all but the last."""

    routine: int
    flows_of: np.ndarray
    run: Shared
    places: np.ndarray
    batch: int
    room: Rows
    weights: Places
    gradients: np.ndarray
    adds: np.ndarray
    back: np.ndarray
    inputs: Rows
    leaf_folds: int
    leaf_flows: tuple[np.ndarray, np.ndarray, int]
    sums: Rows
    flows: np.ndarray
    stops: np.ndarray


class Descent:
    """The way down through the runs of a program.

    It may be made before the way up: all that can be laid out is laid out here.

    Args:
        program: The program.
        tables: Weights of the program's sums.
        evaluated: What the evaluation keeps.
        leaf_flows: Units -> room for the gradients of the inputs, filled here.
        wanted: Of each table, whether its gradient is asked for.
        in_place: Whether gradients of sums may be left where their values are: the values are not
            read on the way down, nor afterwards.
    """

    def __init__(
        self,
        program: Program,
        tables: Tables,
        evaluated: Kept,
        leaf_flows: Mapping[int, LeafFlows],
        wanted: Sequence[bool],
        *,
        in_place: bool = False,
    ) -> None:
        self._tables, self._evaluated, self._leaf_flows = tables, evaluated, leaf_flows
        # Of a sum's products the gradients are there for a moment; their parts are not used.
        own = evaluated.arenas.sizes
        self._room = taken(sizes_of(program, program.reused, own.batch, own.dtype, keep=False))
        self._flows = evaluated.arenas if in_place else self._room
        self._collectors = [
            TableGradient(own) if asked else None
            for own, asked in zip(tables.tables, wanted, strict=True)
        ]
        self._addresses = np.array([own.address if own else 0 for own in self._collectors])
        self._runs = [
            (number, run, None if len(run.units) > 1 else self._arguments(number, run))
            for number, run in enumerate(program.runs)
        ]

    def gradients(self, gradient: np.ndarray) -> list[Tensor | None]:
        """Gradients of the root's value; to be asked for once.

        Args:
            gradient: (B,) gradient with respect to the root's value; where that is -inf, it counts
                as zero by convention.

        Returns:
            Of each table, the gradient of its log-weights, summed over the sums that have it.
        """
        room = self._room
        divide(np.ascontiguousarray(gradient), self._evaluated.arenas.root, self._flows.root)
        for number, run, told in reversed(self._runs):
            if told is None:
                self._give_pairs(number, run)
            else:
                self._give(run, told)
        give_back(room)
        return [None if own is None else own.total() for own in self._collectors]

    def _arguments(self, number: int, run: Run) -> _Arguments:
        (units,), room, arenas = run.units, self._room, self._evaluated.arenas
        step, of_flows = arenas.sizes.steps[number], self._flows.sizes.steps[number]
        folds, sums = arenas.sums[units]
        return _Arguments(
            routine=address_of(arenas.sizes.dtype),
            flows_of=self._flows.outs[number][0],
            run=step.shared,
            places=of_flows.shared[0],
            batch=arenas.sizes.batch,
            room=(arenas.products[units], arenas.parts[units], step.products),
            weights=self._tables.downwards,
            gradients=self._addresses,
            adds=run.adds,
            back=room.products[units],
            inputs=self._evaluated.inputs[units].arrays,
            leaf_folds=folds,
            leaf_flows=self._leaf_flows[units].arrays,
            sums=sums,
            flows=self._flows.values[units],
            stops=step.never,
        )

    def _give(self, run: Run, told: _Arguments) -> None:
        """Gives the gradients of a run of sums to what they read, and to their weights."""
        exact, at = self._evaluated.exact, len(run.sums)
        if exact:
            told = told._replace(stops=np.array([own.layer in exact for own in run.sums]))
        while (at := descend(*told, at)) >= 0:
            own = run.sums[at]
            to = run.factors_of(told.places, at) - told.leaf_folds
            of_sum = torch.from_numpy(told.back[: own.num_folds * told.batch])
            _give_exactly(exact[own.layer], to, of_sum, told.flows)

    def _give_pairs(self, number: int, run: Run) -> None:
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
            self._collectors[table],
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
