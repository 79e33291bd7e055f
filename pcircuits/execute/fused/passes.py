"""The way up and the way down through a program: linear space inside, one logarithm a row.

A sum over an elementwise product is one pass over its rows and one matrix product. Rows of products
that underflow may have spoilt are computed once more from logarithms, so on every input the result
is that of evaluation in log space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.backward import WeightGradient
from pcircuits.execute.fused import pairs
from pcircuits.execute.fused.conditions import floors_of
from pcircuits.execute.fused.kernels import ADD, SET, SKIP, multiply, share
from pcircuits.execute.fused.program import FusedSum, Layout, Program
from pcircuits.execute.fused.rows import InputRows, input_rows, source_gradients
from pcircuits.execute.inputs import Reading
from pcircuits.execute.weights import AnyWeights, Weights


@dataclass(frozen=True, eq=False)
class Kept:
    """What the gradient needs of an evaluation.

    Attributes:
        inputs: Units K -> rows of the inputs.
        values: Units -> (N, K) rows of the sums, divided by exp of their scales.
        products: Of each sum that reads elementwise products, these.
    """

    inputs: Mapping[int, InputRows]
    values: Mapping[int, Tensor]
    products: Mapping[int, Tensor]

    def pack(self) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Kept]]:
        """Its tensors, and what makes it from them again, which holds on to none of them."""
        units, layers = list(self.values), list(self.products)
        rows = {i: replace(own, values=own.values[:0]) for i, own in self.inputs.items()}
        tensors = [own.values for own in self.inputs.values()]
        tensors += [*self.values.values(), *self.products.values()]

        def unpack(saved: Sequence[Tensor]) -> Kept:
            left = iter(saved)
            inputs = {i: replace(own, values=next(left)) for i, own in rows.items()}
            values = {i: next(left) for i in units}
            return Kept(inputs, values, {i: next(left) for i in layers})

        return tensors, unpack


class Evaluation:
    """One evaluation of a program.

    Args:
        program: The program.
        readings: Input layer -> how its values are read.
        weights: Sum layer -> its weights, to which `conditions.against_weights` has no objection.
        keep: Whether the gradient will be asked for.
    """

    def __init__(
        self,
        program: Program,
        readings: Mapping[int, Reading],
        weights: Mapping[int, AnyWeights],
        *,
        keep: bool,
    ) -> None:
        self._program, self._readings, self._weights = program, readings, weights
        self._batch = batch = next(iter(readings.values())).batch_size
        self._like = next(iter(weights.values())).log.detach()
        self._layout = layout = program.kept if keep else program.reused
        self._inputs = input_rows(program, readings, self._like)
        self._values = _arenas(program, layout, batch, self._like)
        self._scales = {units: np.empty(len(own)) for units, own in self._values.items()}
        self._products = _products(program, batch, self._like, keep)
        self._logs: dict[int, Tensor] = {}

    @property
    def kept(self) -> Kept:
        """What the gradient needs."""
        return Kept(self._inputs, self._values, self._products)

    def run(self) -> Tensor:
        """(B,) log-values of the root."""
        batch, scales = self._batch, self._scales
        arrays = {
            units: (
                *(own.values.numpy(), own.scales, own.rows, self._program.input_folds[units]),
                *(self._values[units].numpy(), scales[units], np.arange(len(scales[units]))),
            )
            for units, own in self._inputs.items()
        }
        rooms = {id(room): room.numpy() for room in self._products.values()}
        outs = _rows_of_sums(self._program, self._layout, self._values, batch)
        floors = floors_of(self._program, self._weights)
        steps = zip(self._program.sums, self._layout.factors, floors, strict=True)
        for own, places, floor in steps:
            table, out = self._weights[own.layer], outs[own.layer]
            assert isinstance(table, Weights)
            out_scales, first = scales[own.num_units], self._layout.starts[own.layer] * batch
            if own.pairs:
                pairs.forward(own, places, arrays, table, out, out_scales[first:])
                continue
            room = self._products[own.layer]
            lost = multiply(
                *(*arrays[own.units[0]], places, batch, floor),
                *(rooms[id(room)], out_scales, first),
            )
            if lost:
                out_scale = out_scales[first : first + len(out)]
                self._compute_exactly(own.units[0], places, room, out_scale)
            _mix(room, table, own.num_folds, out)
        root = self._program.sums[-1]
        first = self._layout.starts[root.layer] * batch
        scale = torch.from_numpy(scales[1][first : first + batch])
        return (outs[root.layer][:, 0].double().log() + scale).to(self._like.dtype)

    def _compute_exactly(
        self, units: int, places: np.ndarray, products: Tensor, scale: np.ndarray
    ) -> None:
        """Products of the rows whose scale is NaN, from the logarithms of their factors."""
        lost = np.flatnonzero(np.isnan(scale))
        fold, example = np.divmod(lost, self._batch)
        terms = torch.zeros((len(lost), units), dtype=torch.float64)
        for own in places:
            terms += self._log_rows(units, own[fold] * self._batch + example)
        top = terms.amax(-1, keepdim=True)
        e = (terms - top.clamp_min(torch.finfo(top.dtype).min)).exp()
        total = e.sum(-1, keepdim=True)
        products[torch.from_numpy(lost)] = (e / total.masked_fill(total == 0, 1.0)).to(
            products.dtype
        )
        scale[lost] = (top + total.log())[:, 0].numpy()

    def _log_rows(self, units: int, rows: np.ndarray) -> Tensor:
        """(n, K) logarithms of rows by their places; of inputs, from where nothing was lost."""
        first = self._program.input_folds[units] * self._batch
        found = torch.empty((len(rows), units), dtype=torch.float64)
        is_input = rows < first
        if is_input.any():
            if units not in self._logs:
                own = [self._readings[i] for i in self._program.inputs[units]]
                logs = [reading.log(reading.source.detach()).flatten(0, 1) for reading in own]
                self._logs[units] = torch.cat(logs)
            log = self._logs[units][torch.from_numpy(rows[is_input])]
            found[torch.from_numpy(is_input)] = log.double()
        inner = rows[~is_input] - first
        scale = torch.from_numpy(self._scales[units][inner])[:, None]
        value = self._values[units][torch.from_numpy(inner)].double()
        found[torch.from_numpy(~is_input)] = value.log() + scale
        return found


def gradients(
    program: Program,
    readings: Mapping[int, Reading],
    weights: Mapping[int, AnyWeights],
    evaluated: Kept,
    gradient: Tensor,
    kept: frozenset[int],
    wanted: frozenset[int],
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients of the root's value.

    Args:
        program: The program.
        readings: Input layer -> how its values were read.
        weights: Sum layer -> its weights; layers may share one object.
        evaluated: What the evaluation kept.
        gradient: (B,) gradient with respect to the root's value; zero where that is -inf.
        kept: Input layers for whose sources the gradient is asked for.
        wanted: Sum layers whose weights' gradients are asked for.

    Returns:
        Input layer -> gradient of its source, and `id(weights)` -> gradient of the log-weights,
        summed over the layers that share them.
    """
    batch, values = len(gradient), evaluated.values
    layout = program.reused if program.once else program.kept
    flows = _arenas(program, layout, batch, gradient, zero=not program.once)
    leaf_flows, modes = _input_flows(program, evaluated.inputs, kept)
    arrays = {
        units: (
            *(own.rows, program.input_folds[units], modes[units], leaf_flows[units].numpy()),
            *(SET if program.once else ADD, flows[units].numpy()),
        )
        for units, own in evaluated.inputs.items()
    }
    numbers = {units: own.numpy() for units, own in values.items()}
    outs = _rows_of_sums(program, layout, flows, batch)
    _start(program, evaluated, gradient, outs)
    collected = {id(weights[i]): WeightGradient(weights[i]) for i in wanted}
    steps = zip(program.sums, program.kept.factors, layout.factors, strict=True)
    for own, places, flow_places in reversed(list(steps)):
        table, u = weights[own.layer], outs[own.layer]
        assert isinstance(table, Weights)
        collector = collected[id(table)] if own.layer in wanted else None
        if own.pairs:
            both = (places, flow_places)
            pairs.backward(own, both, evaluated.inputs, numbers, arrays, table, u, collector)
            continue
        e = evaluated.products[own.layer]
        if collector is not None:
            # At once: the rows of u are those of another sum afterwards.
            collector.add_pair(_folded(u, own), _folded(e, own))
            collector.multiply_pairs()
        back = _unmix(u, table, own.num_folds).numpy()
        (units,) = own.units
        share(back, e.numpy(), numbers[units], places, flow_places, batch, *arrays[units])
    found = source_gradients(program, readings, evaluated.inputs, leaf_flows, kept)
    return found, {key: collector.total() for key, collector in collected.items()}


