"""The way down: gradients of elementwise products are given to their factors."""

# As in `kernels`, numbers are typed by numba.
from __future__ import annotations

import math

from pcircuits.execute.fused.kernels import Array, Rows, compiled, fold_of

# What is done with the gradient of an input: it is written into the room for it; added to what is
# there; or multiplied with the product that the input is a factor of, and left in its place.
FILLS, ADDS, REPLACES = range(3)


@compiled
def share(
    back: Array,
    products: Array,
    parts: Array,
    start: int,
    factors: Array,
    places: Array,
    batch: int,
    inputs: Rows,
    leaf_folds: int,
    leaf_flows: tuple[Array, Array, int],
    sums: Rows,
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
        inputs: As in `multiply`.
        leaf_folds: As in `multiply`.
        leaf_flows: (R', K) filled with the gradients with respect to the logarithms of inputs,
            empty if nobody asks for them; (leaf_folds * batch,) the row there of each fold and
            example; and what is done with them, such as `FILLS`.
        sums: As in `multiply`; read only of sums that are multiplied with another sum.
        flows: (S, K) gradients with respect to sums as numbers.
    """
    count = len(factors)
    for f in range(factors.shape[1]):
        own, at = back[f * batch : (f + 1) * batch], start + f * batch
        for n in range(count):
            place = factors[n, f]
            if place < 0:
                break
            if place < leaf_folds:
                if len(leaf_flows[0]) > 0:
                    _to_leaf(own, products, at, *leaf_flows, place * batch)
                continue
            to = (places[n, f] - leaf_folds) * batch
            if count == 1 or (count == 2 and factors[1, f] < 0):
                _to_only(own, parts, at, flows, to)
            elif count == 2:
                other = fold_of(inputs, leaf_folds, sums, factors[1 - n, f], batch)
                _times_other(own, parts, at, other[0], other[2], flows, to)
            else:
                below = (place - leaf_folds) * batch
                _to_divided(own, products, at, sums[0], below, flows, to)


@compiled
def _to_leaf(
    back: Array, products: Array, at: int, flows: Array, rows: Array, what: int, to: int
) -> None:
    if what == REPLACES:
        for b in range(len(back)):
            own, row = back[b], products[at + b]
            for k in range(len(own)):
                row[k] *= own[k]
    elif what == ADDS:
        for b in range(len(back)):
            own, row, flow = back[b], products[at + b], flows[rows[to + b]]
            for k in range(len(own)):
                flow[k] += own[k] * row[k]
    else:
        for b in range(len(back)):
            own, row, flow = back[b], products[at + b], flows[rows[to + b]]
            for k in range(len(own)):
                flow[k] = own[k] * row[k]


@compiled
def _times_other(
    back: Array,
    parts: Array,
    at: int,
    source: Array,
    rows: Array,
    flows: Array,
    to: int,
) -> None:
    """Gives the gradients of products of two to one of them."""
    for b in range(len(back)):
        part = parts[at + b]
        if math.isnan(part):
            continue
        own, row, flow = back[b], source[rows[b]], flows[to + b]
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
