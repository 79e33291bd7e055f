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
compiled = nb.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


@compiled
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
    parts: Array,
    start: int,
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
        products: (P, K), of which F * batch rows are filled.
        parts: (P,), filled likewise with what the rows were multiplied with; 0 where all is zero
            and NaN where the sum was below the floor.
        start: First row of both that is filled.
        out_scales: Filled with the products' scales, -inf where all is zero and NaN as `parts`.
        first: First entry of `out_scales` that is filled.

    Returns:
        Number of rows with the scale NaN.
    """
    totals = np.empty(batch, values.dtype)
    count, lost = len(factors), 0
    for f in range(factors.shape[1]):
        at, to = start + f * batch, first + f * batch
        if count == 2:
            lost += _multiply_two(
                leaves,
                leaf_scales,
                leaf_rows,
                leaf_folds,
                values,
                scales,
                value_rows,
                factors[:, f],
                batch,
                floor,
                products,
                parts,
                at,
                out_scales,
                to,
            )
            continue
        for n in range(count):
            place = factors[n, f]
            # Whole folds go to functions without a branch inside: a view of a row that is taken in
            # a branch is counted, which costs as much as the row.
            if place < leaf_folds:
                below, source, scale_of, rows = place * batch, leaves, leaf_scales, leaf_rows
            else:
                below = (place - leaf_folds) * batch
                source, scale_of, rows = values, scales, value_rows
            if n == 0:
                _copy(source, scale_of, rows, below, products, at, totals, out_scales, to)
            else:
                _times(source, scale_of, rows, below, products, at, totals, out_scales, to)
        lost += _finish(products, parts, at, totals, floor, out_scales, to)
    return lost


@compiled
def _multiply_two(
    leaves: Array,
    leaf_scales: Array,
    leaf_rows: Array,
    leaf_folds: int,
    values: Array,
    scales: Array,
    value_rows: Array,
    places: Array,
    batch: int,
    floor: float,
    products: Array,
    parts: Array,
    at: int,
    out_scales: Array,
    to: int,
) -> int:
    """`multiply` for a fold of two factors, whose rows are read and written while they are near."""
    first, second = places[0] * batch, places[1] * batch
    left, left_scales, left_rows = leaves, leaf_scales, leaf_rows
    right, right_scales, right_rows = leaves, leaf_scales, leaf_rows
    if places[0] >= leaf_folds:
        left, left_scales, left_rows = values, scales, value_rows
        first -= leaf_folds * batch
    if places[1] >= leaf_folds:
        right, right_scales, right_rows = values, scales, value_rows
        second -= leaf_folds * batch
    return _product(
        left,
        left_scales,
        left_rows[first : first + batch],
        right,
        right_scales,
        right_rows[second : second + batch],
        floor,
        products,
        parts,
        at,
        out_scales,
        to,
    )


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
    below: int,
    products: Array,
    at: int,
    totals: Array,
    out_scales: Array,
    to: int,
) -> None:
    """Makes rows of a fold the first factors of products."""
    for b in range(len(totals)):
        out, row = products[at + b], source[rows[below + b]]
        out_scales[to + b] = scales[rows[below + b]]
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
    below: int,
    products: Array,
    at: int,
    totals: Array,
    out_scales: Array,
    to: int,
) -> None:
    """Multiplies rows of a fold into products."""
    for b in range(len(totals)):
        out, row = products[at + b], source[rows[below + b]]
        out_scales[to + b] += scales[rows[below + b]]
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


# What becomes of a gradient: nobody asks for it, it is the only one, or one of several.
SKIP, SET, ADD = 0, 1, 2


@compiled
def share(
    back: Array,
    products: Array,
    parts: Array,
    start: int,
    factors: Array,
    places: Array,
    batch: int,
    leaves: Array,
    leaf_rows: Array,
    leaf_folds: int,
    leaf_mode: int,
    leaf_flows: Array,
    flow_rows: Array,
    values: Array,
    value_rows: Array,
    flows: Array,
) -> None:
    """Gives the gradients of elementwise products to their factors.

    Of at most two factors each receives the gradient times the other; rows with the part NaN give
    nothing to sums then. Of more, what they receive is divided by their own values.

    Args:
        back: (F * batch, K) gradient with respect to the products as numbers.
        products: As in `multiply`.
        parts: As in `multiply`.
        start: As in `multiply`.
        factors: As in `multiply`.
        places: (n, F) folds of the factors in `flows`.
        batch: As in `multiply`.
        leaves: As in `multiply`.
        leaf_rows: As in `multiply`.
        leaf_folds: As in `multiply`.
        leaf_mode: What becomes of the gradients of inputs.
        leaf_flows: (R', K) gradients with respect to the logarithms of the inputs.
        flow_rows: (leaf_folds * batch,) row of each fold and example in `leaf_flows`.
        values: As in `multiply`; read only of sums that are multiplied with another sum.
        value_rows: As in `multiply`.
        flows: (S, K) gradients with respect to sums as numbers.
    """
    count = len(factors)
    for f in range(factors.shape[1]):
        own, at = back[f * batch : (f + 1) * batch], start + f * batch
        for n in range(count):
            place = factors[n, f]
            if place < leaf_folds:
                if leaf_mode != SKIP:
                    _to_leaf(own, products, at, leaf_mode, leaf_flows, flow_rows, place * batch)
                continue
            to = (places[n, f] - leaf_folds) * batch
            if count == 1:
                _to_only(own, parts, at, flows, to)
            elif count > 2:
                below = (place - leaf_folds) * batch
                _to_divided(own, products, at, values, below, flows, to)
            elif factors[1 - n, f] < leaf_folds:
                other = factors[1 - n, f] * batch
                _times_other(own, parts, at, leaves, leaf_rows, other, flows, to)
            else:
                other = (factors[1 - n, f] - leaf_folds) * batch
                _times_other(own, parts, at, values, value_rows, other, flows, to)


@compiled
def _to_leaf(
    back: Array,
    products: Array,
    at: int,
    mode: int,
    flows: Array,
    rows: Array,
    to: int,
) -> None:
    if mode == SET:
        for b in range(len(back)):
            own, row, flow = back[b], products[at + b], flows[rows[to + b]]
            for k in range(len(own)):
                flow[k] = own[k] * row[k]
    else:
        for b in range(len(back)):
            own, row, flow = back[b], products[at + b], flows[rows[to + b]]
            for k in range(len(own)):
                flow[k] += own[k] * row[k]


@compiled
def _times_other(
    back: Array,
    parts: Array,
    at: int,
    source: Array,
    rows: Array,
    other: int,
    flows: Array,
    to: int,
) -> None:
    """Gives the gradients of products of two to one of them."""
    for b in range(len(back)):
        part = parts[at + b]
        if math.isnan(part):
            continue
        own, row, flow = back[b], source[rows[other + b]], flows[to + b]
        for k in range(len(own)):
            flow[k] = own[k] * row[k] * part


@compiled
def _to_only(back: Array, parts: Array, at: int, flows: Array, to: int) -> None:
    for b in range(len(back)):
        part = parts[at + b]
        if math.isnan(part):
            continue
        own, flow = back[b], flows[to + b]
        for k in range(len(own)):
            flow[k] = own[k] * part


@compiled
def _to_divided(
    back: Array, products: Array, at: int, values: Array, below: int, flows: Array, to: int
) -> None:
    """Divides by the values of a sum, which are all positive or, where impossible, all zero."""
    for b in range(len(back)):
        own, row, value, flow = back[b], products[at + b], values[below + b], flows[to + b]
        if value[0] > 0.0:
            for k in range(len(value)):
                flow[k] = own[k] * row[k] / value[k]
        else:
            flow[:] = 0.0


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
def logarithms(values: Array, scales: Array, out: Array) -> None:
    """(N,) logarithms of numbers that were divided by exp of their scales."""
    for n in range(len(values)):
        value = float(values[n])
        out[n] = -np.inf if value == 0.0 else math.log(value) + scales[n]


@compiled
def divide(gradient: Array, total: Array, out: Array) -> None:
    """(N,) gradients of logarithms divided by what these are of; as they are where it is zero."""
    for n in range(len(total)):
        out[n] = gradient[n] if total[n] == 0.0 else gradient[n] / total[n]


@compiled
def transpose(source: Array, out: Array) -> None:
    """(G, R, C) -> (G, C, R), by blocks of rows that stay in the cache."""
    groups, rows, columns = source.shape
    whole = rows - rows % 16
    for g in range(groups):
        for first in range(0, whole, 16):
            for c in range(columns):
                # So many that each is a vector; a bound that is not known here takes twice as long.
                for r in range(16):
                    out[g, c, first + r] = source[g, first + r, c]
        for c in range(columns):
            for r in range(whole, rows):
                out[g, c, r] = source[g, r, c]
