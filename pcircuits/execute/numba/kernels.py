"""Compiled passes over a graph of single nodes, up and down, on a tile of the batch.

The values of a node under the examples of a tile are a row of plain numbers and one exponent for
all of them (block floating point): value = number * 2 ** exponent. A product then multiplies rows,
a sum adds multiples of them, and no logarithm or exponential is computed between the inputs and
the root. How far apart the numbers of a row are is kept too, so that it is known beforehand where
a term could leave the normal range of its type: `upward` stops there and says so, and the caller
evaluates the tile in double precision or by logarithms. What it does not refuse is exact to the
rounding of the type, and a number is 0 only where the value is.
"""

# Inside kernels numbers are typed by numba, and loops are what it compiles best.
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from pcircuits.execute.numba.arithmetic import compiled, exp, power_of_two
from pcircuits.jit import cached_jit

Array = np.ndarray

# Exponents of what is zero: of a node, and of a weight. Others are far smaller.
DEAD_NODE = -(1 << 40)
DEAD_WEIGHT = -(1 << 30)
# Largest exponent of an input or weight, beyond which nothing here is evaluated.
LARGEST = 1 << 28

_LN_2 = math.log(2.0)
_LOG2_E = 1.0 / _LN_2
# Up to so many categories gradients are summed category by category, by vector instructions.
_FEW_CATEGORIES = 8


class Structure(NamedTuple):
    """What is evaluated.

    Attributes:
        starts: (N - I + 1,) where the children of each inner node start; the first I nodes are
            the inputs.
        children: (E,) nodes.
        places: (E,) places of the weights, -1 for products.
    """

    starts: Array
    children: Array
    places: Array


class Numbers(NamedTuple):
    """Weights, or tables of inputs, as number * 2 ** exponent.

    Attributes:
        numbers: Weights (W,), each in [1, 2] or 0; entries of tables, at most 1, or infinite for
            what is too small beside the others of its row.
        exponents: (W,) of each weight or (R,) of each row.
    """

    numbers: Array
    exponents: Array


class Tile(NamedTuple):
    """The values of all nodes in one tile.

    Attributes:
        rows: (N, WIDTH) numbers.
        bits: The same memory as unsigned integers.
        scales: (N, 2) exponent of each row, and how many powers of two its largest number and the
            least one that is not 0 are apart.
    """

    rows: Array
    bits: Array
    scales: Array


# Written into the loops that call them: they are called once a node.
_inlined: Any = nb.njit(nogil=True, error_model="numpy", inline="always")


@_inlined
def _limits(itemsize: int) -> tuple[int, int, int, int, int]:
    """Bits of the fraction, bias, and largest spreads of a row, a sum's and a product's terms.

    Rows have their largest number between 2 ** -8 and 2 ** 16, so that below these limits terms,
    and one over the least number of a row times the largest of another, are normal numbers.
    """
    if itemsize == 4:
        return 23, 127, 100, 110, 90
    return 52, 1023, 900, 990, 950


@_inlined
def _settle(rows: Array, all_bits: Array, scales: Array, node: int, exponent: int) -> bool:
    """Measures a new row and keeps its largest number near 1; whether its spread is allowed."""
    bits, row = all_bits[node], rows[node]
    fraction, bias, limit, _, _ = _limits(row.itemsize)
    high = bits.dtype.type(0)
    # One below the bits: 0 becomes the largest of all, and does not count.
    low = bits.dtype.type(bits[0] - 1)
    for w in range(len(bits)):
        high = max(high, bits[w])
        low = min(low, bits.dtype.type(bits[w] - 1))
    if high == 0:
        scales[node, 0] = DEAD_NODE
        scales[node, 1] = 0
        return True
    top = np.int64(high) >> fraction
    if top > 2 * bias:
        return False  # infinite, or not a number
    shift = top - bias
    if shift < -8 or shift > 16:
        factor = power_of_two(-shift, row[0])
        for w in range(len(row)):
            row[w] *= factor
        exponent += shift
    spread = top - (np.int64(low + 1) >> fraction)
    scales[node, 0] = exponent
    scales[node, 1] = spread
    return bool(spread <= limit)


