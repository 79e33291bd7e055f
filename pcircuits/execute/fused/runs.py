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
    batch: int,
    floors: Array,
    products: Array,
    parts: Array,
    starts: Array,
    out: Array,
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
        factors: (S, n, F) factors of each sum.
        batch: Examples of a fold.
        floors: (S,) see `kernels.multiply`.
        products: (P, K) rows of products.
        parts: (P,) see `kernels.multiply`.
        starts: (S,) first rows of each sum's products.
        out: (N', O) rows of these sums.
        out_scales: (N',) their scales.
        firsts: (S,) first rows of each sum.
        tables: (S,) addresses of their weights: (K, O) for all folds, or (F, O, K).
        strides: (S,) bytes from one fold's table to the next; 0 for one table.
        begin: The sum to begin with.
        made: Whether its products are there already.

    Returns:
        Number of sums S; or a sum that was not computed, since some of its products have the scale
        NaN.
    """
    folds, units = factors.shape[2], products.shape[1]
    row, out_row = units * products.itemsize, out.shape[1] * out.itemsize
    scalars, sizes = np.array([1.0, 0.0], products.dtype), np.empty(SIZES, np.int64)
    for s in range(begin, len(factors)):
        if not (made and s == begin):
            lost = multiply(
                leaves,
                leaf_scales,
                leaf_rows,
                leaf_folds,
                values,
                scales,
                value_rows,
                factors[s],
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
        source = products.ctypes.data + starts[s] * row
        target = out.ctypes.data + firsts[s] * out_row
        stride = strides[s]
        count = 1 if stride == 0 else folds
        rows = folds * batch // count
        for f in range(count):
            multiply_matrices(
                routine,
                source + f * rows * row,
                False,
                tables[s] + f * stride,
                stride != 0,
                target + f * rows * out_row,
                rows,
                units,
                out.shape[1],
                scalars,
                sizes,
            )
    return len(factors)


@compiled
def descend(
    routine: int,
    tables: Array,
    strides: Array,
    gradients: Array,
    adds: Array,
    u: Array,
    firsts: Array,
    back: Array,
    products: Array,
    parts: Array,
    starts: Array,
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
        u: (N', O) gradients with respect to the sums as numbers.
        firsts: (S,) first rows of each sum.
        back: (F * B, K) overwritten: gradient with respect to the products of a sum.
        products: The arguments up to `flows` are those of `kernels.share`.
        parts: See there.
        starts: (S,) first rows of each sum's products.
        factors: (S, n, F) factors of each sum.
        places: (S, n, F) folds of these in `flows`.
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
    folds, units, num_units = factors.shape[2], products.shape[1], u.shape[1]
    row, out_row = units * products.itemsize, num_units * u.itemsize
    scalars, sizes = np.array([1.0, 0.0], products.dtype), np.empty(SIZES, np.int64)
    sums = np.array([1.0, 0.0], products.dtype)
    for s in range(end - 1, -1, -1):
        own, below = u.ctypes.data + firsts[s] * out_row, products.ctypes.data + starts[s] * row
        stride = strides[s]
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
                    num_units,
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
                num_units,
                units,
                scalars,
                sizes,
            )
        share(
            back,
            products,
            parts,
            starts[s],
            factors[s],
            places[s],
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
