"""Tables of weights in one pass each: exponentiated, transposed, and looked at."""

# As in `kernels`, numbers are typed by numba.
from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from pcircuits.execute.fused.kernels import Array, compiled
from pcircuits.jit import cached_jit

# Log-weights between minus this and this are exponentiated as they are.
LARGEST = 30.0
# Rows at once: so many numbers are a vector. Columns at once, which stay in the first cache.
_ROWS, _COLUMNS = 16, 32
# ln 2 in two parts, so that a small whole number times the first is exact in float32.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(math.log(2.0) - 0.693359375)
_PER_LN2 = np.float32(1.0 / math.log(2.0))
# To round by cutting off, numbers are made positive.
_SHIFT, _SHIFTED_HALF = np.int32(64), np.float32(64.5)
_BIAS, _FRACTION = np.int32(127), np.int32(23)
# The series of exp: the next term is below 1e-8 for |x| < ln 2 / 2.
_ONE = np.float32(1.0)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1.0 / math.factorial(n)) for n in range(2, 8))


def _float_of(typing: Any, bits: Any) -> Any:
    """The float32 of given bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


_of_bits: Any = intrinsic(_float_of)


# Not reordered: the parts of ln 2 would be added up.
@cached_jit(nogil=True, error_model="numpy", fastmath={"contract"})
def _short_exp(x: Any) -> Any:
    """Exp of a float32 between -44 and 44, as arithmetic that makes vector instructions."""
    power = np.int32(np.int32(x * _PER_LN2 + _SHIFTED_HALF) - _SHIFT)
    n = np.float32(power)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    end = (_C7 * r + _C6) * r + _C5
    series = ((((end * r + _C4) * r + _C3) * r + _C2) * r + _ONE) * r + _ONE
    return series * _of_bits(np.int32(np.int32(power + _BIAS) << _FRACTION))


def exponential(x: Any) -> Any:
    """exp(x) in compiled code, for |x| <= `LARGEST`."""
    return math.exp(x)


@overload(exponential)
def _exponential(x: Any) -> Any:
    def short(x: Any) -> Any:
        return _short_exp(x)

    def whole(x: Any) -> Any:
        return math.exp(x)

    return short if x == types.float32 else whole


@compiled
def exponentiate(log: Array, out: Array, columns: Array, extremes: Array) -> bool:
    """Weights in linear space, with their transposes.

    Args:
        log: (G, 1, O, K) log-weights.
        out: (G, 1, O, K) filled with exp of them.
        columns: (G, K, O) filled with its transposes; empty for none.
        extremes: (2,) filled with the least and the largest log-weight.

    Returns:
        Whether the log-weights are small enough that this was done.
    """
    # Of each column: what is found along a row makes no vector instructions.
    low, high = log[0, 0, 0].copy(), log[0, 0, 0].copy()
    for g in range(len(log)):
        for o in range(log.shape[2]):
            row = log[g, 0, o]
            if not are_small(row):
                return False
            for k in range(len(row)):
                low[k] = row[k] if row[k] < low[k] else low[k]
                high[k] = row[k] if row[k] > high[k] else high[k]
            _exponentiate(row, out[g, 0, o])
    extremes[0], extremes[1] = low.min(), high.max()
    transpose(out[: len(columns), 0], columns)
    return True


@compiled
def exponentiate_columns(log: Array, out: Array) -> bool:
    """Exp of (G, 1, R, C) as (G, C, R); whether all are small enough that it was done."""
    groups, _, units, categories = log.shape
    whole = units - units % _ROWS
    some = np.empty((_COLUMNS, units), out.dtype)
    for g in range(groups):
        for start in range(0, categories, _COLUMNS):
            count = min(_COLUMNS, categories - start)
            for first in range(0, whole, _ROWS):
                for c in range(count):
                    for k in range(_ROWS):
                        some[c, first + k] = log[g, 0, first + k, start + c]
            for c in range(count):
                row = some[c]
                for k in range(whole, units):
                    row[k] = log[g, 0, k, start + c]
                if not are_small(row):
                    return False
                _exponentiate(row, out[g, start + c])
    return True


@compiled
def are_small(row: Array) -> bool:
    """Whether all numbers are between -`LARGEST` and `LARGEST`; NaN is not."""
    wrong = 0
    for k in range(len(row)):
        wrong += not (abs(row[k]) < LARGEST)
    return wrong == 0


@compiled
def _exponentiate(row: Array, out: Array) -> None:
    for k in range(len(row)):
        out[k] = exponential(row[k])


@compiled
def transpose(source: Array, out: Array) -> None:
    """(G, R, C) -> (G, C, R), by blocks of rows that stay in the cache."""
    groups, rows, columns = source.shape
    whole = rows - rows % _ROWS
    for g in range(groups):
        for first in range(0, whole, _ROWS):
            for c in range(columns):
                # A bound that is not known here takes twice as long.
                for r in range(_ROWS):
                    out[g, c, first + r] = source[g, first + r, c]
        for c in range(columns):
            for r in range(whole, rows):
                out[g, c, r] = source[g, r, c]


@compiled
def pick_columns(tables: Array, columns: Array, out: Array) -> None:
    """Columns of tables as rows.

    Args:
        tables: (G, 1, R, C).
        columns: (G, n) which of each table.
        out: (G, n, R) filled with them.
    """
    rows = tables.shape[2]
    whole = rows - rows % _ROWS
    for g in range(len(tables)):
        for first in range(0, whole, _ROWS):
            for n in range(columns.shape[1]):
                c = columns[g, n]
                for r in range(_ROWS):
                    out[g, n, first + r] = tables[g, 0, first + r, c]
        for n in range(columns.shape[1]):
            for r in range(whole, rows):
                out[g, n, r] = tables[g, 0, r, columns[g, n]]


@compiled
def add_columns(source: Array, columns: Array, tables: Array) -> None:
    """Tables of zeros to which rows are added as columns: the gradient of `pick_columns`.

    Args:
        source: (G, n, R).
        columns: (G, n).
        tables: (G, 1, R, C) filled, a row at a time, which stays in the cache.
    """
    for g in range(len(tables)):
        for r in range(tables.shape[2]):
            row = tables[g, 0, r]
            row[:] = 0.0
            for n in range(columns.shape[1]):
                row[columns[g, n]] += source[g, n, r]
