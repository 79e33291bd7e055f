"""What surrounds the matrix products of linear-space evaluation, one pass over rows each.

A row of an arena holds the values of a fold's units for one example, divided by exp of its scale.
Row fold * batch + example belongs to that fold and example. Sums, not maxima, are taken out of
rows: a sum is compiled to vector instructions whatever the processor.
"""

# Inside kernels numbers are typed by numba, and loops are what it compiles best.
from __future__ import annotations

import math

import numba as nb
import numpy as np

Array = np.ndarray

# Reordered sums are worth vector instructions; infinities and NaN keep their meaning.
_compiled = nb.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


@_compiled
def multiply(
    leaves: Array,
    leaf_scales: Array,
    leaf_rows: Array,
    leaf_folds: int,
    values: Array,
    scales: Array,
    value_rows: Array,
    factors: Array,
    batch: int,
    floor: float,
    products: Array,
    out_scales: Array,
    first: int,
) -> int:
    """Elementwise products of rows, divided by their sums.

    Args:
        leaves: (R, K) rows of inputs.
        leaf_scales: (R,) their scales, float64; -inf for a row of zeros.
        leaf_rows: (leaf_folds * batch,) row of each fold and example of the inputs.
        leaf_folds: Number of folds of inputs.
        values: (N, K) rows of sums.
        scales: (N,) their scales.
        value_rows: (N,) 0 .. N - 1, so that both kinds of rows are read alike.
        factors: (n, F) folds of the factors, those of the inputs before those of the sums.
        batch: Examples of a fold.
        floor: Sums below it are those of rows that underflow may have spoilt.
        products: (F * batch, K), filled.
        out_scales: Filled with the products' scales, -inf where all is zero and NaN where the sum
            was below the floor.
        first: First entry of `out_scales` that is filled.

    Returns:
        Number of rows with the scale NaN.
    """
    totals = np.empty(batch, values.dtype)
    count, lost = len(factors), 0
    for f in range(factors.shape[1]):
        start = f * batch
        for n in range(count):
            place = factors[n, f]
            # Whole folds go to functions without a branch inside: a view of a row that is taken in
            # a branch is counted, which costs as much as the row.
            if place < leaf_folds:
                at, source, scale_of, rows = place * batch, leaves, leaf_scales, leaf_rows
            else:
                at = (place - leaf_folds) * batch
                source, scale_of, rows = values, scales, value_rows
            if n == 0:
                _copy(source, scale_of, rows, at, products, start, totals, out_scales, first)
            else:
                _times(source, scale_of, rows, at, products, start, totals, out_scales, first)
        lost += _finish(products, start, totals, floor, out_scales, first)
    return lost


@_compiled
def _copy(
    source: Array,
    scales: Array,
    rows: Array,
    at: int,
    products: Array,
    start: int,
    totals: Array,
    out_scales: Array,
    first: int,
) -> None:
    """Makes rows of a fold the first factors of products."""
    for b in range(len(totals)):
        out, row = products[start + b], source[rows[at + b]]
        out_scales[first + start + b] = scales[rows[at + b]]
        total = products.dtype.type(0.0)
        for k in range(len(out)):
            out[k] = row[k]
            total += row[k]
        totals[b] = total


@_compiled
def _times(
    source: Array,
    scales: Array,
    rows: Array,
    at: int,
    products: Array,
    start: int,
    totals: Array,
    out_scales: Array,
    first: int,
) -> None:
    """Multiplies rows of a fold into products."""
    for b in range(len(totals)):
        out, row = products[start + b], source[rows[at + b]]
        out_scales[first + start + b] += scales[rows[at + b]]
        total = products.dtype.type(0.0)
        for k in range(len(out)):
            term = out[k] * row[k]
            out[k] = term
            total += term
        totals[b] = total


@_compiled
def _finish(
    products: Array, start: int, totals: Array, floor: float, out_scales: Array, first: int
) -> int:
    """Divides products by their sums; the number of those that are below the floor."""
    lost = 0
    for b in range(len(totals)):
        total, out = totals[b], products[start + b]
        factor = products.dtype.type(0.0)
        if total >= floor and total < np.inf:
            out_scales[first + start + b] += math.log(total)
            factor = products.dtype.type(1.0) / total
        elif out_scales[first + start + b] != -np.inf:
            out_scales[first + start + b] = np.nan
            lost += 1
        for k in range(len(out)):
            out[k] *= factor
    return lost


