"""Exact gradients of dense sums, from their values, totals and row maxima."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pcircuits.execute.triton.kernels_values import pairs_kernel, values_kernel
from pcircuits.execute.triton.kernels_weights import weights_kernel
from pcircuits.execute.triton.launch import (
    Launch,
    precision_of,
    row_blocks,
    tiles_of,
)
from pcircuits.execute.triton.sums import (
    LinearWeights,
    operand_arguments,
    weight_arguments,
)


class Record(NamedTuple):
    """One layer of sums and the gradient of its values.

    Attributes:
        operands: What `log_sum_product` was given, few enough for one kernel.
        kronecker: Whether their product holds all pairs.
        totals: (F, B, O) of `Sums`.
        tops: (T, F, B) of `Sums`.
        flow: (F, B, O) gradient of the values.
    """

    operands: tuple[Tensor, ...]
    kronecker: bool
    totals: Tensor
    tops: Tensor
    flow: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (*self.operands, self.totals, self.tops, self.flow)


def value_gradients(
    record: Record,
    weights: LinearWeights,
    *,
    target: Tensor | None = None,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of what a layer of sums read.

    Args:
        record: The layer.
        weights: Its weights.
        target: (F, B, K) tensor with any strides to write to, of an elementwise product.
        precision: See `launch.precision_of`.

    Returns:
        One (F, B, K) gradient, the same for every operand of an elementwise product; (F, B, I) and
        (F, B, J) of the two of which the sums read all pairs.
    """
    launch, gradients = operand_launch(record, weights, target=target, precision=precision)
    launch.run()
    return tuple(map(_added, gradients))


def operand_launch(
    record: Record,
    weights: LinearWeights,
    *,
    target: Tensor | None = None,
    precision: str | None = None,
) -> tuple[Launch, tuple[Tensor, ...]]:
    """The launch of `value_gradients`, and the gradients in parts (P, F, B, K) to be added up."""
    if record.kronecker:
        left, right = _empty_pairs(record, weights)
        return pairs_launch(record, weights, left, right, precision=precision), (left, right)
    if target is None:
        folds, batch, _ = record.flow.shape
        target = weights.log.new_empty(folds, batch, weights.log.shape[3])
    return values_launch(record, weights, target, precision=precision), (target[None],)


def values_launch(
    record: Record, weights: LinearWeights, target: Tensor, *, precision: str | None = None
) -> Launch:
    """The launch for an elementwise product."""
    folds, batch, units = record.flow.shape
    width, dtype = weights.log.shape[3], weights.log.dtype
    tiles = tiles_of(folds, batch, width, units, each=weights.log.shape[1] > 1, dtype=dtype)
    arguments = {
        **_arguments(record, weights),
        "gradient": target,
        "gradient_strides": target.stride(),
        "batch": batch,
        "UNITS": units,
        "WIDTH": width,
        "PRECISION": precision_of(dtype, precision),
        "BLOCK_B": tiles.rows,
        "BLOCK_O": tiles.depth,
        "BLOCK_K": tiles.columns,
    }
    programs = folds * triton.cdiv(batch, tiles.rows) * triton.cdiv(width, tiles.columns)
    return Launch(values_kernel, programs, arguments, tiles.options)


def pairs_launch(
    record: Record,
    weights: LinearWeights,
    left: Tensor,
    right: Tensor,
    *,
    precision: str | None = None,
) -> Launch:
    """The launch for all pairs; `left` and `right` hold parts of the gradients."""
    folds, batch, units = record.flow.shape
    dtype = weights.log.dtype
    sizes = record.operands[0].shape[2], record.operands[1].shape[2]
    tiles = _pair_tiles(record, weights)
    arguments = {
        **_arguments(record, weights),
        "left_gradient": left,
        "right_gradient": right,
        "folds": folds,
        "batch": batch,
        "UNITS": units,
        "LEFT": sizes[0],
        "RIGHT": sizes[1],
        "LEFT_EACH": triton.cdiv(sizes[0], len(right)),
        "PRECISION": precision_of(dtype, precision),
        "BLOCK_B": tiles.rows,
        "BLOCK_O": tiles.depth,
        "BLOCK_K": tiles.columns,
    }
    programs = folds * triton.cdiv(batch, tiles.rows) * len(left) * len(right)
    return Launch(pairs_kernel, programs, arguments, tiles.options)


def _pair_tiles(record: Record, weights: LinearWeights) -> Any:
    folds, batch, units = record.flow.shape
    each, dtype = weights.log.shape[1] > 1, weights.log.dtype
    return tiles_of(
        folds, batch, record.operands[1].shape[2], units, each=each, dtype=dtype, pairs=True
    )


# Programs that are worth splitting the first operand of all pairs for.
_PAIR_PROGRAMS = 256


