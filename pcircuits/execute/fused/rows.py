"""Values of inputs as rows in linear space, read where they lie: of tables, by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.down_kernels import ADDS, FILLS
from pcircuits.execute.fused.memory import NUMBERS, array_of
from pcircuits.execute.fused.program import Program
from pcircuits.execute.fused.table_kernels import (
    add_columns,
    exponentiate_columns,
    pick_columns,
    transpose,
)
from pcircuits.execute.inputs import Reading
from pcircuits.execute.weights import Weights


@dataclass(frozen=True, eq=False)
class InputRows:
    """Inputs of K units as rows in linear space.

    Attributes:
        values: (R, K) rows.
        scales: (R,) logarithms of what they were divided by, float64; -inf for a row of zeros.
        rows: (F * B,) row of each fold and example.
        in_table: Whether the rows are those of one layer's table, which many examples may share.
    """

    values: np.ndarray
    scales: np.ndarray
    rows: np.ndarray
    in_table: bool

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All three as compiled code takes them."""
        return self.values, self.scales, self.rows


def input_rows(
    program: Program, readings: Mapping[int, Reading], dtype: torch.dtype
) -> dict[int, InputRows]:
    """Units -> rows of the inputs with so many; none where there is no such input."""
    return {
        units: _joined([readings[i] for i in program.inputs[units]], dtype)
        if units in program.inputs
        else _no_rows(units, dtype)
        for units in program.input_folds
    }


@cache
def _no_rows(units: int, dtype: torch.dtype) -> InputRows:
    values = np.empty((0, units), NUMBERS[dtype])
    return InputRows(values, np.empty(0), np.empty(0, np.int64), in_table=False)


def _joined(readings: list[Reading], dtype: torch.dtype) -> InputRows:
    if len(readings) == 1 and readings[0].often:
        return InputRows(*_table(readings[0]), _columns(readings[0]), in_table=True)
    parts, scales = zip(*(_read(own, dtype) for own in readings), strict=True)
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    scale = scales[0] if len(scales) == 1 else np.concatenate(scales)
    return InputRows(values, scale, np.arange(len(values)), in_table=False)


def _columns(reading: Reading) -> np.ndarray:
    """(F * B,) columns of all tables, one after the other, that are read."""
    assert reading.values is not None, "there is a table to be read"
    values = reading.values.numpy()
    groups, *_, categories = reading.source.shape
    if groups > 1:
        values = values + np.arange(groups)[:, None] * categories
    return values.reshape(-1)


