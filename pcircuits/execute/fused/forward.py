"""The way up through a program: linear space inside, one logarithm a row.

A sum over an elementwise product is one pass over its rows and one matrix product. Rows of products
that underflow may have spoilt are computed once more from logarithms, so on every input the result
is that of evaluation in log space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.arenas import Arenas, sizes_of
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.kernels import logarithms
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
        arenas: Rows of the sums, which are only those of the last ones where the program does not
            reread them, and of the products.
        root: Row of the root's first example.
        exact: Sum layer -> rows of its products with the part NaN, and for each factor the (n, K)
            products divided by its values.
    """

    inputs: Mapping[int, InputRows]
    arenas: Arenas
    root: int
    exact: Mapping[int, tuple[Tensor, ...]]

    @property
    def total(self) -> np.ndarray:
        """(B,) the root's value, divided by exp of its scale."""
        return self.arenas.values[1][self.root : self.root + self.arenas.sizes.batch, 0]

    def pack(self) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Kept]]:
        """Its tensors, and what makes it from them again, which holds on to none of them."""
        sizes, root = self.arenas.sizes, self.root
        rows = {i: own.holding(own.values[:0]) for i, own in self.inputs.items()}
        counts = {i: len(own) for i, own in self.exact.items()}
        tensors = [torch.from_numpy(self.arenas.block)]
        tensors += [own.values for own in self.inputs.values()]
        tensors += [tensor for own in self.exact.values() for tensor in own]

        def unpack(saved: Sequence[Tensor]) -> Kept:
            block, *others = saved
            left = iter(others)
            inputs = {i: own.holding(next(left)) for i, own in rows.items()}
            exact = {i: tuple(next(left) for _ in range(count)) for i, count in counts.items()}
            return Kept(inputs, Arenas(sizes, block.numpy()), root, exact)

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
        self._like = weights[0].log.detach()
        self._layout = program.kept if keep and program.rereads else program.reused
        self._inputs = input_rows(program, readings, self._like)
        folds = program.product_folds if keep else program.product_folds_at_once
        dtype = self._like.dtype
        self._arenas = Arenas(sizes_of(program, self._layout.folds, folds, batch, dtype))
        self._exact: dict[int, tuple[Tensor, ...]] = {}
        self._logs: dict[int, Tensor] = {}

    def kept(self) -> Kept:
        """What the gradient needs, once it has run."""
        return Kept(self._inputs, self._arenas, self._root_rows().start, self._exact)

    def run(self) -> Tensor:
        """(B,) log-values of the root."""
        own = self._arenas
        arrays = {
            units: (
                *(inputs.values.numpy(), inputs.scales, inputs.rows),
                *(self._program.input_folds[units], own.values[units], own.scales_of(units)),
                np.arange(len(own.values[units])),
            )
            for units, inputs in self._inputs.items()
        }
        tables, layout = Tables.upwards(self._weights), self._layout
        steps = zip(self._program.runs, layout.factors, layout.firsts, self._floors, strict=True)
        for run, factors, firsts, floors in steps:
            if len(run.units) > 1:
                self._compute_pairs(run, factors, int(firsts[0]), arrays)
            else:
                self._compute(run, tables, factors, firsts * self._batch, floors, arrays)
        rows = self._root_rows()
        value = np.empty(self._batch, own.values[1].dtype)
        logarithms(own.values[1][rows, 0], own.scales_of(1)[rows], value)
        return torch.from_numpy(value)

    def _root_rows(self) -> slice:
        first = int(self._layout.firsts[-1][-1]) * self._batch
        return slice(first, first + self._batch)

    def _compute_pairs(
        self,
        run: Run,
        factors: np.ndarray,
        first: int,
        arrays: Mapping[int, pairs.ForwardArrays],
    ) -> None:
        own, weights = run.sums[0], self._weights[run.tables[0]]
        assert isinstance(weights, Weights)
        rows = slice(first * self._batch, (first + own.num_folds) * self._batch)
        out = self._arenas.values[own.num_units][rows]
        scales = self._arenas.scales_of(own.num_units)[rows]
        pairs.forward(own, run.factors_of(factors, 0), arrays, weights, out, scales)

    def _compute(
        self,
        run: Run,
        tables: Tables,
        factors: np.ndarray,
        firsts: np.ndarray,
        floors: np.ndarray,
        arrays: Mapping[int, pairs.ForwardArrays],
    ) -> None:
        (units,) = run.units
        arenas = self._arenas
        products, parts = arenas.products[units], arenas.parts[units]
        starts = run.products * self._batch if self._keep else np.zeros_like(run.products)
        outs = arenas.addresses[run.arenas] + firsts * run.num_units * products.itemsize
        fixed: tuple[Any, ...] = (
            *(address_of(self._like.dtype), *arrays[units]),
            *(factors, run.shapes, run.starts, self._batch, floors, products, parts, starts),
            *(outs, run.num_units, arenas.scales, arenas.sizes.first_scales[run.arenas] + firsts),
            *(tables.addresses[run.tables], tables.strides[run.tables]),
        )
        at = ascend(*(*fixed, 0, False))
        while at < len(run.sums):
            own, rows = run.sums[at], run.sums[at].num_folds * self._batch
            of_sum = torch.from_numpy(products[starts[at] : starts[at] + rows])
            scale = arenas.scales_of(own.num_units)[firsts[at] : firsts[at] + rows]
            self._compute_exactly(own, run.factors_of(factors, at), of_sum, scale)
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
        found[of_sums] = torch.from_numpy(self._arenas.values[units][inner]).double().log()
        shift[of_sums, 0] = torch.from_numpy(self._arenas.scales_of(units)[inner])
        return found, shift