def _start(program: Program, evaluated: Kept, gradient: Tensor, outs: Mapping[int, Tensor]) -> None:
    """Sets the gradient of the root's value as a number."""
    root = program.sums[-1]
    first = program.kept.starts[root.layer] * len(gradient)
    total = evaluated.values[1][first : first + len(gradient), 0]
    outs[root.layer][:, 0] = gradient / total.masked_fill(total == 0, 1.0)


def _input_flows(
    program: Program, inputs: Mapping[int, InputRows], kept: frozenset[int]
) -> tuple[dict[int, Tensor], dict[int, int]]:
    """Units -> room for the gradients of the inputs' rows, and what becomes of them."""
    flows, modes = {}, {}
    for units, own in inputs.items():
        asked = not kept.isdisjoint(program.inputs.get(units, ()))
        adds = own.in_table or not program.once
        modes[units] = SKIP if not asked else ADD if adds else SET
        empty = own.values[:0] if not asked else own.values
        flows[units] = torch.zeros_like(empty) if adds else torch.empty_like(empty)
    return flows, modes


def _arenas(
    program: Program, layout: Layout, batch: int, like: Tensor, *, zero: bool = False
) -> dict[int, Tensor]:
    make = like.new_zeros if zero else like.new_empty
    return {
        units: make((layout.folds.get(units, 0) * batch, units)) for units in program.input_folds
    }


