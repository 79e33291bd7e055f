# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Gradients of what dense sums read: the exponentials are formed anew, nothing else is stored."""

from __future__ import annotations

import triton
import triton.language as tl

from pcircuits.execute.triton.kernels import (
    add_products,
    all_products,
    exact_share,
    flow_tile,
    no_products,
    operand_tile,
    shifted_tile,
    some,
    table_tile,
)


@triton.jit
def values_kernel(
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
    tops,
    gradient,
    gradient_strides,
    batch,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(F, B, K) gradient of an elementwise product: (flow / totals) @ w, times exp(x - top).

    One program for each fold, tile of examples and tile of columns.
    """
    column_tiles: tl.constexpr = (WIDTH + BLOCK_K - 1) // BLOCK_K
    row_tiles = tl.cdiv(batch, BLOCK_B)
    program = tl.program_id(0)
    columns = (program % column_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    first_row = (program // column_tiles % row_tiles).to(tl.int64) * BLOCK_B
    fold = (program // (column_tiles * row_tiles)).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_B)
    inside, known = rows < batch, columns < WIDTH
    linear += fold * linear_strides[0] + first_row * linear_strides[1]

    top = tl.load(tops + fold * batch + rows, mask=inside, other=0.0)
    products = no_products(top.dtype, BLOCK_B, BLOCK_K, BLOCK_O)
    lost = tl.zeros((BLOCK_B, BLOCK_O), tl.int1)
    for start in range(0, UNITS, BLOCK_O):
        units = start + tl.arange(0, BLOCK_O)
        mask = inside[:, None] & (units < UNITS)[None, :]
        totals_at = (fold * batch + rows) * UNITS
        u, exact, _, _ = flow_tile(
            flow, flow_strides, totals, totals_at, 0, fold, rows, units, mask
        )
        table_mask = known[:, None] & (units < UNITS)[None, :]
        w = table_tile(
            linear, columns, units, linear_strides[3], linear_strides[2], table_mask, 0.0
        )
        products = add_products(products, u, w, PRECISION)
        lost = lost | exact

    written = inside[:, None] & known[None, :]
    x = shifted_tile(operands, strides, 0, fold, rows, columns, written, top, top, 0)
    found = all_products(products) * tl.exp(x)
    if some(lost) > 0:
        log += fold * log_strides[0] + first_row * log_strides[1]
        shift += fold * shift_strides[0] + first_row * shift_strides[1]
        for unit in range(UNITS):
            one = unit + tl.arange(0, 1)
            totals_at = (fold * batch + rows) * UNITS
            _, exact, own, log_total = flow_tile(
                flow, flow_strides, totals, totals_at, 0, fold, rows, one, inside[:, None]
            )
            at = log + unit * log_strides[2] + columns * log_strides[3]
            w = tl.load(at, mask=known, other=-float("inf"))
            w -= tl.load(shift + unit * shift_strides[2])
            found += own * exact_share(x + w[None, :], exact, log_total)
    at = fold * gradient_strides[0] + rows * gradient_strides[1]
    at = at[:, None] + columns[None, :] * gradient_strides[2]
    tl.store(gradient + at, found, mask=written)


@triton.jit
def pairs_kernel(
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
    tops,
    left_gradient,
    right_gradient,
    folds,
    batch,
    UNITS: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    LEFT_EACH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of both operands of all pairs: two contractions of what is never stored.

    One program for each fold, tile of examples, `LEFT_EACH` units of the first operand and tile of
    units of the second. Parts of the gradient of the first, (tiles of the second, F, B, LEFT), and
    of the second, (parts of the first, F, B, RIGHT), are to be added up.
    """
    right_tiles: tl.constexpr = (RIGHT + BLOCK_K - 1) // BLOCK_K
    left_parts: tl.constexpr = (LEFT + LEFT_EACH - 1) // LEFT_EACH
    row_tiles = tl.cdiv(batch, BLOCK_B)
    program = tl.program_id(0)
    right_tile = program % right_tiles
    left_part = program // right_tiles % left_parts
    program = program // (right_tiles * left_parts)
    first_row = (program % row_tiles).to(tl.int64) * BLOCK_B
    fold = (program // row_tiles).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_B)
    columns = right_tile * BLOCK_K + tl.arange(0, BLOCK_K)
    inside, known = rows < batch, columns < RIGHT
    linear += fold * linear_strides[0] + first_row * linear_strides[1]
    log += fold * log_strides[0] + first_row * log_strides[1]
    shift += fold * shift_strides[0] + first_row * shift_strides[1]

    top = tl.load(tops + fold * batch + rows, mask=inside, other=0.0)
    right_top = tl.load(tops + (folds + fold) * batch + rows, mask=inside, other=0.0)
    written = inside[:, None] & known[None, :]
    right = operand_tile(operands[1], strides[1], 0, fold, rows, columns, written, -float("inf"))
    right -= right_top[:, None]
    e = tl.exp(right)
    totals_at = (fold * batch + rows) * UNITS
    lost = tl.zeros((BLOCK_B, BLOCK_O), tl.int1)
    for start in range(0, UNITS, BLOCK_O):
        units = start + tl.arange(0, BLOCK_O)
        mask = inside[:, None] & (units < UNITS)[None, :]
        _, exact, _, _ = flow_tile(
            flow, flow_strides, totals, totals_at, 0, fold, rows, units, mask
        )
        lost = lost | exact
    repair = some(lost)

    total = tl.zeros((BLOCK_B, BLOCK_K), top.dtype)
    for step in range(LEFT_EACH):
        i = left_part * LEFT_EACH + step
        valid = inside & (i < LEFT)
        own = operands[0] + fold * strides[0][1] + rows * strides[0][2] + i * strides[0][3]
        left = tl.load(own, mask=valid, other=-float("inf")) - top
        products = no_products(top.dtype, BLOCK_B, BLOCK_K, BLOCK_O)
        for start in range(0, UNITS, BLOCK_O):
            units = start + tl.arange(0, BLOCK_O)
            mask = inside[:, None] & (units < UNITS)[None, :]
            u, _, _, _ = flow_tile(
                flow, flow_strides, totals, totals_at, 0, fold, rows, units, mask
            )
            table_mask = known[:, None] & ((units < UNITS) & (i < LEFT))[None, :]
            w = table_tile(
                linear,
                i * RIGHT + columns,
                units,
                linear_strides[3],
                linear_strides[2],
                table_mask,
                0.0,
            )
            products = add_products(products, u, w, PRECISION)
        share = all_products(products) * (tl.exp(left)[:, None] * e)
        if repair > 0:
            share += _exact_shares(
                log, shift, log_strides, shift_strides, flow, flow_strides, totals, totals_at,
                fold, rows, inside, i * RIGHT + columns, known & (i < LEFT),
                left[:, None] + right, UNITS,
            )  # fmt: skip
        total += share
        at = ((right_tile * folds + fold) * batch + rows) * LEFT + i
        tl.store(left_gradient + at, tl.sum(share, 1), mask=valid)
    at = ((left_part * folds + fold) * batch + rows) * RIGHT
    tl.store(right_gradient + at[:, None] + columns[None, :], total, mask=written)


@triton.jit
def _exact_shares(
    log, shift, log_strides, shift_strides, flow, flow_strides, totals, totals_at,
    fold, rows, inside, columns, known, x, UNITS: tl.constexpr,
):  # fmt: skip
    """(B, K) gradients of sums that underflow may have spoilt, from their own terms x."""
    found = tl.zeros_like(x)
    for unit in range(UNITS):
        one = unit + tl.arange(0, 1)
        _, exact, own, log_total = flow_tile(
            flow, flow_strides, totals, totals_at, 0, fold, rows, one, inside[:, None]
        )
        at = log + unit * log_strides[2] + columns * log_strides[3]
        w = tl.load(at, mask=known, other=-float("inf")) - tl.load(shift + unit * shift_strides[2])
        found += own * exact_share(x + w[None, :], exact, log_total)
    return found