@compiled
def look_up(
    table: Numbers,
    starts: Array,
    rows: Array,
    variables: Array,
    values: Array,
    tile: Tile,
) -> bool:
    """Fills the inputs' rows from the values of observed variables.

    Args:
        table: Entries of all inputs' rows.
        starts: (I,) first entry of each input.
        rows: (I,) row of each input.
        variables: (I,) its variable.
        values: (L, WIDTH) categories.
        tile: Its first I rows are filled.

    Returns:
        Whether all spreads are allowed.
    """
    for i in range(len(starts)):
        own, row, start = values[variables[i]], tile.rows[i], starts[i]
        for w in range(len(row)):
            row[w] = table.numbers[start + own[w]]
        if not _settle(tile.rows, tile.bits, tile.scales, i, table.exponents[rows[i]]):
            return False
    return True


@compiled
def lay_out(logs: Array, first: int, last: int, tile: Tile) -> bool:
    """Fills the inputs' rows from their log-values (I, B), examples first .. last - 1.

    Columns beyond `last` repeat the last one. Returns whether all spreads and sizes are allowed.
    """
    row = tile.rows[0]
    _, _, limit, _, _ = _limits(row.itemsize)
    for i in range(len(logs)):
        row, own = tile.rows[i], logs[i]
        high, low, wrong = -np.inf, np.inf, 0
        for w in range(first, last):
            wrong += math.isnan(own[w])  # which maxima pass over
            high = max(high, own[w])
            low = min(low, own[w] if own[w] > -np.inf else np.inf)
        if wrong > 0:
            return False
        if high == -np.inf:
            row[:] = 0.0
            tile.scales[i, 0] = DEAD_NODE
            tile.scales[i, 1] = 0
            continue
        if not (abs(high) < LARGEST and (high - low) * _LOG2_E < limit):
            return False
        exponent = math.ceil(high * _LOG2_E)
        for w in range(len(row)):
            # In double: what is left of a large number has lost its digits in single.
            x = max(np.float64(own[min(first + w, last - 1)]), low)
            n = math.ceil(x * _LOG2_E)
            rest = row.dtype.type(min(x - n * _LN_2, 0.0))
            row[w] = exp(rest) * power_of_two(n - exponent, row[0])
            if own[min(first + w, last - 1)] == -np.inf:
                row[w] = 0.0
        if not _settle(tile.rows, tile.bits, tile.scales, i, exponent):
            return False
    return True


@_inlined
def _multiply(
    children: Array, rows: Array, bits: Array, scales: Array, node: int, first: int, last: int
) -> bool:
    """Fills the row of a product of the children first .. last - 1."""
    row = rows[node]
    _, _, _, _, limit = _limits(row.itemsize)
    below = children[first]
    exponent, spread = scales[below, 0], scales[below, 1]
    other = rows[below]
    if last == first + 1:
        row[:] = other
    else:
        below = children[first + 1]
        exponent, spread = exponent + scales[below, 0], spread + scales[below, 1]
        second = rows[below]
        for w in range(len(row)):
            row[w] = other[w] * second[w]
    for e in range(first + 2, last):
        # Rows of at most four factors are far from the ends of the range; then anew.
        if (e - first) % 2 == 0:
            if spread > limit or not _settle(rows, bits, scales, node, exponent):
                return False
            exponent, spread = scales[node, 0], scales[node, 1]
        below = children[e]
        exponent, spread = exponent + scales[below, 0], spread + scales[below, 1]
        other = rows[below]
        for w in range(len(row)):
            row[w] *= other[w]
    return bool(spread <= limit and _settle(rows, bits, scales, node, exponent))


@_inlined
def _find_factors(
    children: Array,
    places: Array,
    numbers: Array,
    exponents: Array,
    scales: Array,
    first: int,
    last: int,
    limit: int,
    factors: Array,
) -> tuple[Any, bool]:
    """What each child's row is multiplied with in a sum, the sum's exponent, and if terms fit."""
    top = np.int64(2 * DEAD_NODE)
    for e in range(first, last):
        top = max(top, scales[children[e], 0] + exponents[places[e]])
    fits = True
    for e in range(first, last):
        scale, exponent = scales[children[e], 0], exponents[places[e]]
        depth = top - scale - exponent
        alive = scale > DEAD_NODE and exponent > DEAD_WEIGHT
        fits = fits and (scales[children[e], 1] + depth <= limit or not alive)
        factors[e - first] = numbers[places[e]] * power_of_two(-depth, factors[0])
    return top, fits


