# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""From units down to listed categories, and what both ways down are made of."""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import FLOOR, Table
from pcircuits.execute.triton.tiles import block


def listed_down_launch(table: Table, given: Mapping[str, object], categories: Tensor) -> Launch:
    """The launch for listed categories.

    Args:
        table: Tables of G groups.
        given: What `tables_down` gives to both of its forms.
        categories: (G, R, J) int64, contiguous; those of V and above have -inf or zero.
    """
    groups, rows, width = categories.shape
    units = table.linear.shape[2]
    bj, bk = 16, block(units, 16, 256)
    arguments = {
        **given,
        "categories": categories,
        "table": table.linear,
        "log": table.log,
        "log_strides": table.log.stride(),
        "rows": rows,
        "UNITS": units,
        "CATEGORIES": table.log.shape[2],
        "WIDTH": width,
        "FLOOR": FLOOR,
        "BLOCK_J": bj,
        "BLOCK_K": bk,
    }
    programs = groups * rows * triton.cdiv(width, bj)
    return Launch(listed_down_kernel, programs, arguments, {"num_warps": 4})


@triton.jit
def listed_down_kernel(
    factors, messages, base, norm, potentials, strides, target, target_strides, out, size, largest,
    categories, table, log, log_strides, rows,
    MODE: tl.constexpr, UNITS: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr,
    FLOOR: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each row and tile of its list."""
    tiles: tl.constexpr = (WIDTH + BLOCK_J - 1) // BLOCK_J
    j = (tl.program_id(0) % tiles) * BLOCK_J + tl.arange(0, BLOCK_J)
    number = (tl.program_id(0) // tiles).to(tl.int64)
    group, row = number // rows, number % rows
    inside = j < WIDTH
    c = tl.load(categories + number * WIDTH + j, mask=inside, other=CATEGORIES).to(tl.int64)
    there = inside & (c < CATEGORIES)
    columns = table + (group * CATEGORIES + c)[:, None] * UNITS
    acc = tl.zeros((BLOCK_J,), dtype=tl.float32)
    alive = tl.zeros((BLOCK_J,), dtype=tl.int32)
    for start in range(0, UNITS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        f = tl.load(factors + number * UNITS + k, mask=k < UNITS, other=0.0)
        mask = there[:, None] & (k < UNITS)[None, :]
        t = tl.load(columns + k[None, :], mask=mask, other=0.0).to(tl.float32)
        acc += tl.sum(f[None, :] * t, 1)
        alive = tl.maximum(alive, tl.max(((t > 0) & (f[None, :] > 0)).to(tl.int32), 1))
    shift = tl.load(base + number)
    at = potentials + group * strides[0] + row * strides[1] + j * strides[2]
    if MODE == 0:
        x = tl.load(at, mask=there, other=float("-inf")).to(tl.float32)
        living = shift > float("-inf")
        x = tl.where(living, x, float("-inf")) - tl.where(living, shift, 0.0)
        result = tl.exp(x) * acc
    else:
        low = there & (acc <= FLOOR)
        found = tl.log(tl.where(acc > FLOOR, acc, 1.0)) + shift
        found = tl.where(acc > FLOOR, found, float("-inf"))
        if tl.max((low & (alive > 0)).to(tl.int32), 0) > 0:
            exact = row_log_sum(
                messages + number * UNITS, log + group * log_strides[0], log_strides, c, there,
                UNITS, BLOCK_J, 32,
            )  # fmt: skip
            found = tl.where(low, exact - tl.load(norm + number), found)
        goals = target + group * target_strides[0] + row * target_strides[1] + j * target_strides[2]
        result = epilogue(found, at, goals, inside, size, largest, MODE)
    tl.store(out + number * WIDTH + j, result, mask=inside)


@triton.jit
def epilogue(log, potentials, target, mask, size, largest, MODE: tl.constexpr):
    """What becomes of leave-one-out log-probabilities: themselves, or the potentials moved."""
    if MODE == 1:
        return log
    else:
        goal = tl.load(target, mask=mask, other=float("-inf")).to(tl.float32)
        before = tl.load(potentials, mask=mask, other=float("-inf")).to(tl.float32)
        ruled_out = goal == float("-inf")
        fitted = tl.minimum(tl.where(ruled_out, 0.0, goal) - log, largest)
        moved = (1.0 - size) * tl.where(ruled_out, 0.0, before) + size * fitted
        return tl.where(ruled_out, float("-inf"), moved)


@triton.jit
def row_log_sum(
    messages, log, log_strides, v, there,
    UNITS: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Streaming log-sum-exp over the units of message plus log-weight, for one row."""
    high = tl.full((BLOCK_V,), float("-inf"), dtype=tl.float32)
    acc = tl.zeros((BLOCK_V,), dtype=tl.float32)
    for start in range(0, UNITS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        m = tl.load(messages + k, mask=k < UNITS, other=float("-inf"))
        at = k[None, :].to(tl.int64) * log_strides[1] + v[:, None].to(tl.int64) * log_strides[2]
        mask = there[:, None] & (k < UNITS)[None, :]
        term = tl.load(log + at, mask=mask, other=float("-inf")) + m[None, :]
        higher = tl.maximum(high, tl.max(term, 1))
        safe = tl.where(higher > float("-inf"), higher, 0.0)
        acc = acc * tl.exp(high - safe) + tl.sum(tl.exp(term - safe[:, None]), 1)
        high = higher
    return tl.where(acc > 0, tl.log(tl.where(acc > 0, acc, 1.0)) + high, float("-inf"))
