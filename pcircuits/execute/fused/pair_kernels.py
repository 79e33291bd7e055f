"""Kernels of sums over all pairs of two rows: pairs are made for a block of the left units."""

from __future__ import annotations

import numpy as np

from pcircuits.execute.fused.blas import SIZES, multiply_blocks
from pcircuits.execute.fused.kernels import Array, compiled


@compiled
def sum_pairs(
    routine: int, left: Array, right: Array, table: int, out: Array, room: Array, at_once: int
) -> None:
    """Sums over all pairs of the units of two rows.

    Args:
        routine: Address of the matrix product.
        left: (R, I) rows.
        right: (R, J) rows.
        table: Address of the (O, I * J) weights.
        out: (R, O) filled.
        room: Overwritten; for at least one left unit of the rows at once.
        at_once: Rows at once.
    """
    units, others, width = left.shape[1], right.shape[1], left.shape[1] * right.shape[1]
    scalars, sizes = np.array([1.0, 0.0], left.dtype), np.empty(SIZES, np.int64)
    for first in range(0, len(left), at_once):
        # Rows become columns: what is made for a pair is one vector then, and so is what BLAS reads
        # of it.
        one = left[first : first + at_once].T.copy()
        other = right[first : first + at_once].T.copy()
        rows = one.shape[1]
        total = np.empty((out.shape[1], rows), out.dtype)
        block = min(units, len(room) // (others * rows))
        for start in range(0, units, block):
            count = min(block, units - start)
            pairs = room[: count * others * rows].reshape(count, others, rows)
            all_pairs(one[start : start + count], other, pairs)
            scalars[1] = start > 0
            multiply_blocks(
                routine,
                table + start * others * room.itemsize,
                False,
                width,
                room.ctypes.data,
                False,
                rows,
                total.ctypes.data,
                rows,
                out.shape[1],
                count * others,
                rows,
                scalars,
                sizes,
            )
        out[first : first + rows] = total.T


@compiled
def all_pairs(left: Array, right: Array, out: Array) -> None:
    """(I, R), (J, R) -> (I, J, R) products."""
    for i in range(len(left)):
        for j in range(len(right)):
            own, other, pair = left[i], right[j], out[i, j]
            for r in range(len(pair)):
                pair[r] = own[r] * other[r]


@compiled
def give_pairs(
    routine: int,
    u: Array,
    left: Array,
    right: Array,
    table: int,
    gradient: int,
    adds: bool,
    left_flow: Array,
    right_flow: Array,
    room: Array,
    at_once: int,
) -> None:
    """Gives the gradients of sums over all pairs to both sides, and to the weights.

    Args:
        routine: Address of the matrix product.
        u: (R, O) gradient with respect to the sums as numbers.
        left: (R, I) rows.
        right: (R, J) rows.
        table: Address of the (O, I * J) weights.
        gradient: Address of their gradient, in linear space; 0 if it is not wanted.
        adds: Whether a former gradient is there and added to.
        left_flow: (R, I) filled with the gradient of the logarithms of `left`.
        right_flow: (R, J) to which that of `right` is added.
        room: Overwritten; for at least one left unit of the rows at once.
        at_once: Rows at once.
    """
    units, others, width = left.shape[1], right.shape[1], left.shape[1] * right.shape[1]
    scalars, sizes = np.array([1.0, 0.0], left.dtype), np.empty(SIZES, np.int64)
    sums = np.array([1.0, 0.0], left.dtype)
    num_units, item = u.shape[1], u.itemsize
    block = min(units, len(room) // (others * min(len(u), at_once)))
    for start in range(0, units, block):
        count = min(block, units - start)
        columns, shift = count * others, start * others * item
        for first in range(0, len(u), at_once):
            rows = min(at_once, len(u) - first)
            own = u.ctypes.data + first * num_units * item
            pairs = room[: rows * columns].reshape(rows, columns)
            multiply_blocks(
                routine,
                own,
                False,
                num_units,
                table + shift,
                False,
                width,
                room.ctypes.data,
                columns,
                rows,
                num_units,
                columns,
                scalars,
                sizes,
            )
            contract_pairs(
                pairs,
                left[first : first + rows, start : start + count],
                right[first : first + rows],
                left_flow[first : first + rows, start : start + count],
                right_flow[first : first + rows],
            )
            if gradient != 0:
                sums[1] = adds or first > 0
                multiply_blocks(
                    routine,
                    own,
                    True,
                    num_units,
                    room.ctypes.data,
                    False,
                    columns,
                    gradient + shift,
                    width,
                    num_units,
                    rows,
                    columns,
                    sums,
                    sizes,
                )


@compiled
def contract_pairs(
    gradient: Array, left: Array, right: Array, left_flow: Array, right_flow: Array
) -> None:
    """Gives the gradients of all pairs to both sides.

    Args:
        gradient: (R, I * J) gradient with respect to the pairs as numbers; filled with the pairs.
        left: (R, I).
        right: (R, J).
        left_flow: (R, I) filled with the gradient of the logarithms of `left`.
        right_flow: (R, J) to which that of `right` is added.
    """
    columns = right.shape[1]
    for r in range(len(left)):
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


@compiled
def give(flow: Array, rows: Array, adds: bool, flows: Array) -> None:
    """Gives (R, K) gradients of logarithms to given rows of inputs."""
    for r in range(len(rows)):
        if adds:
            for k in range(flow.shape[1]):
                flows[rows[r], k] += flow[r, k]
        else:
            for k in range(flow.shape[1]):
                flows[rows[r], k] = flow[r, k]


@compiled
def give_divided(flow: Array, values: Array, first: int, flows: Array, place: int) -> None:
    """Gives (R, K) gradients of logarithms to the rows of a sum, from `first` and `place` on.

    They are divided by the sum's values: all positive or, where impossible, all zero.
    """
    for r in range(len(flow)):
        own, value, out = flow[r], values[first + r], flows[place + r]
        possible = value[0] > 0.0
        for k in range(len(out)):
            out[k] = own[k] / value[k] if possible else own.dtype.type(0.0)
