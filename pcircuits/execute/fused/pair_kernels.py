"""Kernels of sums over all pairs of two rows: pairs are made for a block of the left units."""

from __future__ import annotations

from pcircuits.execute.fused.kernels import SET, Array, compiled


@compiled
def all_pairs(left: Array, right: Array, out: Array) -> None:
    """(R, I), (R, J) -> (R, I * J) outer products of rows."""
    columns = right.shape[1]
    for r in range(len(left)):
        for i in range(left.shape[1]):
            own = left[r, i]
            for j in range(columns):
                out[r, i * columns + j] = own * right[r, j]


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
def give(flow: Array, rows: Array, mode: int, flows: Array) -> None:
    """Gives (R, K) gradients of logarithms to given rows of inputs."""
    for r in range(len(rows)):
        if mode == SET:
            for k in range(flow.shape[1]):
                flows[rows[r], k] = flow[r, k]
        else:
            for k in range(flow.shape[1]):
                flows[rows[r], k] += flow[r, k]


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
