# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""The kernel of dense sums: the product below them, the sum, and its exact repair."""

from __future__ import annotations

import triton
import triton.language as tl

from pcircuits.execute.triton.kernels import (
    add_products,
    all_products,
    no_products,
    operand_tile,
    shifted_tile,
    some,
    sum_tile,
    table_tile,
)


@triton.jit
def sum_kernel(
    operands,
    strides,
    linear,
    log,
    shift,
    linear_strides,
    log_strides,
    shift_strides,
    out,
    totals,
    tops,
    folds,
    batch,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
    RIGHT: tl.constexpr,
    FLOOR: tl.constexpr,
    LOWEST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program for each fold, tile of examples and tile of units; see `log_sum_product`."""
    unit_tiles: tl.constexpr = (UNITS + BLOCK_O - 1) // BLOCK_O
    row_tiles = tl.cdiv(batch, BLOCK_B)
    program = tl.program_id(0)
    units = (program % unit_tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    first_row = (program // unit_tiles % row_tiles).to(tl.int64) * BLOCK_B
    fold = (program // (unit_tiles * row_tiles)).to(tl.int64)
    rows = first_row + tl.arange(0, BLOCK_B)
    inside, known = rows < batch, units < UNITS

    # Where every example has weights of its own there is one row.
    linear += fold * linear_strides[0] + first_row * linear_strides[1]
    log += fold * log_strides[0] + first_row * log_strides[1]
    shift += fold * shift_strides[0] + first_row * shift_strides[1]
    row_shift = tl.load(shift + units * shift_strides[2], mask=known, other=0.0)

    if RIGHT == 0:
        top, total = _elementwise_totals(
            operands, strides, linear, linear_strides, fold, rows, units, inside, known,
            row_shift.dtype, WIDTH, LOWEST, PRECISION, BLOCK_B, BLOCK_O, BLOCK_K,
        )  # fmt: skip
        right_top = top
        whole_top = top
    else:
        top, right_top, total = _pairwise_totals(
            operands, strides, linear, linear_strides, fold, rows, units, inside, known,
            row_shift.dtype, WIDTH, RIGHT, LOWEST, PRECISION, BLOCK_B, BLOCK_O, BLOCK_K,
        )  # fmt: skip
        whole_top = top + right_top

    low = (total <= FLOOR) & inside[:, None] & known[None, :]
    log_total = tl.where(low, -float("inf"), tl.log(tl.where(total <= FLOOR, 1.0, total)))
    if some(low) > 0:
        possible = _support(
            operands, strides, log, log_strides, fold, rows, units, inside, known,
            top, right_top, row_shift.dtype, WIDTH, RIGHT, PRECISION, BLOCK_B, BLOCK_O, BLOCK_K,
        )  # fmt: skip
        if some(low & possible) > 0:
            exact = _exact(
                operands, strides, log, log_strides, fold, rows, units, inside, known,
                top, right_top, row_shift, WIDTH, RIGHT, LOWEST, BLOCK_B, BLOCK_O,
            )  # fmt: skip
            log_total = tl.where(low, exact, log_total)

    at = (fold * batch + rows)[:, None] * UNITS + units[None, :]
    written = inside[:, None] & known[None, :]
    tl.store(out + at, log_total + whole_top[:, None] + row_shift[None, :], mask=written)
    tl.store(totals + at, tl.where(low, log_total, total), mask=written)
    if program % unit_tiles == 0:
        tl.store(tops + fold * batch + rows, top, mask=inside)
        if RIGHT != 0:
            tl.store(tops + (folds + fold) * batch + rows, right_top, mask=inside)


@triton.jit
def _elementwise_totals(
    operands, strides, linear, linear_strides, fold, rows, units, inside, known,
    dtype: tl.constexpr, WIDTH: tl.constexpr, LOWEST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(B,) row maxima and (B, O) totals of sums over an elementwise product."""
    largest = tl.full((BLOCK_B, BLOCK_K), LOWEST, dtype)
    for start in range(0, WIDTH, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (columns < WIDTH)[None, :]
        x = sum_tile(operands, strides, 0, fold, rows, columns, mask)
        largest = tl.maximum(largest, x)
    top = tl.max(largest, 1)
    products = no_products(dtype, BLOCK_B, BLOCK_O, BLOCK_K)
    for start in range(0, WIDTH, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (columns < WIDTH)[None, :]
        x = sum_tile(operands, strides, 0, fold, rows, columns, mask)
        table_mask = known[:, None] & (columns < WIDTH)[None, :]
        w = table_tile(
            linear, units, columns, linear_strides[2], linear_strides[3], table_mask, 0.0
        )
        products = add_products(products, tl.exp(x - top[:, None]), w, PRECISION)
    return top, all_products(products)


@triton.jit
def _pairwise_totals(
    operands, strides, linear, linear_strides, fold, rows, units, inside, known,
    dtype: tl.constexpr, WIDTH: tl.constexpr, RIGHT: tl.constexpr, LOWEST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(B,) row maxima of both operands and (B, O) totals of sums over all pairs.

    Each unit is exponentiated once: tiles of the second operand stay in registers while all units
    of the first go by, each a factor of one small product.
    """
    left: tl.constexpr = WIDTH // RIGHT
    top = _maximum(
        operands[0], strides[0], fold, rows, inside, dtype, left, LOWEST, BLOCK_B, BLOCK_K
    )
    right_top = _maximum(
        operands[1], strides[1], fold, rows, inside, dtype, RIGHT, LOWEST, BLOCK_B, BLOCK_K
    )
    total = tl.zeros((BLOCK_B, BLOCK_O), dtype)
    for start in range(0, RIGHT, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (columns < RIGHT)[None, :]
        x = operand_tile(operands[1], strides[1], 0, fold, rows, columns, mask, -float("inf"))
        e = tl.exp(x - right_top[:, None])
        known_columns = known[:, None] & (columns < RIGHT)[None, :]
        for i in range(left):
            own = operands[0] + fold * strides[0][1] + rows * strides[0][2] + i * strides[0][3]
            factor = tl.exp(tl.load(own, mask=inside, other=-float("inf")) - top)
            w = table_tile(
                linear,
                units,
                i * RIGHT + columns,
                linear_strides[2],
                linear_strides[3],
                known_columns,
                0.0,
            )
            none = no_products(dtype, BLOCK_B, BLOCK_O, BLOCK_K)
            total += factor[:, None] * all_products(add_products(none, e, w, PRECISION))
    return top, right_top, total


@triton.jit
def _maximum(
    operand, strides, fold, rows, inside, dtype: tl.constexpr, SIZE: tl.constexpr,
    LOWEST: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(B,) finite row maxima of one operand."""
    largest = tl.full((BLOCK_B, BLOCK_K), LOWEST, dtype)
    for start in range(0, SIZE, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (columns < SIZE)[None, :]
        x = operand_tile(operand, strides, 0, fold, rows, columns, mask, -float("inf"))
        largest = tl.maximum(largest, x)
    return tl.max(largest, 1)


@triton.jit
def _support(
    operands, strides, log, log_strides, fold, rows, units, inside, known, top, right_top,
    dtype: tl.constexpr, WIDTH: tl.constexpr, RIGHT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(B, O) whether a sum has a positive term: where not, it is -inf and needs no exact path."""
    count = no_products(dtype, BLOCK_B, BLOCK_O, BLOCK_K)
    for start in range(0, WIDTH, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (columns < WIDTH)[None, :]
        x = shifted_tile(operands, strides, 0, fold, rows, columns, mask, top, right_top, RIGHT)
        table_mask = known[:, None] & (columns < WIDTH)[None, :]
        w = table_tile(
            log, units, columns, log_strides[2], log_strides[3], table_mask, -float("inf")
        )
        positive = (w > -float("inf")).to(dtype)
        count = add_products(count, (x > -float("inf")).to(dtype), positive, PRECISION)
    return all_products(count) > 0.5


@triton.jit
def _exact(
    operands, strides, log, log_strides, fold, rows, units, inside, known, top, right_top,
    row_shift, WIDTH: tl.constexpr, RIGHT: tl.constexpr, LOWEST: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """(B, O) logarithms of the totals, term by term: each takes its own largest term out."""
    largest = tl.full((BLOCK_B, BLOCK_O), LOWEST, row_shift.dtype)
    total = tl.zeros((BLOCK_B, BLOCK_O), row_shift.dtype)
    for column in range(WIDTH):
        columns = column + tl.arange(0, 1)
        x = shifted_tile(
            operands, strides, 0, fold, rows, columns, inside[:, None], top, right_top, RIGHT
        )
        own = log + units * log_strides[2] + column * log_strides[3]
        w = tl.load(own, mask=known, other=-float("inf")) - row_shift
        term = x + w[None, :]
        higher = tl.maximum(largest, term)
        total = total * tl.exp(largest - higher) + tl.exp(term - higher)
        largest = higher
    dead = total == 0.0
    return tl.where(dead, -float("inf"), tl.log(tl.where(dead, 1.0, total)) + largest)