def _read(reading: Reading, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(F * B, K) rows and their scales."""
    if reading.often:
        (table, tops), columns = _table(reading), _columns(reading)
        return table[columns], tops[columns]
    # Compiled code reads whole rows.
    log = _picked(reading) if reading.values is not None else reading.source.detach().flatten(0, 1)
    log = log.to(dtype).contiguous()
    top = log.amax(-1, keepdim=True)
    finite = top.clamp_min(torch.finfo(log.dtype).min)
    return (log - finite).exp_().numpy(), top[:, 0].double().numpy()


def _picked(reading: Reading) -> Tensor:
    """(F * B, K) columns of a table that are read, as rows."""
    log = np.ascontiguousarray(reading.source.detach().numpy())
    columns = _of_each_table(reading)
    out = np.empty((*columns.shape, log.shape[2]), log.dtype)
    pick_columns(log, columns, out)
    return torch.from_numpy(out).flatten(0, 1)


def _of_each_table(reading: Reading) -> np.ndarray:
    """(G, F * B / G) columns of each table that are read."""
    assert reading.values is not None, "there is a table to be read"
    return np.ascontiguousarray(reading.values.numpy()).reshape(len(reading.source), -1)


_TABLES: WeakKeyDictionary[Weights, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()


def _table(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """(G * V, K) columns of an input's table as rows, and (G * V,) scales, float64."""
    assert reading.weights is not None, "there are rows to be read"
    found = _TABLES.get(reading.weights)
    if found is None:
        found = _TABLES[reading.weights] = _exponentiated(reading.weights)
    return found


def _exponentiated(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    log = np.ascontiguousarray(weights.log.detach().numpy())
    groups, _, units, categories = log.shape
    table = np.empty((groups * categories, units), log.dtype)
    of_groups = table.reshape(groups, categories, units)
    if exponentiate_columns(log, of_groups):
        return table, np.zeros(len(table))
    transpose(log[:, 0], of_groups)
    top = table.max(1).clip(np.finfo(log.dtype).min)
    with np.errstate(invalid="ignore"):  # of +inf comes NaN, which the result tells
        np.exp(table - top[:, None], out=table)
    top[table.max(1, initial=0.0) == 0.0] = -np.inf
    return table, top.astype(np.float64)


@dataclass(frozen=True, eq=False)
class LeafFlows:
    """Gradients with respect to the logarithms of the rows of inputs with K units.

    Attributes:
        values: (R, K); none if nobody asks for them.
        rows: (F * B,) row of each fold and example.
        what: `FILLS` the rows; `ADDS` to them, of which several inputs may have the same, in which
            there are zeros at first; or `REPLACES` the products, which are `values`, and reads no
            `rows`.
    """

    values: np.ndarray
    rows: np.ndarray
    what: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, int]:
        """All three as compiled code takes them."""
        return self.values, self.rows, self.what

    @classmethod
    def of(cls, inputs: InputRows, *, asked: bool) -> LeafFlows:
        """Room for the gradients of all rows; none if nobody asks."""
        own, what = inputs.values, ADDS if inputs.in_table else FILLS
        if not asked:
            return cls(own[:0], inputs.rows, what)
        room = array_of(own.shape, own.dtype)
        if what == ADDS:
            room.fill(0.0)
        return cls(room, inputs.rows, what)


def source_gradients(
    program: Program,
    readings: Mapping[int, Reading],
    flows: Mapping[int, LeafFlows],
    asked: frozenset[int],
) -> dict[int, Tensor]:
    """Gradients of the sources of input layers from those of the logarithms of rows."""
    found: dict[int, Tensor] = {}
    for units, layers in program.inputs.items():
        if asked.isdisjoint(layers):
            continue
        if flows[units].what == ADDS:
            found[layers[0]] = _of_table(readings[layers[0]], flows[units].values)
            continue
        parts = split_by_layer(flows[units].values, layers, readings)
        for layer, flow in zip(layers, parts, strict=True):
            if layer in asked:
                found[layer] = _of_rows(readings[layer], flow)
    return found


def split_by_layer(
    rows: np.ndarray, layers: Sequence[int], readings: Mapping[int, Reading]
) -> list[np.ndarray]:
    """Rows of the folds and examples of some layers, one after the other, as those of each."""
    if len(layers) == 1:
        return [rows]
    ends = np.cumsum([readings[i].num_rows for i in layers])
    return np.split(rows, ends[:-1])


def _of_rows(reading: Reading, flow: np.ndarray) -> Tensor:
    """Gradient of a source from the (F * B, K) gradient of the log-values."""
    if reading.values is None:
        return torch.from_numpy(flow.reshape(reading.source.shape))
    if not reading.often:
        out = torch.empty(reading.source.shape, dtype=reading.source.dtype)
        columns = _of_each_table(reading)
        add_columns(flow.reshape(*columns.shape, -1), columns, out.numpy())
        return out
    groups, _, units, categories = reading.source.shape
    total = torch.zeros((groups * categories, units), dtype=reading.source.dtype)
    total.index_add_(0, torch.from_numpy(_columns(reading)), torch.from_numpy(flow))
    return _of_table(reading, total.numpy())


def _of_table(reading: Reading, flow: np.ndarray) -> Tensor:
    """Gradient of a source from the (G * V, K) gradient of the rows of its table."""
    groups, _, units, categories = reading.source.shape
    out = np.empty((groups, 1, units, categories), flow.dtype)
    transpose(flow.reshape(groups, categories, units), out[:, 0])
    return torch.from_numpy(out)
