"""Compiled passes by logarithms, for tiles whose values are too far apart for plain numbers.

A tile is a few examples wide, one cache line; every sum takes its largest term out.
"""

# Inside kernels numbers are typed by numba, and loops are what it compiles best.
from __future__ import annotations

import math

import numpy as np

from pcircuits.execute.numba.arithmetic import compiled, exp

Array = np.ndarray

# Examples of a tile: one cache line of float32.
WIDTH = 16


@compiled
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


@compiled
def upward(
    leaves: Array, starts: Array, children: Array, places: Array, log_weights: Array
) -> Array:
    """Evaluates all nodes.

    Args:
        leaves: (I, B) log-values of the inputs.
        starts: (N - I + 1,) where the children of each inner node start.
        children: (E,) nodes.
        places: (E,) places of the weights, -1 for products.
        log_weights: (W,) log-weights.

    Returns:
        (T, N, WIDTH) values of all nodes in all tiles. Columns beyond the batch hold what sure
        inputs give.
    """
    num_inputs, batch = leaves.shape
    values = np.empty((-(-batch // WIDTH), num_inputs + len(starts) - 1, WIDTH), leaves.dtype)
    top = np.empty(WIDTH, values.dtype)
    total = np.empty(WIDTH, values.dtype)
    for tile in range(len(values)):
        own = values[tile]
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
                    total[w] += exp(row[w] + weight - top[w])
            for w in range(WIDTH):
                own[num_inputs + n, w] = math.log(total[w]) + top[w]
    return values


@compiled
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
            share[e - edges.start, w] = exp(row[w] + weight - top[w])
            total[w] += share[e - edges.start, w]
    for w in range(WIDTH):
        total[w] = mine[w] / total[w] if total[w] > 0.0 else own.dtype.type(0.0)
    for e in edges:
        below = flow[children[e]]
        for w in range(WIDTH):
            part = share[e - edges.start, w] * total[w]
            below[w] += part
            weight_gradient[places[e]] += part


@compiled
def downward(
    gradient: Array,
    starts: Array,
    children: Array,
    places: Array,
    log_weights: Array,
    values: Array,
    weight_gradient: Array,
) -> Array:
    """Sends the root's gradients down.

    Args:
        gradient: (B,) gradient of the root's value; zero where that is -inf.
        starts: As in `upward`.
        children: As in `upward`.
        places: As in `upward`.
        log_weights: As in `upward`.
        values: What `upward` left.
        weight_gradient: (W,) added to.

    Returns:
        (I, T * WIDTH) gradients of the inputs.
    """
    num_tiles, num_nodes, _ = values.shape
    num_inputs, batch = num_nodes - len(starts) + 1, len(gradient)
    leaf_gradient = np.empty((num_inputs, num_tiles * WIDTH), values.dtype)
    flow = np.empty((num_nodes, WIDTH), values.dtype)
    work = np.empty((2 + np.max(starts[1:] - starts[:-1]), WIDTH), values.dtype)
    for tile in range(num_tiles):
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
        leaf_gradient[:, tile * WIDTH : (tile + 1) * WIDTH] = flow[:num_inputs]
    return leaf_gradient
