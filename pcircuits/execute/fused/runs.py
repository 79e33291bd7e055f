"""Several sums in one compiled call: what is done to their rows, and their matrix products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcircuits.execute.fused.blas import SIZES, multiply_matrices
from pcircuits.execute.fused.kernels import Array, compiled, multiply, share


class Down(NamedTuple):
    """The last arguments of `kernels.share`, for the arenas of one number of units."""

    leaves: np.ndarray
    leaf_rows: np.ndarray
    leaf_folds: int
    leaf_mode: int
    leaf_flows: np.ndarray
    flow_rows: np.ndarray
    values: np.ndarray
    value_rows: np.ndarray
    flows: np.ndarray


@compiled
def factors_of(factors: Array, shapes: Array, starts: Array, s: int) -> Array:
    """(n, F) factors of a sum; see `Run`."""
    count, folds = shapes[s]
    return factors[starts[s] : starts[s] + count * folds].reshape(count, folds)


@compiled
def ascend(
    routine: int,
    leaves: Array,
    leaf_scales: Array,
    leaf_rows: Array,
    leaf_folds: int,
    values: Array,
    scales: Array,
    value_rows: Array,
    factors: Array,
    shapes: Array,
    factor_starts: Array,
    batch: int,
    floors: Array,
    products: Array,
    parts: Array,
    starts: Array,
    outs: Array,
    num_units: Array,
    out_scales: Array,
    firsts: Array,
    tables: Array,
    strides: Array,
    begin: int,
    made: bool,
) -> int:
    """Computes sums over elementwise products one after the other.

    Args:
        routine: Address of the matrix product.
        leaves: The first seven arguments are those of `kernels.multiply`.
        leaf_scales: See there.
        leaf_rows: See there.
        leaf_folds: See there.
        values: See there.
        scales: See there.
        value_rows: See there.
        factors: The three arguments from here are those of a run, as `Run.factors_of` takes them.
        shapes: See there.
        factor_starts: See there.
        batch: Examples of a fold.
        floors: (S,) see `kernels.multiply`.
        products: (P, K) rows of products.
        parts: (P,) see `kernels.multiply`.
        starts: (S,) first rows of each sum's products.
        outs: (S,) addresses of the (F * batch, O) rows of each sum.
        num_units: (S,) their units O.
        out_scales: (N',) scales of rows.
        firsts: (S,) first of those of each sum.
        tables: (S,) addresses of their weights: (K, O) for all folds, or (F, O, K).
        strides: (S,) bytes from one fold's table to the next; 0 for one table.
        begin: The sum to begin with.
        made: Whether its products are there already.

    Returns:
        Number of sums S; or a sum that was not computed, since some of its products have the scale
        NaN.
    """
    units, row = products.shape[1], products.shape[1] * products.itemsize
    scalars, sizes = np.array([1.0, 0.0], products.dtype), np.empty(SIZES, np.int64)
    for s in range(begin, len(shapes)):
        folds = shapes[s, 1]
        if not (made and s == begin):
            own = factors_of(factors, shapes, factor_starts, s)
            lost = multiply(
                leaves,
                leaf_scales,
                leaf_rows,
                leaf_folds,
                values,
                scales,
                value_rows,
                own,
                batch,
                floors[s],
                products,
                parts,
                starts[s],
                out_scales,
                firsts[s],
            )
            if lost > 0:
                return s
        source, stride = products.ctypes.data + starts[s] * row, strides[s]
        out_row = num_units[s] * products.itemsize
        count = 1 if stride == 0 else folds
        rows = folds * batch // count
        for f in range(count):
            multiply_matrices(
                routine,
                source + f * rows * row,
                False,
                tables[s] + f * stride,
                stride != 0,
                outs[s] + f * rows * out_row,
                rows,
                units,
                num_units[s],
                scalars,
                sizes,
            )
    return len(shapes)


@compiled
def descend(
    routine: int,
    tables: Array,
    strides: Array,
    gradients: Array,
    adds: Array,
    flows_of: Array,
    num_units: Array,
    back: Array,
    products: Array,
    parts: Array,
    starts: Array,
    factors: Array,
    places: Array,
    shapes: Array,
    factor_starts: Array,
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
    stops: Array,
    end: int,
) -> int:
    """Gives the gradients of sums to what they read, the last of them first.

    Args:
        routine: Address of the matrix product.
        tables: (S,) addresses of their weights, (O, K) for all folds, or (F, O, K).
        strides: (S,) bytes from one fold's table to the next; 0 for one table.
        gradients: (S,) addresses of the gradients of these, in linear space; 0 if not wanted.
        adds: (S,) whether a former gradient is there and added to.
        flows_of: (S,) addresses of the (F * B, O) gradients with respect to the sums as numbers.
        num_units: (S,) units O of each sum.
        back: (F * B, K) overwritten: gradient with respect to the products of a sum.
        products: The arguments up to `flows` are those of `kernels.share`, but for three.
        parts: See there.
        starts: (S,) first rows of each sum's products.
        factors: Factors of each sum, as `Run.factors_of` takes them.
        places: Folds of these in `flows`, likewise.
        shapes: See `Run`.
        factor_starts: See `Run`.
        batch: See there.
        leaves: See there.
        leaf_rows: See there.
        leaf_folds: See there.
        leaf_mode: See there.
        leaf_flows: See there.
        flow_rows: See there.
        values: See there.
        value_rows: See there.
        flows: See there.
        stops: (S,) whether some rows of a sum's products are left for the caller to give.
        end: Number of sums that are still to be done.

    Returns:
        -1; or the sum at which the caller is to do so, with its gradient in `back`.
    """
    units, row = products.shape[1], products.shape[1] * products.itemsize
    scalars, sizes = np.array([1.0, 0.0], products.dtype), np.empty(SIZES, np.int64)
    sums = np.array([1.0, 0.0], products.dtype)
    for s in range(end - 1, -1, -1):
        own, below = flows_of[s], products.ctypes.data + starts[s] * row
        folds, stride, out_row = shapes[s, 1], strides[s], num_units[s] * products.itemsize
        count = 1 if stride == 0 else folds
        rows = folds * batch // count
        sums[1] = adds[s]
        for f in range(count):
            at = f * rows
            if gradients[s] != 0:
                multiply_matrices(
                    routine,
                    own + at * out_row,
                    True,
                    below + at * row,
                    False,
                    gradients[s] + f * stride,
                    num_units[s],
                    rows,
                    units,
                    sums,
                    sizes,
                )
            multiply_matrices(
                routine,
                own + at * out_row,
                False,
                tables[s] + f * stride,
                False,
                back.ctypes.data + at * row,
                rows,
                num_units[s],
                units,
                scalars,
                sizes,
            )
        share(
            back[: folds * batch],
            products,
            parts,
            starts[s],
            factors_of(factors, shapes, factor_starts, s),
            factors_of(places, shapes, factor_starts, s),
            batch,
            leaves,
            leaf_rows,
            leaf_folds,
            leaf_mode,
            leaf_flows,
            flow_rows,
            values,
            value_rows,
            flows,
        )
        if stops[s]:
            return s
    return -1
