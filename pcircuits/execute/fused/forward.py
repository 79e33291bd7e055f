"""The way up through a program: linear space inside, one logarithm a row.

A sum over an elementwise product is one pass over its rows and one matrix product. Rows of products
that underflow may have spoilt are computed once more from logarithms, so on every input the result
is that of evaluation in log space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.program import FusedSum, Program, Run
from pcircuits.execute.fused.rows import InputRows, input_rows
from pcircuits.execute.fused.runs import ascend
from pcircuits.execute.fused.tables import Tables
from pcircuits.execute.inputs import Reading
from pcircuits.execute.weights import AnyWeights, Weights


@dataclass(frozen=True, eq=False)
class Kept:
    """What the gradient needs of an evaluation.

    Attributes:
        inputs: Units K -> rows of the inputs.
        values: Units -> (N, K) rows of the sums, divided by exp of their scales; no rows where
            the program does not reread them.
        products: Units -> (P, K) rows of elementwise products, divided by their sums.
        parts: Units -> (P,) what they were multiplied with for it.
        total: (B,) the root's value, divided by exp of its scale.
        exact: Sum layer -> rows of its products with the part NaN, and for each factor the (n, K)
            products divided by its values.
    """

    inputs: Mapping[int, InputRows]
    values: Mapping[int, Tensor]
    products: Mapping[int, Tensor]
    parts: Mapping[int, Tensor]
    total: Tensor
    exact: Mapping[int, tuple[Tensor, ...]]

    def pack(self) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Kept]]:
        """Its tensors, and what makes it from them again, which holds on to none of them."""
        units, sizes = list(self.values), {i: len(own) for i, own in self.exact.items()}
        rows = {i: replace(own, values=own.values[:0]) for i, own in self.inputs.items()}
        tensors = [own.values for own in self.inputs.values()]
        for arena in (self.values, self.products, self.parts):
            tensors += [arena[i] for i in units]
        tensors += [self.total, *(tensor for own in self.exact.values() for tensor in own)]

        def unpack(saved: Sequence[Tensor]) -> Kept:
            left = iter(saved)
            inputs = {i: replace(own, values=next(left)) for i, own in rows.items()}
            values, products, parts = ({i: next(left) for i in units} for _ in range(3))
            total = next(left)
            exact = {i: tuple(next(left) for _ in range(size)) for i, size in sizes.items()}
            return Kept(inputs, values, products, parts, total, exact)

        return tensors, unpack


class Evaluation:
    """One evaluation of a program.

    Args:
        program: The program.
        readings: Input layer -> how its values are read.
        weights: The program's tables, to which `conditions.why_not` has no objection.
        floors: Of each run, those of its sums.
        keep: Whether the gradient will be asked for.
    """

    def __init__(
        self,
        program: Program,
        readings: Mapping[int, Reading],
        weights: Sequence[AnyWeights],
        floors: Sequence[np.ndarray],
        *,
        keep: bool,
    ) -> None:
        self._program, self._readings, self._weights = program, readings, weights
        self._floors, self._keep = floors, keep
        self._batch = batch = next(iter(readings.values())).batch_size
        self._like = like = weights[0].log.detach()
        self._layout = program.kept if keep and program.rereads else program.reused
        self._inputs = input_rows(program, readings, like)
        self._values = arenas(self._layout.folds, program, batch, like)
        self._scales = {units: np.empty(len(own)) for units, own in self._values.items()}
        folds = program.product_folds if keep else program.product_folds_at_once
        self._products = arenas(folds, program, batch, like)
        self._parts = {units: like.new_empty(len(own)) for units, own in self._products.items()}
        self._exact: dict[int, tuple[Tensor, ...]] = {}
        self._logs: dict[int, Tensor] = {}

    def kept(self) -> Kept:
        """What the gradient needs, once it has run."""
        values = self._values
        if not self._program.rereads:
            values = {units: own[:0] for units, own in values.items()}
        root = self._root().clone()
        return Kept(self._inputs, values, self._products, self._parts, root, self._exact)

    def run(self) -> Tensor:
        """(B,) log-values of the root."""
        arrays = {
            units: (
                *(own.values.numpy(), own.scales, own.rows, self._program.input_folds[units]),
                *(self._values[units].numpy(), self._scales[units]),
                np.arange(len(self._values[units])),
            )
            for units, own in self._inputs.items()
        }
        tables, layout = Tables.upwards(self._weights), self._layout
        steps = zip(self._program.runs, layout.factors, layout.firsts, self._floors, strict=True)
        for run, factors, firsts, floors in steps:
            like = run.like
            if like.pairs:
                rows = slice(firsts[0] * self._batch, (firsts[0] + like.num_folds) * self._batch)
                table = self._weights[run.tables[0]]
                assert isinstance(table, Weights)
                out, scales = self._values[like.num_units], self._scales[like.num_units]
                pairs.forward(like, factors[0], arrays, table, out[rows], scales[rows])
            else:
                self._compute(run, tables, factors, firsts * self._batch, floors, arrays)
        scale = torch.from_numpy(self._scales[1][self._root_rows()])
        return (self._root().double().log() + scale).to(self._like.dtype)

    def _root_rows(self) -> slice:
        first = int(self._layout.firsts[-1][-1]) * self._batch
        return slice(first, first + self._batch)

    def _root(self) -> Tensor:
        """(B,) the root's values, divided by exp of their scales."""
        return self._values[1][self._root_rows(), 0]

    def _compute(
        self,
        run: Run,
        tables: Tables,
        factors: np.ndarray,
        firsts: np.ndarray,
        floors: np.ndarray,
        arrays: Mapping[int, pairs.ForwardArrays],
    ) -> None:
        (units,), num_units = run.like.units, run.like.num_units
        products, parts = self._products[units], self._parts[units]
        starts = run.products * (self._batch if self._keep else 0)
        fixed: tuple[Any, ...] = (
            *(address_of(products.dtype), *arrays[units]),
            *(factors, self._batch, floors, products.numpy(), parts.numpy(), starts),
            *(self._values[num_units].numpy(), self._scales[num_units], firsts),
            *(tables.addresses[run.tables], tables.strides[run.tables]),
        )
        at = ascend(*(*fixed, 0, False))
        while at < len(run.sums):
            rows = run.like.num_folds * self._batch
            own = products[starts[at] : starts[at] + rows]
            scale = self._scales[num_units][firsts[at] : firsts[at] + rows]
            self._compute_exactly(run.sums[at], factors[at], own, scale)
            at = ascend(*(*fixed, at, True))

    def _compute_exactly(
        self, own: FusedSum, places: np.ndarray, products: Tensor, scale: np.ndarray
    ) -> None:
        """Products of the rows whose scale is NaN, from the logarithms of their factors."""
        lost = np.flatnonzero(np.isnan(scale))
        fold, example = np.divmod(lost, self._batch)
        factors = [
            self._log_rows(own.units[0], place[fold] * self._batch + example) for place in places
        ]
        terms = torch.stack([value + shift for value, shift in factors]).sum(0)
        top = terms.amax(-1, keepdim=True).clamp_min(torch.finfo(terms.dtype).min)
        total = (terms - top).exp().sum(-1, keepdim=True)
        dead = total == 0
        log = terms - (top + total.masked_fill(dead, 1.0).log())
        rows = torch.from_numpy(lost)
        products[rows] = log.exp().to(products.dtype)
        scale[lost] = (top + total.log())[:, 0].numpy()
        if self._keep and len(factors) <= 2:
            # What a sum gets of the gradient, where it cannot be the other factor.
            shares = [(log - value).exp().to(products.dtype) for value, _ in factors]
            self._exact[own.layer] = (rows, *shares)

    def _log_rows(self, units: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(n, K) logarithms of rows by their places, and (n, 1) scales to be added.

        Inputs are read from where nothing was lost.
        """
        first = self._program.input_folds[units] * self._batch
        found = torch.empty((len(rows), units), dtype=torch.float64)
        shift = torch.zeros((len(rows), 1), dtype=torch.float64)
        is_input = rows < first
        if is_input.any():
            if units not in self._logs:
                own = [self._readings[i] for i in self._program.inputs[units]]
                logs = [reading.log(reading.source.detach()).flatten(0, 1) for reading in own]
                self._logs[units] = torch.cat(logs)
            log = self._logs[units][torch.from_numpy(rows[is_input])]
            found[torch.from_numpy(is_input)] = log.double()
        inner, of_sums = rows[~is_input] - first, torch.from_numpy(~is_input)
        found[of_sums] = self._values[units][torch.from_numpy(inner)].double().log()
        shift[of_sums, 0] = torch.from_numpy(self._scales[units][inner])
        return found, shift


def arenas(
    folds: Mapping[int, int], program: Program, batch: int, like: Tensor
) -> dict[int, Tensor]:
    """Units K -> (N, K) room for rows of so many folds."""
    units = program.input_folds
    return {k: like.new_empty((folds.get(k, 0) * batch, k)) for k in units}