@_inlined
def _add(children: Array, rows: Array, row: Array, first: int, last: int, factors: Array) -> None:
    """Fills a row with the sum of multiples of the children's, four at a time."""
    count = last - first
    for g in range(0, count - 3, 4):
        a, x = factors[g], rows[children[first + g]]
        b, y = factors[g + 1], rows[children[first + g + 1]]
        c, u = factors[g + 2], rows[children[first + g + 2]]
        d, v = factors[g + 3], rows[children[first + g + 3]]
        if g == 0:
            for w in range(len(row)):
                row[w] = (a * x[w] + b * y[w]) + (c * u[w] + d * v[w])
        else:
            for w in range(len(row)):
                row[w] += (a * x[w] + b * y[w]) + (c * u[w] + d * v[w])
    for g in range(count - count % 4, count):
        a, x = factors[g], rows[children[first + g]]
        if g == 0:
            for w in range(len(row)):
                row[w] = a * x[w]
        else:
            for w in range(len(row)):
                row[w] += a * x[w]


@compiled
def upward(structure: Structure, weights: Numbers, tile: Tile) -> bool:
    """Fills the rows of the inner nodes, each after its children.

    Args:
        structure: The graph.
        weights: The sums' weights.
        tile: Its first I rows hold the inputs.

    Returns:
        Whether all terms are in the normal range; else the rows are of no use.
    """
    starts, children, places = structure
    numbers, exponents = weights
    rows, bits, scales = tile
    num_inputs = len(rows) - len(starts) + 1
    factors = np.empty(np.max(starts[1:] - starts[:-1]), rows.dtype)
    _, _, _, limit, _ = _limits(rows.itemsize)
    for n in range(len(starts) - 1):
        first, last, node = starts[n], starts[n + 1], num_inputs + n
        if places[first] < 0:
            if not _multiply(children, rows, bits, scales, node, first, last):
                return False
            continue
        top, fits = _find_factors(
            children, places, numbers, exponents, scales, first, last, limit, factors
        )
        if not fits:
            return False
        _add(children, rows, rows[node], first, last, factors)
        if not _settle(rows, bits, scales, node, top):
            return False
    return True


# Reassociation lets sums over a tile be computed by vector instructions.
_reassociated: Any = cached_jit(
    nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


@_reassociated
def downward(
    structure: Structure, weights: Numbers, tile: Tile, flow: Array, weight_gradient: Array
) -> None:
    """Sends the root's flow down to the inputs: a sum's in proportion to its terms.

    Args:
        structure: As in `upward`.
        weights: As in `upward`.
        tile: What `upward` left.
        flow: (N, WIDTH), zero but for the last row, which holds the gradients of the root's
            log-values, at most 1 in size; afterwards zero but for the inputs.
        weight_gradient: (W,) added to.
    """
    starts, children, places = structure
    numbers, exponents = weights
    rows, _, scales = tile
    num_inputs = len(flow) - len(starts) + 1
    zero = flow.dtype.type(0.0)
    share = np.empty(flow.shape[1], flow.dtype)
    for n in range(len(starts) - 2, -1, -1):
        first, last, node = starts[n], starts[n + 1], num_inputs + n
        mine, row = flow[node], rows[node]
        if places[first] < 0:
            for e in range(first, last):
                below = flow[children[e]]
                for w in range(len(mine)):
                    below[w] += mine[w]
        elif scales[node, 0] > DEAD_NODE:
            for w in range(len(row)):
                share[w] = mine[w] / row[w] if row[w] > zero else zero
            for e in range(first, last):
                child, place = children[e], places[e]
                below, x = flow[child], rows[child]
                depth = scales[node, 0] - scales[child, 0] - exponents[place]
                factor = numbers[place] * power_of_two(-depth, zero)
                total = zero
                for w in range(len(row)):
                    part = share[w] * (factor * x[w])
                    below[w] += part
                    total += part
                weight_gradient[place] += total
        mine[:] = zero


@_reassociated
def give_to_tables(
    flow: Array,
    starts: Array,
    sizes: Array,
    variables: Array,
    values: Array,
    table_gradient: Array,
) -> None:
    """Adds the inputs' flow to the entries that their variables' values name, and clears it.

    Args:
        flow: (N, WIDTH) what `downward` left.
        starts: As in `look_up`.
        sizes: (I,) numbers of categories.
        variables: As in `look_up`.
        values: As in `look_up`.
        table_gradient: Added to.
    """
    zero = flow.dtype.type(0.0)
    for i in range(len(starts)):
        own, mine, start = values[variables[i]], flow[i], starts[i]
        if sizes[i] <= _FEW_CATEGORIES:
            for c in range(sizes[i]):
                total = zero
                for w in range(len(mine)):
                    total += mine[w] if own[w] == c else zero
                table_gradient[start + c] += total
        else:
            for w in range(len(mine)):
                table_gradient[start + own[w]] += mine[w]
        mine[:] = zero
