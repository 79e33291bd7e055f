# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Leaf values where potentials speak of listed categories: their columns are read, not copied."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.finish import finish_launch
from pcircuits.execute.triton.inputs_dense import Leaves, row_tops
from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import Table
from pcircuits.execute.triton.tiles import block, num_processors, parts


def listed_values(
    table: Table, potentials: Tensor, categories: Tensor, active: Tensor | None = None
) -> Leaves:
    """log(sum_j exp(potentials[g, r, j]) table[g, k, categories[g, r, j]]), exactly.

    Args:
        table: Tables of G groups.
        potentials: (G, R, J) log-potentials below +inf, of any strides and floating-point type.
        categories: (G, R, J) int64, contiguous. Those of V and above do not exist.
        active: (G, R) bool, the rows that are wanted; None = all.

    Returns:
        The values (G, R, K).
    """
    top = row_tops(potentials, active)
    first, second, leaves = listed_launches(table, potentials, categories, top)
    first.run()
    second.run()
    return leaves


def listed_launches(
    table: Table, potentials: Tensor, categories: Tensor, top: Tensor
) -> tuple[Launch, Launch, Leaves]:
    """The two launches of `listed_values` and what they write."""
    groups, rows, width = potentials.shape
    units = table.linear.shape[2]
    bk, bj = block(units, 16, 256), 16
    tiles = groups * rows * triton.cdiv(units, bk)
    splits = parts(4 * num_processors(top.device), tiles, triton.cdiv(width, bj))
    steps = triton.cdiv(triton.cdiv(width, splits), bj)
    splits = triton.cdiv(width, steps * bj)
    partial = top.new_empty(groups, splits, rows, units)
    alive = torch.empty_like(partial, dtype=torch.uint8)
    arguments = {
        "potentials": potentials,
        "strides": potentials.stride(),
        "categories": categories,
        "top": top,
        "table": table.linear,
        "partial": partial,
        "alive": alive,
        "rows": rows,
        "UNITS": units,
        "CATEGORIES": table.log.shape[2],
        "WIDTH": width,
        "SPLITS": splits,
        "STEPS": steps,
        "BLOCK_K": bk,
        "BLOCK_J": bj,
    }
    leaves = Leaves(top.new_empty(groups, rows, units), top.new_empty(groups, rows, units), top)
    first = Launch(listed_kernel, tiles * splits, arguments, {"num_warps": 4, "num_stages": 3})
    second = finish_launch(table, partial, alive, top, potentials, categories, *leaves[:2])
    return first, second, leaves


@triton.jit
def listed_kernel(
    potentials, strides, categories, top, table, partial, alive, rows,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
    STEPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """One program for each group, share of the list, row and tile of units."""
    unit_tiles: tl.constexpr = (UNITS + BLOCK_K - 1) // BLOCK_K
    k = (tl.program_id(0) % unit_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    number = (tl.program_id(0) // unit_tiles).to(tl.int64)
    row, split = number % rows, number // rows % SPLITS
    group = number // (rows * SPLITS)
    peak = tl.load(top + group * rows + row)
    wanted = peak > float("-inf")
    limit = tl.where(wanted, WIDTH, 0)
    peak = tl.where(wanted, peak, 0.0)
    own = potentials + group * strides[0] + row * strides[1]
    columns = table + group * CATEGORIES * UNITS + k[None, :]
    acc = tl.zeros((BLOCK_K,), dtype=tl.float32)
    living = tl.zeros((BLOCK_K,), dtype=tl.int32)
    for step in range(STEPS):
        j = split * (STEPS * BLOCK_J) + step * BLOCK_J + tl.arange(0, BLOCK_J)
        there = j < limit
        at = (group * rows + row) * WIDTH + j
        c = tl.load(categories + at, mask=there, other=CATEGORIES).to(tl.int64)
        there = there & (c < CATEGORIES)
        x = tl.load(own + j * strides[2], mask=there, other=float("-inf")).to(tl.float32)
        mask = (x > float("-inf"))[:, None] & (k < UNITS)[None, :]
        t = tl.load(columns + c[:, None] * UNITS, mask=mask, other=0.0).to(tl.float32)
        acc += tl.sum(tl.exp(x - peak)[:, None] * t, 0)
        living = tl.maximum(living, tl.max((t > 0).to(tl.int32), 0))
    at = ((group * SPLITS + split) * rows + row) * UNITS + k
    tl.store(partial + at, acc, mask=k < UNITS)
    tl.store(alive + at, living.to(tl.uint8), mask=k < UNITS)