# What becomes of a gradient: nobody asks for it, it is the only one, or one of several.
SKIP, SET, ADD = 0, 1, 2


@_compiled
def share(
    gradient: Array,
    products: Array,
    values: Array,
    factors: Array,
    places: Array,
    batch: int,
    leaf_rows: Array,
    leaf_folds: int,
    leaf_mode: int,
    leaf_flows: Array,
    mode: int,
    flows: Array,
) -> None:
    """Gives the gradients of elementwise products to their factors.

    Args:
        gradient: (F * batch, K) gradient with respect to the products as numbers; overwritten.
        products: As in `multiply`.
        values: (N, K) rows of sums.
        factors: (n, F) folds of the factors.
        places: (n, F) folds of the factors in `flows`.
        batch: Examples of a fold.
        leaf_rows: As in `multiply`.
        leaf_folds: As in `multiply`.
        leaf_mode: What becomes of the gradients of inputs.
        leaf_flows: (R, K) gradients with respect to the logarithms of the inputs' rows.
        mode: What becomes of those of sums.
        flows: (S, K) gradients with respect to sums as numbers.
    """
    for f in range(factors.shape[1]):
        for b in range(batch):
            r = f * batch + b
            for k in range(values.shape[1]):
                gradient[r, k] *= products[r, k]
            for n in range(len(factors)):
                at = factors[n, f] * batch + b
                if factors[n, f] >= leaf_folds:
                    at -= leaf_folds * batch
                    place = (places[n, f] - leaf_folds) * batch + b
                    _give_divided(gradient, r, values, at, mode, flows, place)
                elif leaf_mode != SKIP:
                    _give(gradient, r, leaf_mode, leaf_flows, leaf_rows[at])


@_compiled
def _give(own: Array, r: int, mode: int, flows: Array, at: int) -> None:
    if mode == SET:
        for k in range(own.shape[1]):
            flows[at, k] = own[r, k]
    else:
        for k in range(own.shape[1]):
            flows[at, k] += own[r, k]


@_compiled
def _give_divided(
    own: Array, r: int, values: Array, at: int, mode: int, flows: Array, place: int
) -> None:
    """Divides by the values of a sum, which are all positive or, where impossible, all zero."""
    if not values[at, 0] > 0.0:
        if mode == SET:
            flows[place, :] = 0.0
    elif mode == SET:
        for k in range(own.shape[1]):
            flows[place, k] = own[r, k] / values[at, k]
    else:
        for k in range(own.shape[1]):
            flows[place, k] += own[r, k] / values[at, k]


@_compiled
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


@_compiled
def all_pairs(left: Array, right: Array, out: Array) -> None:
    """(R, I), (R, J) -> (R, I * J) outer products of rows."""
    columns = right.shape[1]
    for r in range(len(left)):
        for i in range(left.shape[1]):
            own = left[r, i]
            for j in range(columns):
                out[r, i * columns + j] = own * right[r, j]


@_compiled
def contract_pairs(
    gradient: Array, left: Array, right: Array, left_flow: Array, right_flow: Array
) -> None:
    """Gives the gradients of all pairs to both sides.

    Args:
        gradient: (R, I * J) gradient with respect to the pairs as numbers; filled with the pairs.
        left: (R, I).
        right: (R, J).
        left_flow: (R, I) filled with the gradient of the logarithms of `left`.
        right_flow: (R, J) filled with that of `right`.
    """
    columns = right.shape[1]
    for r in range(len(left)):
        right_flow[r, :] = 0.0
        for i in range(left.shape[1]):
            own = left[r, i]
            total = left.dtype.type(0.0)
            first = i * columns
            for j in range(columns):
                pair = own * right[r, j]
                flow = pair * gradient[r, first + j]
                total += flow
                right_flow[r, j] += flow
                gradient[r, first + j] = pair
            left_flow[r, i] = total


@_compiled
def give(flow: Array, rows: Array, mode: int, flows: Array) -> None:
    """Gives (R, K) gradients of logarithms to given rows of inputs."""
    for r in range(len(rows)):
        _give(flow, r, mode, flows, rows[r])


@_compiled
def give_divided(
    flow: Array, values: Array, first: int, mode: int, flows: Array, place: int
) -> None:
    """Gives (R, K) gradients of logarithms to the rows of a sum, from `first` and `place` on."""
    for r in range(len(flow)):
        _give_divided(flow, r, values, first + r, mode, flows, place + r)
