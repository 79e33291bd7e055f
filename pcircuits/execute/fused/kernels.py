"""What surrounds the matrix products of linear-space evaluation, one pass over rows each.

A row of an arena holds the values of a fold's units for one example, divided by exp of its scale.
Row fold * batch + example belongs to that fold and example. Sums, not maxima, are taken out of
rows: a sum is compiled to vector instructions whatever the processor.
"""

# Inside kernels numbers are typed by numba, and loops are what it compiles best.
from __future__ import annotations

import math

import numpy as np

from pcircuits.jit import cached_jit

Array = np.ndarray
# Values, scales, and which rows of both are meant.
Rows = tuple[Array, Array, Array]

# Reordered sums are worth vector instructions; infinities and NaN keep their meaning.
compiled = cached_jit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@compiled
def multiply(
    inputs: Rows,
    leaf_folds: int,
    sums: Rows,
    factors: Array,
    batch: int,
    floor: float,
    products: Array,
    parts: Array,
    start: int,
    out_scales: Array,
    first: int,
) -> int:
    """Elementwise products of rows, divided by their sums.

    Args:
        inputs: (R, K) rows of inputs; (R,) their scales, float64, -inf for a row of zeros; and the
            (leaf_folds * batch,) row of each fold and example.
        leaf_folds: Number of folds of inputs.
        sums: (N, K) rows of sums, (N,) their scales, and 0 .. N - 1, so that both kinds of rows are
            read alike.
        factors: (n, F) folds of the factors, those of the inputs before those of the sums; negative
            after the last factor of a product with less than n.
        batch: Examples of a fold.
        floor: Sums below it are those of rows that underflow may have spoilt.
        products: (P, K), of which F * batch rows are filled.
        parts: (P,), filled likewise with what the rows were multiplied with; 0 where all is zero
            and NaN where the sum was below the floor.
        start: First row of both that is filled.
        out_scales: Filled with the products' scales, -inf where all is zero and NaN as `parts`.
        first: First entry of `out_scales` that is filled.

    Returns:
        Number of rows with the scale NaN.
    """
    totals = np.empty(batch, products.dtype)
    count, lost = len(factors), 0
    for f in range(factors.shape[1]):
        at, to = start + f * batch, first + f * batch
        if count == 2 and factors[1, f] >= 0:
            lost += _product(
                *fold_of(inputs, leaf_folds, sums, factors[0, f], batch),
                *fold_of(inputs, leaf_folds, sums, factors[1, f], batch),
                floor,
                products,
                parts,
                at,
                out_scales,
                to,
            )
            continue
        for n in range(count):
            if factors[n, f] < 0:
                break
            # Whole folds go to functions without a branch inside: a view of a row that is taken in
            # a branch is counted, which costs as much as the row.
            source, scales, rows = fold_of(inputs, leaf_folds, sums, factors[n, f], batch)
            if n == 0:
                _copy(source, scales, rows, products, at, totals, out_scales, to)
            else:
                _times(source, scales, rows, products, at, totals, out_scales, to)
        lost += _finish(products, parts, at, totals, floor, out_scales, to)
    return lost


@compiled
def fold_of(inputs: Rows, leaf_folds: int, sums: Rows, place: int, batch: int) -> Rows:
    """Values and scales where a fold is, and the (B,) rows of it."""
    own, first = inputs, place * batch
    if place >= leaf_folds:
        own, first = sums, first - leaf_folds * batch
    values, scales, rows = own
    return values, scales, rows[first : first + batch]


@compiled
def _product(
    left: Array,
    left_scales: Array,
    left_rows: Array,
    right: Array,
    right_scales: Array,
    right_rows: Array,
    floor: float,
    products: Array,
    parts: Array,
    at: int,
    out_scales: Array,
    to: int,
) -> int:
    """Products of given rows, divided by their sums; the number of those below the floor."""
    lost = 0
    for b in range(len(left_rows)):
        i, j = left_rows[b], right_rows[b]
        one, other, out = left[i], right[j], products[at + b]
        total = products.dtype.type(0.0)
        for k in range(len(out)):
            term = one[k] * other[k]
            out[k] = term
            total += term
        out_scales[to + b] = left_scales[i] + right_scales[j]
        number, missing = _part(total, floor, out_scales, to + b)
        part = products.dtype.type(number)
        parts[at + b] = part
        lost += missing
        for k in range(len(out)):
            out[k] *= part
    return lost


@compiled
def _copy(
    source: Array,
    scales: Array,
    rows: Array,
    products: Array,
    at: int,
    totals: Array,
    out_scales: Array,
    to: int,
) -> None:
    """Makes rows of a fold the first factors of products."""
    for b in range(len(totals)):
        out, row = products[at + b], source[rows[b]]
        out_scales[to + b] = scales[rows[b]]
        total = products.dtype.type(0.0)
        for k in range(len(out)):
            out[k] = row[k]
            total += row[k]
        totals[b] = total


@compiled
def _times(
    source: Array,
    scales: Array,
    rows: Array,
    products: Array,
    at: int,
    totals: Array,
    out_scales: Array,
    to: int,
) -> None:
    """Multiplies rows of a fold into products."""
    for b in range(len(totals)):
        out, row = products[at + b], source[rows[b]]
        out_scales[to + b] += scales[rows[b]]
        total = products.dtype.type(0.0)
        for k in range(len(out)):
            term = out[k] * row[k]
            out[k] = term
            total += term
        totals[b] = total


@compiled
def _finish(
    products: Array,
    parts: Array,
    at: int,
    totals: Array,
    floor: float,
    out_scales: Array,
    to: int,
) -> int:
    """Divides products by their sums; the number of those that are below the floor."""
    lost = 0
    for b in range(len(totals)):
        out = products[at + b]
        number, missing = _part(totals[b], floor, out_scales, to + b)
        part = products.dtype.type(number)
        parts[at + b] = part
        lost += missing
        for k in range(len(out)):
            out[k] *= part
    return lost


@compiled
def _part(total: float, floor: float, scales: Array, at: int) -> tuple[float, int]:
    """What a row with a sum is multiplied with, and whether the sum is lost; its scale is set."""
    if total >= floor and total < np.inf:
        scales[at] += math.log(total)
        return 1.0 / total, 0
    if scales[at] == -np.inf:
        return 0.0, 0
    scales[at] = np.nan
    return np.nan, 1


@compiled
def normalise(values: Array, scales: Array, rows: Array, out: Array, out_scales: Array) -> None:
    """Given rows, divided by their sums, and their scales."""
    units = values.shape[1]
    for r in range(len(rows)):
        at = rows[r]
        total = values.dtype.type(0.0)
        for k in range(units):
            total += values[at, k]
        if total > 0.0:
            out_scales[r] = scales[at] + math.log(total)
            part = values.dtype.type(1.0) / total
            for k in range(units):
                out[r, k] = values[at, k] * part
        else:
            out_scales[r] = -np.inf
            out[r, :] = 0.0


@compiled
def logarithms(values: Array, scales: Array, out: Array) -> bool:
    """(N,) logarithms of numbers that were divided by exp of their scales; whether all are > 0."""
    above = True
    for n in range(len(values)):
        value = float(values[n])
        above = above and value > 0.0
        out[n] = -np.inf if value == 0.0 else math.log(value) + scales[n]
    return above


@compiled
def divide(gradient: Array, total: Array, out: Array) -> None:
    """(N,) gradients of logarithms divided by what these are of; zero where it is zero."""
    for n in range(len(total)):
        out[n] = 0.0 if total[n] == 0.0 else gradient[n] / total[n]
