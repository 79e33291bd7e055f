# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""What the kernels of sums and of their gradients share: reading tiles, multiplying them.

Triton types what stands inside kernels, so nothing here is annotated but compile-time constants.
Bounds of loops are such constants too.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def operand_tile(pointer, strides, record, fold, rows, columns, mask, other):
    """(R, C) numbers of one operand; `strides` are those of records, folds, rows and columns."""
    at = record * strides[0] + fold * strides[1] + rows * strides[2]
    return tl.load(pointer + at[:, None] + columns[None, :] * strides[3], mask=mask, other=other)


@triton.jit
def sum_tile(operands, strides, record, fold, rows, columns, mask):
    """(R, C) sums of all operands: log-values of their elementwise product; -inf outside."""
    total = operand_tile(operands[0], strides[0], record, fold, rows, columns, mask, -float("inf"))
    for i in tl.static_range(1, len(operands)):
        total += operand_tile(operands[i], strides[i], record, fold, rows, columns, mask, 0.0)
    return total


@triton.jit
def shifted_tile(
    operands, strides, record, fold, rows, columns, mask, top, right_top, RIGHT: tl.constexpr
):
    """(R, C) log-values of a product less their rows' maxima; -inf outside.

    The product is elementwise if RIGHT is 0; else column i * RIGHT + j is of unit i of the first
    operand and unit j of the second, and each operand has maxima of its own.
    """
    if RIGHT == 0:
        x = sum_tile(operands, strides, record, fold, rows, columns, mask) - top[:, None]
    else:
        left = operand_tile(
            operands[0], strides[0], record, fold, rows, columns // RIGHT, mask, -float("inf")
        )
        right = operand_tile(
            operands[1], strides[1], record, fold, rows, columns % RIGHT, mask, 0.0
        )
        x = (left - top[:, None]) + (right - right_top[:, None])
    return x


@triton.jit
def no_products(
    dtype: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr
):
    """What `add_products` starts from: single rows are added up when all is done."""
    if ROWS == 1:
        return tl.zeros((ROWS, COLUMNS, DEPTH), dtype)
    else:
        return tl.zeros((ROWS, COLUMNS), dtype)


@triton.jit
def add_products(products, x, w, PRECISION: tl.constexpr):
    """Adds x @ w.T for x (R, K) and w (C, K)."""
    if x.shape[0] == 1:
        return products + x[:, None, :] * w[None, :, :]
    else:
        return tl.dot(x, tl.trans(w), products, input_precision=PRECISION, out_dtype=products.dtype)


@triton.jit
def all_products(products):
    """(R, C) what `add_products` has added up."""
    if len(products.shape) == 3:
        return tl.sum(products, 2)
    else:
        return products


@triton.jit
def some(condition):
    """Whether any entry of a tile is true, as a number."""
    return tl.max(condition.to(tl.int32))


@triton.jit
def table_tile(pointer, rows, columns, row_stride, column_stride, mask, other):
    """(R, C) weights."""
    return tl.load(
        pointer + rows[:, None] * row_stride + columns[None, :] * column_stride, mask, other
    )


@triton.jit
def flow_tile(flow, strides, totals, totals_at, record, fold, rows, units, mask):
    """What the gradient of sums is made of, all (R, O).

    Returns:
        Flow over totals, zero where underflow may have spoilt a total; whether it has and the sum
        is to be taken from its own terms; the flow; and what is stored of the totals.
    """
    own = operand_tile(flow, strides, record, fold, rows, units, mask, 0.0)
    total = tl.load(totals + totals_at[:, None] + units[None, :], mask=mask, other=1.0)
    sound = total > 0.0
    share = tl.where(sound, own, 0.0) / tl.where(sound, total, 1.0)
    exact = (total <= 0.0) & (total > -float("inf")) & (own != 0.0)
    return share, exact, own, total


@triton.jit
def exact_share(term, exact, log_total):
    """Share of a term in its total, both logarithms; zero where not `exact`."""
    shifted = term - tl.where(exact, log_total, 0.0)
    return tl.exp(tl.where(exact, shifted, -float("inf")))
