"""The way up through a program: linear space inside, one logarithm a row.

A sum over an elementwise product is one pass over its rows and one matrix product. Rows of products
that underflow may have spoilt are computed once more from logarithms, so on every input the result
is that of evaluation in log space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.arenas import sizes_of, taken
from pcircuits.execute.fused.blas import address_of
from pcircuits.execute.fused.conditions import SumWeights
from pcircuits.execute.fused.kept import Kept
from pcircuits.execute.fused.kernels import logarithms
from pcircuits.execute.fused.memory import NUMBERS
from pcircuits.execute.fused.program import Program, Run
from pcircuits.execute.fused.rows import input_rows
from pcircuits.execute.fused.runs import ascend
from pcircuits.execute.fused.sums import MISSING, FusedSum
from pcircuits.execute.inputs import Reading


class Evaluation:
    """One evaluation of a program.

    Args:
        program: The program.
        readings: Input layer -> how its values are read.
        weights: Of the program's sums; there is nothing against them.
        keep: Whether the gradient will be asked for.

    Attributes:
        kept: What it computes.
        value: (B,) log-values of the root, filled by `run`.
        is_possible: Whether no example's value is -inf or NaN; known after `run`.
    """

    def __init__(
        self,
        program: Program,
        readings: Mapping[int, Reading],
        weights: SumWeights,
        *,
        keep: bool,
    ) -> None:
        self._program, self._readings, self._floors = program, readings, weights.floors
        assert weights.linear is not None, "something is against these weights"
        self._tables, self._keep = weights.linear, keep
        self._layout = program.kept if keep and program.rereads else program.reused
        batch = next(iter(readings.values())).batch_size
        sizes = sizes_of(program, self._layout, batch, weights.dtype, keep=keep)
        inputs = input_rows(program, readings, weights.dtype)
        self.kept = Kept(inputs, taken(sizes), exact={})
        self.value = np.empty(batch, NUMBERS[weights.dtype])
        self._logs: dict[int, Tensor] = {}

    def run(self) -> np.ndarray:
        """Computes everything; returns `value`."""
        for number, run in enumerate(self._program.runs):
            if len(run.units) > 1:
                self._compute_pairs(number, run)
            else:
                self._compute(number, run)
        arenas = self.kept.arenas
        self.is_possible = logarithms(arenas.root, arenas.root_scales, self.value)
        return self.value

    def _compute_pairs(self, number: int, run: Run) -> None:
        own, arenas = run.sums[0], self.kept.arenas
        first = int(arenas.sizes.steps[number].firsts[0])
        rows = slice(first, first + own.num_folds * arenas.sizes.batch)
        out, scales = arenas.values[own.num_units][rows], arenas.scales_of(own.num_units)[rows]
        factors = run.factors_of(self._layout.factors[number], 0)
        pairs.forward(own, factors, self.kept, self._tables.tables[run.tables[0]], out, scales)

    def _compute(self, number: int, run: Run) -> None:
        (units,), arenas = run.units, self.kept.arenas
        step, products = arenas.sizes.steps[number], arenas.products[units]
        arguments: tuple[Any, ...] = (
            *(address_of(arenas.sizes.dtype), self.kept.inputs[units].arrays, *arenas.sums[units]),
            *(step.shared, arenas.sizes.batch, (products, arenas.parts[units], step.products)),
            *(arenas.outs[number], arenas.scales),
            *(self._tables.upwards, self._floors[number]),
        )
        at = ascend(*(*arguments, 0, False))
        while at < len(run.sums):
            own, rows = run.sums[at], run.sums[at].num_folds * arenas.sizes.batch
            of_sum = torch.from_numpy(products[step.products[at] :][:rows])
            scale = arenas.scales_of(own.num_units)[step.firsts[at] :][:rows]
            places = run.factors_of(self._layout.factors[number], at)
            self._compute_exactly(own, places, of_sum, scale)
            at = ascend(*(*arguments, at, True))

    def _compute_exactly(
        self, own: FusedSum, places: np.ndarray, products: Tensor, scale: np.ndarray
    ) -> None:
        """Products of the rows whose scale is NaN, from the logarithms of their factors."""
        lost = np.flatnonzero(np.isnan(scale))
        batch = self.kept.arenas.sizes.batch
        fold, example = np.divmod(lost, batch)
        factors = [
            self._log_rows(
                own.units[0], np.where(place[fold] < 0, MISSING, place[fold] * batch + example)
            )
            for place in places
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
            self.kept.exact[own.layer] = (rows, *shares)

    def _log_rows(self, units: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(n, K) logarithms of rows by their places, and (n, 1) scales to be added.

        Inputs are read from where nothing was lost. Factors that are missing are ones.
        """
        arenas = self.kept.arenas
        first = self._program.input_folds[units] * arenas.sizes.batch
        found = torch.zeros((len(rows), units), dtype=torch.float64)
        shift = torch.zeros((len(rows), 1), dtype=torch.float64)
        is_input = (rows != MISSING) & (rows < first)
        if is_input.any():
            if units not in self._logs:
                own = [self._readings[i] for i in self._program.inputs[units]]
                logs = [reading.log(reading.source.detach()).flatten(0, 1) for reading in own]
                self._logs[units] = torch.cat(logs)
            log = self._logs[units][torch.from_numpy(rows[is_input])]
            found[torch.from_numpy(is_input)] = log.double()
        is_sum = rows >= first
        inner, of_sums = rows[is_sum] - first, torch.from_numpy(is_sum)
        found[of_sums] = torch.from_numpy(arenas.values[units][inner]).double().log()
        shift[of_sums, 0] = torch.from_numpy(arenas.scales_of(units)[inner])
        return found, shift