def _products(program: Program, batch: int, like: Tensor, keep: bool) -> dict[int, Tensor]:
    """Sum layer -> (F * B, K) room for the products it reads; one for all of a size, or each."""
    sums = [own for own in program.sums if not own.pairs]
    shapes = {own.layer: (own.num_folds * batch, own.units[0]) for own in sums}
    if not keep:
        rooms = {shape: like.new_empty(shape) for shape in set(shapes.values())}
        return {layer: rooms[shape] for layer, shape in shapes.items()}
    found: dict[int, Tensor] = {}
    for units in {own.units[0] for own in sums}:
        layers = [layer for layer, shape in shapes.items() if shape[1] == units]
        sizes = [shapes[layer][0] for layer in layers]
        room = like.new_empty((sum(sizes), units))
        found.update(zip(layers, room.split(sizes), strict=True))
    return found


def _rows_of_sums(
    program: Program, layout: Layout, arenas: Mapping[int, Tensor], batch: int
) -> dict[int, Tensor]:
    """Sum layer -> its (F * B, O) rows of an arena."""
    made: dict[tuple[int, int, int], Tensor] = {}
    found: dict[int, Tensor] = {}
    for own in program.sums:
        start, units = layout.starts[own.layer], own.num_units
        key = (units, start, own.num_folds)
        if key not in made:
            made[key] = arenas[units][start * batch : (start + own.num_folds) * batch]
        found[own.layer] = made[key]
    return found


def _folded(rows: Tensor, own: FusedSum) -> Tensor:
    return rows.view(own.num_folds, -1, rows.shape[-1])


def _mix(products: Tensor, table: Weights, folds: int, out: Tensor) -> None:
    """Fills `out` with the (F * B, O) sums of products."""
    if table.factor.ndim == 2:
        torch.mm(products, table.columns, out=out)
        return
    torch.bmm(
        products.view(folds, -1, products.shape[1]),
        table.linear[:, 0].transpose(1, 2),
        out=out.view(folds, -1, out.shape[1]),
    )


def _unmix(u: Tensor, table: Weights, folds: int) -> Tensor:
    """(F * B, K) gradient of products from the (F * B, O) gradient of their sums."""
    if table.factor.ndim == 2:
        return u @ table.factor
    return torch.bmm(u.view(folds, -1, u.shape[1]), table.linear[:, 0]).flatten(0, 1)