def _empty_pairs(record: Record, weights: LinearWeights) -> tuple[Tensor, Tensor]:
    """Tensors for the parts of both gradients; their first axes say into how many."""
    folds, batch, _ = record.flow.shape
    left, right = record.operands[0].shape[2], record.operands[1].shape[2]
    tiles = _pair_tiles(record, weights)
    right_tiles = triton.cdiv(right, tiles.columns)
    programs = max(1, folds * triton.cdiv(batch, tiles.rows) * right_tiles)
    parts = min(left, max(1, _PAIR_PROGRAMS // programs))
    parts = triton.cdiv(left, triton.cdiv(left, parts))  # none of them empty
    empty = weights.log.new_empty
    return empty(right_tiles, folds, batch, left), empty(parts, folds, batch, right)


def _added(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _arguments(record: Record, weights: LinearWeights) -> dict[str, Any]:
    return {
        **operand_arguments(record.operands),
        **weight_arguments(weights),
        "flow": record.flow,
        "flow_strides": (0, *record.flow.stride()),
        "totals": record.totals,
        "tops": record.tops,
    }


def weight_gradient(
    records: Sequence[Record], weights: LinearWeights, *, precision: str | None = None
) -> Tensor:
    """(G, A, O, K) gradient of log-weights that some layers share.

    Layers whose tensors lie evenly spaced in the same memory, as those of a chain do, are one
    launch; each of the others is one.
    """
    total: Tensor | None = None
    for run in evenly_spaced(records):
        parts = empty_parts(run, weights)
        weights_launch(run, weights, parts, precision=precision).run()
        found = _added(parts)
        total = found if total is None else total.add_(found)
    return torch.zeros_like(weights.log) if total is None else total


def weights_launch(
    run: Sequence[Record],
    weights: LinearWeights,
    parts: Tensor,
    *,
    precision: str | None = None,
) -> Launch:
    """The launch for evenly spaced layers; `parts` (P, G, A, O, K) are to be added up."""
    first = run[0]
    folds, batch, units = first.flow.shape
    groups, examples, _, width = weights.log.shape
    dtype = weights.log.dtype
    steps = (_spacing(first, run[1]) if len(run) > 1 else None) or (0,) * len(first.tensors)
    own_folds, own_batch = folds if groups == 1 else 1, batch if examples == 1 else 1
    own_rows = len(run) * own_folds * own_batch
    tiles = row_blocks(units, width, dtype=dtype, each=examples > 1)
    blocks = triton.cdiv(triton.cdiv(own_rows, tiles.depth), len(parts))
    arguments = {
        **operand_arguments(first.operands, steps[:-3]),
        **weight_arguments(weights),
        "flow": first.flow,
        "flow_strides": (steps[-1], *first.flow.stride()),
        "totals": first.totals,
        "totals_stride": steps[-3],
        "tops": first.tops,
        "tops_stride": steps[-2],
        "gradient": parts,
        "folds": folds,
        "batch": batch,
        "groups": groups,
        "examples": examples,
        "own_folds": own_folds,
        "own_batch": own_batch,
        "own_rows": own_rows,
        "UNITS": units,
        "WIDTH": width,
        "RIGHT": first.operands[1].shape[2] if first.kronecker else 0,
        "ROWS": blocks * tiles.depth,
        "PRECISION": precision_of(dtype, precision),
        "BLOCK_R": tiles.depth,
        "BLOCK_O": tiles.rows,
        "BLOCK_K": tiles.columns,
    }
    tables = len(parts) * groups * examples
    programs = tables * triton.cdiv(units, tiles.rows) * triton.cdiv(width, tiles.columns)
    return Launch(weights_kernel, programs, arguments, tiles.options)


# Rows that a program adds up at most, in blocks; a power of two of them, so that other batch sizes
# seldom need another compilation.
_MOST_BLOCKS = 128


def empty_parts(run: Sequence[Record], weights: LinearWeights) -> Tensor:
    """Tensor for the parts (P, G, A, O, K) of a gradient: as many as keep a device busy."""
    folds, batch, units = run[0].flow.shape
    groups, examples, _, width = weights.log.shape
    rows = len(run) * (folds if groups == 1 else 1) * (batch if examples == 1 else 1)
    tiles = row_blocks(units, width, dtype=weights.log.dtype, each=examples > 1)
    programs = groups * examples
    programs *= triton.cdiv(units, tiles.rows) * triton.cdiv(width, tiles.columns)
    blocks = triton.cdiv(rows, tiles.depth)
    each = min(_MOST_BLOCKS, triton.next_power_of_2(triton.cdiv(blocks * programs, 256)), blocks)
    parts = triton.cdiv(blocks, max(1, each))
    return weights.log.new_empty(parts, *weights.log.shape)


def evenly_spaced(records: Sequence[Record]) -> list[list[Record]]:
    """Splits records where their tensors stop being evenly spaced parts of the same memory."""
    runs: list[list[Record]] = []
    for record in records:
        last = runs[-1] if runs else []
        step = _spacing(last[-1], record) if last else None
        if step is None or (len(last) > 1 and step != _spacing(last[0], last[1])):
            runs.append([record])
        else:
            last.append(record)
    return runs


def _spacing(first: Record, second: Record) -> tuple[int, ...] | None:
    """How many numbers each tensor of the second lies after the first's; None if nowhere."""
    if len(first.tensors) != len(second.tensors) or first.kronecker != second.kronecker:
        return None
    steps = []
    for one, other in zip(first.tensors, second.tensors, strict=True):
        same = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        if not same or one.shape != other.shape or one.stride() != other.stride():
            return None
        steps.append(int(other.storage_offset() - one.storage_offset()))
    return tuple(steps)
