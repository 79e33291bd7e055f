# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Leaf values under dense soft evidence: the table is streamed once for all rows.

The categories are split among programs; each sums its share of exp(potential) times table for a
tile of rows and units. A second kernel adds the shares in a fixed order and takes the logarithm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.finish import finish_launch
from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import Table
from pcircuits.execute.triton.tiles import block, num_processors, parts


class Leaves(NamedTuple):
    """Values of input rows, and what their gradients need.

    Attributes:
        value: (G, R, K) log-values; -inf where impossible or not active.
        total: (G, R, K) shifted totals in linear space, of which the values are the logarithms;
            up to `FLOOR` where the value was found otherwise.
        top: (G, R) largest potential of each row; -inf where the row is all -inf or not active.
    """

    value: Tensor
    total: Tensor
    top: Tensor


def dense_values(table: Table, potentials: Tensor, active: Tensor | None = None) -> Leaves:
    """log(sum_v exp(potentials[g, r, v]) table[g, k, v]), exactly.

    Args:
        table: Tables of G groups.
        potentials: (G, R, V) log-potentials below +inf, of any strides and floating-point type.
        active: (G, R) bool, the rows that are wanted; None = all. The others are not read.

    Returns:
        The values (G, R, K).
    """
    top = row_tops(potentials, active)
    first, second, leaves = dense_launches(table, potentials, top)
    first.run()
    second.run()
    return leaves


def row_tops(potentials: Tensor, active: Tensor | None) -> Tensor:
    """(G, R) float32 maxima of the active rows, -inf for the others."""
    top = potentials.amax(-1).float()
    return top if active is None else top.masked_fill(~active, -torch.inf)


def dense_launches(table: Table, potentials: Tensor, top: Tensor) -> tuple[Launch, Launch, Leaves]:
    """The two launches of `dense_values` and what they write."""
    groups, rows, categories = potentials.shape
    units = table.linear.shape[2]
    br, bk, bv = block(rows, 16, 128), block(units, 16, 128), 32
    tiles = groups * triton.cdiv(rows, br) * triton.cdiv(units, bk)
    # Two programs for each processor; a share is never less than one tile of categories.
    splits = parts(2 * num_processors(top.device), tiles, triton.cdiv(categories, bv))
    steps = triton.cdiv(triton.cdiv(categories, splits), bv)
    splits = triton.cdiv(categories, steps * bv)
    partial = top.new_empty(groups, splits, rows, units)
    arguments = {
        "potentials": potentials,
        "strides": potentials.stride(),
        "top": top,
        "table": table.linear,
        "partial": partial,
        "rows": rows,
        "UNITS": units,
        "CATEGORIES": categories,
        "SPLITS": splits,
        "STEPS": steps,
        "PRECISION": table.dot_precision,
        "BLOCK_R": br,
        "BLOCK_K": bk,
        "BLOCK_V": bv,
    }
    options = {"num_warps": 4 if br * bk <= 8192 else 8, "num_stages": 3}
    leaves = Leaves(top.new_empty(groups, rows, units), top.new_empty(groups, rows, units), top)
    first = Launch(dense_kernel, tiles * splits, arguments, options)
    second = finish_launch(table, partial, None, top, potentials, None, *leaves[:2])
    return first, second, leaves


@triton.jit
def dense_kernel(
    potentials, strides, top, table, partial, rows,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, SPLITS: tl.constexpr, STEPS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One program for each group, share of the categories, tile of units and tile of rows."""
    # Row tiles are neighbours: they read the same tile of the table while it is in the cache.
    row_tiles = tl.cdiv(rows, BLOCK_R)
    unit_tiles: tl.constexpr = (UNITS + BLOCK_K - 1) // BLOCK_K
    r = (tl.program_id(0) % row_tiles) * BLOCK_R + tl.arange(0, BLOCK_R)
    rest = tl.program_id(0) // row_tiles
    k = (rest % unit_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    number = (rest // unit_tiles).to(tl.int64)
    group, split = number // SPLITS, number % SPLITS
    peak = tl.load(top + group * rows + r, mask=r < rows, other=float("-inf"))
    wanted = peak > float("-inf")
    peak = tl.where(wanted, peak, 0.0)
    own = potentials + group * strides[0] + r.to(tl.int64)[:, None] * strides[1]
    columns = table + group * CATEGORIES * UNITS + k[None, :]
    acc = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    for step in range(STEPS):
        v = split * (STEPS * BLOCK_V) + step * BLOCK_V + tl.arange(0, BLOCK_V)
        there = v < CATEGORIES
        mask = wanted[:, None] & there[None, :]
        x = tl.load(own + v[None, :] * strides[2], mask=mask, other=float("-inf")).to(tl.float32)
        mask = there[:, None] & (k < UNITS)[None, :]
        t = tl.load(columns + v[:, None] * UNITS, mask=mask, other=0.0)
        e = tl.exp(x - peak[:, None]).to(t.dtype)
        acc = tl.dot(e, t, acc, input_precision=PRECISION)
    at = (number * rows + r)[:, None] * UNITS + k[None, :]
    tl.store(partial + at, acc, mask=(r < rows)[:, None] & (k < UNITS)[None, :])
