# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Gradient of log-weights of dense sums, over all layers that share them at once."""

from __future__ import annotations

import triton
import triton.language as tl

from pcircuits.execute.triton.kernels import exact_share, flow_tile, shifted_tile, some, table_tile


@triton.jit
def weights_kernel(
    operands,
    strides,
    linear,
    log,
    shift,
    linear_strides,
    log_strides,
    shift_strides,
    flow,
    flow_strides,
    totals,
    totals_stride,
    tops,
    tops_stride,
    gradient,
    folds,
    batch,
    groups,
    examples,
    own_folds,
    own_batch,
    own_rows,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
    RIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(parts, G, A, O, K) gradients, parts to be added up: sums of u e over the rows that share.

    A row is a record (one layer), a fold and an example; `own_rows` of them, `own_folds` and
    `own_batch` of a record, share a table of weights. One program for each part of `ROWS` rows,
    table, tile of units and tile of columns.
    """
    column_tiles: tl.constexpr = (WIDTH + BLOCK_K - 1) // BLOCK_K
    unit_tiles: tl.constexpr = (UNITS + BLOCK_O - 1) // BLOCK_O
    program = tl.program_id(0)
    columns = (program % column_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    units = (program // column_tiles % unit_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    table = (program // (column_tiles * unit_tiles)).to(tl.int64)
    example = table % examples
    group = table // examples % groups
    first = (table // (examples * groups)) * ROWS
    known_units, known = units < UNITS, columns < WIDTH
    written = known_units[:, None] & known[None, :]

    linear += group * linear_strides[0] + example * linear_strides[1]
    log += group * log_strides[0] + example * log_strides[1]
    shift += group * shift_strides[0] + example * shift_strides[1]
    w = table_tile(linear, units, columns, linear_strides[2], linear_strides[3], written, 0.0)

    products = tl.zeros((BLOCK_O, BLOCK_K), w.dtype)
    lost = tl.zeros((BLOCK_R, BLOCK_O), tl.int1)
    for start in range(0, ROWS, BLOCK_R):
        u, exact, _, _, x = _rows(
            operands, strides, flow, flow_strides, totals, totals_stride, tops, tops_stride,
            first + start + tl.arange(0, BLOCK_R), own_rows, own_folds, own_batch,
            folds, batch, group, example, units, known_units, columns, known, UNITS, RIGHT,
        )  # fmt: skip
        if BLOCK_R == 1:
            products += tl.trans(u) * tl.exp(x)
        else:
            products = tl.dot(
                tl.trans(u), tl.exp(x), products, input_precision=PRECISION, out_dtype=w.dtype
            )
        lost = lost | exact

    found = products * w
    if some(lost) > 0:
        w = table_tile(log, units, columns, log_strides[2], log_strides[3], written, -float("inf"))
        own_shift = tl.load(shift + units * shift_strides[2], mask=known_units, other=0.0)
        w -= own_shift[:, None]
        for row in range(ROWS):
            _, exact, own, log_total, x = _rows(
                operands, strides, flow, flow_strides, totals, totals_stride, tops, tops_stride,
                first + row + tl.arange(0, 1), own_rows, own_folds, own_batch,
                folds, batch, group, example, units, known_units, columns, known, UNITS, RIGHT,
            )  # fmt: skip
            found += tl.trans(own) * exact_share(x + w, tl.trans(exact), tl.trans(log_total))
    at = (table * UNITS + units)[:, None] * WIDTH + columns[None, :]
    tl.store(gradient + at, found, mask=written)


@triton.jit
def _rows(
    operands, strides, flow, flow_strides, totals, totals_stride, tops, tops_stride,
    index, own_rows, own_folds, own_batch, folds, batch, group, example,
    units, known_units, columns, known, UNITS: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """What `flow_tile` gives for rows by their index, and their shifted log-values (R, K)."""
    valid = index < own_rows
    rows = index % own_batch + example
    fold = index // own_batch % own_folds + group
    record = index // (own_batch * own_folds)
    at = fold * batch + rows
    u, exact, own, total = flow_tile(
        flow, flow_strides, totals, record * totals_stride + at * UNITS, record, fold, rows, units,
        valid[:, None] & known_units[None, :],
    )  # fmt: skip
    top = tl.load(tops + record * tops_stride + at, mask=valid, other=0.0)
    right_top = top
    if RIGHT != 0:
        right_at = record * tops_stride + folds * batch + at
        right_top = tl.load(tops + right_at, mask=valid, other=0.0)
    x = shifted_tile(
        operands, strides, record, fold, rows, columns, valid[:, None] & known[None, :],
        top, right_top, RIGHT,
    )  # fmt: skip
    return u, exact, own, total, x
