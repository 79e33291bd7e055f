"""Values of inputs as rows in linear space, read where they lie: of tables, by category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.kernels import transpose
from pcircuits.execute.fused.program import Program
from pcircuits.execute.inputs import Reading
from pcircuits.execute.weights import Weights

# Tables whose least log-weight is above this are exponentiated as they are.
_UNSHIFTED = -30.0


@dataclass(frozen=True, eq=False)
class InputRows:
    """Inputs of K units as rows in linear space.

    Attributes:
        values: (R, K) rows.
        scales: (R,) logarithms of what they were divided by, float64; -inf for a row of zeros.
        rows: (F * B,) row of each fold and example.
        in_table: Whether the rows are those of one layer's table, which many examples may share.
    """

    values: Tensor
    scales: np.ndarray
    rows: np.ndarray
    in_table: bool

    def holding(self, values: Tensor) -> InputRows:
        """The same with other values."""
        return InputRows(values, self.scales, self.rows, self.in_table)


def input_rows(
    program: Program, readings: Mapping[int, Reading], like: Tensor
) -> dict[int, InputRows]:
    """Units -> rows of the inputs with so many; none where there is no such input."""
    nothing = np.empty(0, dtype=np.int64)
    return {
        units: _joined([readings[i] for i in program.inputs[units]])
        if units in program.inputs
        else InputRows(like.new_empty((0, units)), np.empty(0), nothing, False)
        for units in program.input_folds
    }


def _joined(readings: list[Reading]) -> InputRows:
    if len(readings) == 1 and readings[0].rows is not None:
        table, tops = _table(readings[0])
        return InputRows(table, tops.numpy(), readings[0].rows.numpy(), in_table=True)
    parts, scales = zip(*map(_read, readings), strict=True)
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    scale = scales[0] if len(scales) == 1 else torch.cat(scales)
    return InputRows(values, scale.numpy(), np.arange(len(values)), in_table=False)


def _read(reading: Reading) -> tuple[Tensor, Tensor]:
    """(F * B, K) rows and their scales."""
    if reading.rows is not None:
        table, tops = _table(reading)
        return table.index_select(0, reading.rows), tops.index_select(0, reading.rows)
    log = reading.source.detach().flatten(0, 1)
    top = log.amax(-1, keepdim=True)
    finite = top.clamp_min(torch.finfo(log.dtype).min)
    return (log - finite).exp_(), top[:, 0].double()


_TABLES: WeakKeyDictionary[Weights, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def _table(reading: Reading) -> tuple[Tensor, Tensor]:
    """(G * V, K) columns of an input's table as rows, and (G * V,) scales, float64."""
    assert reading.weights is not None, "there are rows to be read"
    found = _TABLES.get(reading.weights)
    if found is None:
        found = _TABLES[reading.weights] = _exponentiated(reading.weights)
    return found


def _exponentiated(weights: Weights) -> tuple[Tensor, Tensor]:
    log = weights.log.detach()
    groups, _, units, categories = log.shape
    table = log.new_empty((groups * categories, units))
    _transpose(log, table.view(groups, 1, categories, units))
    if table.numpy().min(initial=np.inf) > _UNSHIFTED:
        return table.exp_(), torch.zeros(len(table), dtype=torch.float64)
    top = table.amax(-1)
    finite = top.clamp_min(torch.finfo(log.dtype).min)
    return table.sub_(finite[:, None]).exp_(), top.double()


def _transpose(source: Tensor, out: Tensor) -> None:
    """Copies (G, 1, R, C) to (G, 1, C, R)."""
    transpose(source.numpy()[:, 0], out.numpy()[:, 0])


def source_gradients(
    program: Program,
    readings: Mapping[int, Reading],
    inputs: Mapping[int, InputRows],
    flows: Mapping[int, Tensor],
    kept: frozenset[int],
) -> dict[int, Tensor]:
    """Gradients of the sources of input layers from those of the logarithms of rows."""
    found: dict[int, Tensor] = {}
    for units, layers in program.inputs.items():
        if kept.isdisjoint(layers):
            continue
        if inputs[units].in_table:
            (layer,) = layers
            if layer in kept:
                found[layer] = _of_table(readings[layer], flows[units])
            continue
        sizes = [readings[i].num_rows for i in layers]
        for layer, flow in zip(layers, flows[units].split(sizes), strict=True):
            if layer in kept:
                found[layer] = _of_rows(readings[layer], flow)
    return found


def _of_rows(reading: Reading, flow: Tensor) -> Tensor:
    """Gradient of a source from the (F * B, K) gradient of the log-values."""
    if reading.rows is None:
        return flow.view(reading.source.shape)
    groups, _, units, categories = reading.source.shape
    total = flow.new_zeros((groups * categories, units))
    return _of_table(reading, total.index_add_(0, reading.rows, flow))


def _of_table(reading: Reading, flow: Tensor) -> Tensor:
    """Gradient of a source from the (G * V, K) gradient of the rows of its table."""
    groups, _, units, categories = reading.source.shape
    out = flow.new_empty(reading.source.shape)
    _transpose(flow.view(groups, 1, categories, units), out)
    return out
