"""Compiled passes over a graph of single nodes, up and down.

A tile is a few examples wide, one cache line; all nodes of a tile are done before the next tile, so
tiles can go to different threads. Values are logarithms; every sum takes its largest term out.
"""

# Inside kernels numbers are typed by numba, and loops are what it compiles best.
from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload

Array = np.ndarray

# Examples of a tile: one cache line of float32.
WIDTH = 16

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
# Taylor coefficients of exp, 1/2! .. 1/7!: on |r| <= ln(2) / 2 the rest is below 6e-9.
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1.0 / math.factorial(n)) for n in range(2, 8))


def _reinterpretation(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return nb.float32(nb.int32), generate


# The float32 with the bits of an int32.
_as_float: Any = intrinsic(_reinterpretation)


def _exp(x: float) -> float:
    """Exponential of a number <= 0; replaced below by what numba compiles."""
    return math.exp(x)


@overload(_exp, inline="always")
def _exp_by_type(x: Any) -> Any:
    if x != nb.float32:

        def library(x: Any) -> Any:
            return math.exp(x)

        return library

    # In single precision the library's function is called once for each number; this one becomes
    # vector instructions. Below -87 a single float has no normal exponential: zero.
    def polynomial(x: Any) -> Any:
        n = np.float32(math.floor(max(x, np.float32(-87.0)) * _LOG2_E + np.float32(0.5)))
        r = max(x, np.float32(-87.0)) - n * _LN2_HIGH - n * _LN2_LOW
        p = _C6 + r * _C7
        p = _C5 + r * p
        p = _C4 + r * p
        p = _C3 + r * p
        p = _C2 + r * p
        p = np.float32(1.0) + r + r * r * p
        scale = _as_float((np.int32(n) + np.int32(127)) << np.int32(23))
        return p * scale if x > np.float32(-87.0) else np.float32(0.0)

    return polynomial


_compiled = nb.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _largest_terms(
    own: Array, edges: range, children: Array, places: Array, log_weights: Array, top: Array
) -> None:
    """Fills `top` with the largest of a sum's terms, finite also where all are -inf."""
    top[:] = np.finfo(own.dtype).min
    for e in edges:
        row = own[children[e]]
        weight = log_weights[places[e]]
        for w in range(WIDTH):
            top[w] = max(top[w], row[w] + weight)


@_compiled
def upward(
    leaves: Array,
    starts: Array,
    children: Array,
    places: Array,
    log_weights: Array,
    values: Array,
    roots: Array,
    first_tile: int,
    last_tile: int,
) -> None:
    """Evaluates tiles first_tile .. last_tile - 1.

    Args:
        leaves: (I, B) log-values of the inputs.
        starts: (N - I + 1,) where the children of each inner node start.
        children: (E,) nodes.
        places: (E,) places of the weights, -1 for products.
        log_weights: (W,) log-weights.
        values: (T, N, WIDTH) filled with the values of all nodes; tile t is kept at t modulo T,
            so that one place does where only the roots are wanted. Columns beyond the batch hold
            what sure inputs give.
        roots: (B,) filled with the root's values.
        first_tile: First tile.
        last_tile: End of the tiles.
    """
    num_inputs, batch = leaves.shape
    top = np.empty(WIDTH, values.dtype)
    total = np.empty(WIDTH, values.dtype)
    for tile in range(first_tile, last_tile):
        own = values[tile % len(values)]
        for i in range(num_inputs):
            for w in range(WIDTH):
                column = tile * WIDTH + w
                own[i, w] = leaves[i, column] if column < batch else values.dtype.type(0.0)
        for n in range(len(starts) - 1):
            edges = range(starts[n], starts[n + 1])
            total[:] = 0.0
            if places[edges.start] < 0:
                for e in edges:
                    row = own[children[e]]
                    for w in range(WIDTH):
                        total[w] += row[w]
                own[num_inputs + n] = total
                continue
            _largest_terms(own, edges, children, places, log_weights, top)
            for e in edges:
                row = own[children[e]]
                weight = log_weights[places[e]]
                for w in range(WIDTH):
                    total[w] += _exp(row[w] + weight - top[w])
            for w in range(WIDTH):
                own[num_inputs + n, w] = math.log(total[w]) + top[w]
        for w in range(min(WIDTH, batch - tile * WIDTH)):
            roots[tile * WIDTH + w] = own[num_inputs + len(starts) - 2, w]


@_compiled
def _add_shares(
    own: Array,
    edges: range,
    children: Array,
    places: Array,
    log_weights: Array,
    mine: Array,
    flow: Array,
    weight_gradient: Array,
    work: Array,
) -> None:
    """Gives a sum's flow to its children and weights, in proportion to their terms.

    Shares are divided by their own total, so that flow is conserved whatever the size of the
    values. `work` has a row for the maxima, one for the totals, and one for each child.
    """
    top, total, share = work[0], work[1], work[2:]
    _largest_terms(own, edges, children, places, log_weights, top)
    total[:] = 0.0
    for e in edges:
        row = own[children[e]]
        weight = log_weights[places[e]]
        for w in range(WIDTH):
            share[e - edges.start, w] = _exp(row[w] + weight - top[w])
            total[w] += share[e - edges.start, w]
    for w in range(WIDTH):
        total[w] = mine[w] / total[w] if total[w] > 0.0 else own.dtype.type(0.0)
    for e in edges:
        below = flow[children[e]]
        for w in range(WIDTH):
            part = share[e - edges.start, w] * total[w]
            below[w] += part
            weight_gradient[places[e]] += part


@_compiled
def downward(
    gradient: Array,
    starts: Array,
    children: Array,
    places: Array,
    log_weights: Array,
    values: Array,
    leaf_gradient: Array,
    weight_gradient: Array,
    first_tile: int,
    last_tile: int,
) -> None:
    """Adds the gradients of tiles first_tile .. last_tile - 1.

    Args:
        gradient: (B,) gradient of the root's value; zero where that is -inf.
        starts: As in `upward`.
        children: As in `upward`.
        places: As in `upward`.
        log_weights: As in `upward`.
        values: What `upward` left, of all tiles.
        leaf_gradient: (I, B), filled.
        weight_gradient: (W,), added to.
        first_tile: First tile.
        last_tile: End of the tiles.
    """
    num_inputs, batch = leaf_gradient.shape
    flow = np.empty((num_inputs + len(starts) - 1, WIDTH), values.dtype)
    work = np.empty((2 + np.max(starts[1:] - starts[:-1]), WIDTH), values.dtype)
    for tile in range(first_tile, last_tile):
        flow[:] = 0.0
        for w in range(min(WIDTH, batch - tile * WIDTH)):
            flow[-1, w] = gradient[tile * WIDTH + w]
        for n in range(len(starts) - 2, -1, -1):
            edges = range(starts[n], starts[n + 1])
            mine = flow[num_inputs + n]
            if places[edges.start] < 0:
                for e in edges:
                    below = flow[children[e]]
                    for w in range(WIDTH):
                        below[w] += mine[w]
                continue
            _add_shares(
                values[tile],
                edges,
                children,
                places,
                log_weights,
                mine,
                flow,
                weight_gradient,
                work,
            )
        for i in range(num_inputs):
            for w in range(min(WIDTH, batch - tile * WIDTH)):
                leaf_gradient[i, tile * WIDTH + w] = flow[i, w]
