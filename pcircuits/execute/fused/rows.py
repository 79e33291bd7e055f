"""Values of inputs as rows in linear space, read where they lie: of tables, by category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.program import Program
from pcircuits.execute.inputs import Reading


@dataclass(frozen=True, eq=False)
class InputRows:
    """Inputs of K units as rows that are divided by their largest entry.

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
        table, tops = readings[0].table
        return InputRows(table, tops.numpy(), readings[0].rows.numpy(), in_table=True)
    parts, scales = zip(*map(_read, readings), strict=True)
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    scale = scales[0] if len(scales) == 1 else torch.cat(scales)
    return InputRows(values, scale.numpy(), np.arange(len(values)), in_table=False)


def _read(reading: Reading) -> tuple[Tensor, Tensor]:
    """(F * B, K) rows and their scales."""
    if reading.rows is not None:
        table, tops = reading.table
        return table.index_select(0, reading.rows), tops.index_select(0, reading.rows)
    log = reading.source.detach().flatten(0, 1)
    top = log.amax(-1, keepdim=True)
    finite = top.clamp_min(torch.finfo(log.dtype).min)
    return (log - finite).exp_(), top[:, 0].double()


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
        if inputs[units].in_table:
            (layer,) = layers
            found[layer] = readings[layer].of_table(flows[units])
            continue
        sizes = [readings[i].num_rows for i in layers]
        for layer, flow in zip(layers, flows[units].split(sizes), strict=True):
            if layer in kept:
                found[layer] = readings[layer].gradient(flow)
    return {layer: gradient for layer, gradient in found.items() if layer in kept}
