"""Several sums in one compiled call: what is done to their rows, and their matrix products."""

# As in `kernels`, numbers are typed by numba.
from __future__ import annotations

import numpy as np

from pcircuits.execute.fused.blas import SIZES, multiply_matrices
from pcircuits.execute.fused.down_kernels import share
from pcircuits.execute.fused.kernels import Array, Rows, compiled, multiply

# What all passes over a run are told of it: see `arenas.Step.shared`.
Shared = tuple[Array, Array, Array, Array, Array]


@compiled
def factors_of(factors: Array, shapes: Array, starts: Array, s: int) -> Array:
    """(n, F) factors of a sum; see `Run`."""
    count, folds = shapes[s]
    return factors[starts[s] : starts[s] + count * folds].reshape(count, folds)


@compiled
def ascend(
    routine: int,
    inputs: Rows,
    leaf_folds: int,
    sums: Rows,
    run: Shared,
    batch: int,
    room: tuple[Array, Array, Array],
    outs: tuple[Array, Array],
    out_scales: Array,
    weights: tuple[Array, Array],
    floors: Array,
    begin: int,
    made: bool,
) -> int:
    """Computes sums over elementwise products one after the other.

    Args:
        routine: Address of the matrix product.
        inputs: See `kernels.multiply`.
        leaf_folds: See there.
        sums: See there.
        run: The sums, see `arenas.Step.shared`.
        batch: Examples of a fold.
        room: (P, K) rows of products and (P,) their parts, see `kernels.multiply`; (S,) first rows
            of each sum's products.
        outs: (S,) addresses of the (F * batch, O) rows of each sum, and the first of their scales.
        out_scales: (N',) scales of rows.
        weights: (T,) addresses of all tables: (K, O) for all folds, or (F, O, K); and (T,) bytes
            from one fold's table to the next, 0 for one table.
        floors: (S,) see `kernels.multiply`.
        begin: The sum to begin with.
        made: Whether its products are there already.

    Returns:
        Number of sums S; or a sum that was not computed, since some of its products have the scale
        NaN.
    """
    factors, shapes, factor_starts, num_units, tables = run
    products, parts, starts = room
    addresses, first_scales = outs
    units, row = products.shape[1], products.shape[1] * products.itemsize
    scalars, sizes = np.array([1.0, 0.0], products.dtype), np.empty(SIZES, np.int64)
    for s in range(begin, len(shapes)):
        if not (made and s == begin):
            lost = multiply(
                inputs,
                leaf_folds,
                sums,
                factors_of(factors, shapes, factor_starts, s),
                batch,
                floors[s],
                products,
                parts,
                starts[s],
                out_scales,
                first_scales[s],
            )
            if lost > 0:
                return s
        source, stride = products.ctypes.data + starts[s] * row, weights[1][tables[s]]
        out_row = num_units[s] * products.itemsize
        count = 1 if stride == 0 else shapes[s, 1]
        rows = shapes[s, 1] * batch // count
        for f in range(count):
            multiply_matrices(
                routine,
                source + f * rows * row,
                False,
                weights[0][tables[s]] + f * stride,
                stride != 0,
                addresses[s] + f * rows * out_row,
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
    flows_of: Array,
    run: Shared,
    places: Array,
    batch: int,
    room: tuple[Array, Array, Array],
    weights: tuple[Array, Array],
    gradients: Array,
    adds: Array,
    back: Array,
    inputs: Rows,
    leaf_folds: int,
    leaf_flows: tuple[Array, Array, int],
    sums: Rows,
    flows: Array,
    stops: Array,
    end: int,
) -> int:
    """Gives the gradients of sums to what they read, the last of them first.

    Args:
        routine: Address of the matrix product.
        flows_of: (S,) addresses of the (F * B, O) gradients with respect to the sums as numbers.
        run: The sums, see `arenas.Step.shared`.
        places: Folds of their factors in `flows`, as `run` has their folds elsewhere.
        batch: Examples of a fold.
        room: As in `ascend`.
        weights: As in `ascend`, but (O, K) for all folds, or (F, O, K).
        gradients: (T,) addresses of the gradients of these, in linear space; 0 if not wanted.
        adds: (S,) whether a former gradient is there and added to.
        back: (F * B, K) overwritten: gradient with respect to the products of a sum.
        inputs: See `down_kernels.share`.
        leaf_folds: See there.
        leaf_flows: See there.
        sums: See there.
        flows: See there.
        stops: (S,) whether some rows of a sum's products are left for the caller to give.
        end: Number of sums that are still to be done.

    Returns:
        -1; or the sum at which the caller is to do so, with its gradient in `back`.
    """
    factors, shapes, factor_starts, num_units, tables = run
    products, parts, starts = room
    for s in range(end - 1, -1, -1):
        table = tables[s]
        _through(
            routine,
            flows_of[s],
            num_units[s],
            products[starts[s] : starts[s] + shapes[s, 1] * batch],
            weights[0][table],
            weights[1][table],
            gradients[table],
            adds[s],
            back,
            shapes[s, 1],
        )
        share(
            back[: shapes[s, 1] * batch],
            products,
            parts,
            starts[s],
            factors_of(factors, shapes, factor_starts, s),
            factors_of(places, shapes, factor_starts, s),
            batch,
            inputs,
            leaf_folds,
            leaf_flows,
            sums,
            flows,
        )
        if stops[s]:
            return s
    return -1


@compiled
def _through(
    routine: int,
    flow: int,
    num_units: int,
    products: Array,
    table: int,
    stride: int,
    gradient: int,
    adds: bool,
    back: Array,
    folds: int,
) -> None:
    """Gives the gradient of a sum to its weights, and to its products in `back`."""
    units, item = products.shape[1], products.itemsize
    scalars, sizes = np.array([1.0, 0.0], products.dtype), np.empty(SIZES, np.int64)
    sums = np.array([1.0, adds], products.dtype)
    count = 1 if stride == 0 else folds
    rows = len(products) // count
    for f in range(count):
        own, at = flow + f * rows * num_units * item, f * rows * units * item
        if gradient != 0:
            multiply_matrices(
                routine,
                own,
                True,
                products.ctypes.data + at,
                False,
                gradient + f * stride,
                num_units,
                rows,
                units,
                sums,
                sizes,
            )
        multiply_matrices(
            routine,
            own,
            False,
            table + f * stride,
            False,
            back.ctypes.data + at,
            rows,
            num_units,
            units,
            scalars,
            sizes,
        )
