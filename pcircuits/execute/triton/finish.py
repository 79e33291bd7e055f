# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""From partial totals to log-values, with the exact repair of what underflowed."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import FLOOR, Table
from pcircuits.execute.triton.tiles import block


def finish_launch(
    table: Table,
    partial: Tensor,
    alive: Tensor | None,
    top: Tensor,
    potentials: Tensor,
    categories: Tensor | None,
    value: Tensor,
    total: Tensor,
) -> Launch:
    """Adds the partial totals in order and takes the logarithm, exactly.

    Args:
        table: Tables of G groups.
        partial: (G, S, R, K) shares of the shifted totals.
        alive: (G, S, R, K) uint8, whether a share has a positive term; None = not known.
        top: (G, R) what was taken out of the potentials; -inf where the value is -inf.
        potentials: (G, R, V), or (G, R, J) with `categories`.
        categories: (G, R, J) contiguous, which categories the potentials speak of; None = all.
        value: (G, R, K) for the log-values.
        total: (G, R, K) for the totals.
    """
    groups, splits, rows, units = partial.shape
    bk = block(units, 16, 64)
    arguments = {
        "partial": partial,
        "alive": partial if alive is None else alive,
        "top": top,
        "shift": table.shift,
        "log": table.log,
        "log_strides": table.log.stride(),
        "potentials": potentials,
        "strides": potentials.stride(),
        "listed": potentials if categories is None else categories,
        "value": value,
        "total": total,
        "rows": rows,
        "UNITS": units,
        "CATEGORIES": table.log.shape[2],
        "WIDTH": potentials.shape[2],
        "SPLITS": splits,
        "KNOWN": alive is not None,
        "LISTED": categories is not None,
        "FLOOR": FLOOR,
        "BLOCK_K": bk,
        "BLOCK_V": 64,
    }
    return Launch(finish_kernel, groups * rows * triton.cdiv(units, bk), arguments, {})


@triton.jit
def finish_kernel(
    partial, alive, top, shift, log, log_strides, potentials, strides, listed, value, total, rows,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
    KNOWN: tl.constexpr, LISTED: tl.constexpr, FLOOR: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One program for each row and tile of units."""
    unit_tiles: tl.constexpr = (UNITS + BLOCK_K - 1) // BLOCK_K
    k = (tl.program_id(0) % unit_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    number = (tl.program_id(0) // unit_tiles).to(tl.int64)
    group, row = number // rows, number % rows
    inside = k < UNITS
    acc = tl.zeros((BLOCK_K,), dtype=tl.float32)
    living = tl.zeros((BLOCK_K,), dtype=tl.int32)
    for split in range(SPLITS):
        at = ((group * SPLITS + split) * rows + row) * UNITS + k
        acc += tl.load(partial + at, mask=inside, other=0.0)
        if KNOWN:
            living += tl.load(alive + at, mask=inside, other=0).to(tl.int32)
    peak = tl.load(top + number)
    lost = inside & (acc <= FLOOR)
    found = tl.log(tl.where(inside & (acc > FLOOR), acc, 1.0)) + peak
    found += tl.load(shift + group * UNITS + k, mask=inside, other=0.0)
    found = tl.where(lost, float("-inf"), found)
    wanted = lost & (living > 0) if KNOWN else lost
    if (tl.max(wanted.to(tl.int32), 0) > 0) & (peak > float("-inf")):
        exact = log_sum_tile(
            log + group * log_strides[0], log_strides, potentials + group * strides[0]
            + row * strides[1], strides[2], listed + number * WIDTH, k,
            UNITS, CATEGORIES, WIDTH, LISTED, BLOCK_K, BLOCK_V,
        )  # fmt: skip
        found = tl.where(lost, exact, found)
    found = tl.where(peak > float("-inf"), found, float("-inf"))
    tl.store(value + number * UNITS + k, found, mask=inside)
    tl.store(total + number * UNITS + k, acc, mask=inside)


@triton.jit
def log_sum_tile(
    log, log_strides, potentials, stride, listed, k,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, LISTED: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Streaming log-sum-exp of log-weight plus potential for one row and a tile of units."""
    high = tl.full((BLOCK_K,), float("-inf"), dtype=tl.float32)
    acc = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for start in range(0, WIDTH, BLOCK_V):
        j = start + tl.arange(0, BLOCK_V)
        v = tl.load(listed + j, mask=j < WIDTH, other=CATEGORIES) if LISTED else j
        there = (j < WIDTH) & (v < CATEGORIES)
        x = tl.load(potentials + j * stride, mask=there, other=float("-inf")).to(tl.float32)
        at = k[:, None].to(tl.int64) * log_strides[1] + v[None, :].to(tl.int64) * log_strides[2]
        w = tl.load(log + at, mask=(k < UNITS)[:, None] & there[None, :], other=float("-inf"))
        term = w + x[None, :]
        higher = tl.maximum(high, tl.max(term, 1))
        safe = tl.where(higher > float("-inf"), higher, 0.0)
        acc = acc * tl.exp(high - safe) + tl.sum(tl.exp(term - safe[:, None]), 1)
        high = higher
    return tl.where(acc > 0, tl.log(tl.where(acc > 0, acc, 1.0)) + high, float("-inf"))
