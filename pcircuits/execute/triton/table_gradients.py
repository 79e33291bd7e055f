# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Gradient of leaf values for the table, category by category as the table is stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.inputs_dense import Leaves
from pcircuits.execute.triton.inputs_gradients import Scaled
from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import Table
from pcircuits.execute.triton.tiles import block


def table_gradient(
    table: Table, potentials: Tensor, leaves: Leaves, own: Scaled, categories: Tensor | None = None
) -> Tensor:
    """Gradient for the log-weights: the expected counts of unit and category.

    Args:
        table: Tables of G groups.
        potentials: (G, R, V), or (G, R, J) with `categories`.
        leaves: What the forward pass returned for them.
        own: The gradient of its values.
        categories: (G, R, J) int64, contiguous; None = all.

    Returns:
        (G, K, V) float32, the transpose of a contiguous tensor.
    """
    if categories is None:
        out = torch.empty_like(table.linear, dtype=torch.float32)
        dense_gradient_launch(table, potentials, leaves, own, out).run()
    else:
        out = torch.zeros_like(table.linear, dtype=torch.float32)
        listed_gradient_launch(table, potentials, leaves, own, categories, out).run()
    return out.transpose(1, 2)


def dense_gradient_launch(
    table: Table, potentials: Tensor, leaves: Leaves, own: Scaled, out: Tensor
) -> Launch:
    """Writes all of `out` (G, V, K)."""
    groups, rows, units = own.u.shape
    categories = table.log.shape[2]
    bv, bk, br = 64, block(units, 16, 128), block(rows, 16, 32)
    arguments = {
        **_common(table, potentials, leaves, own, out),
        "lost_any": own.rows.amax().reshape(1),
        "ROWS": rows,
        "PRECISION": table.dot_precision,
        "BLOCK_R": br,
        "BLOCK_V": bv,
        "BLOCK_K": bk,
    }
    programs = groups * triton.cdiv(units, bk) * triton.cdiv(categories, bv)
    options = {"num_warps": 8, "num_stages": 2}
    return Launch(dense_gradient_kernel, programs, arguments, options)


def listed_gradient_launch(
    table: Table, potentials: Tensor, leaves: Leaves, own: Scaled, categories: Tensor, out: Tensor
) -> Launch:
    """Writes the listed columns of `out` (G, V, K), which is zero elsewhere.

    Entries are sorted by category, and one program adds up all of a category in that order: the
    result does not depend on the order in which programs run.
    """
    groups, _, units = own.u.shape
    limit = table.log.shape[2]
    group = torch.arange(groups, device=categories.device)[:, None, None] * limit
    key = torch.where(categories < limit, categories + group, groups * limit).flatten()
    key, order = key.sort(stable=True)
    end = torch.searchsorted(key, key, right=True)
    bk = block(units, 16, 1024)
    arguments = {
        **_common(table, potentials, leaves, own, out),
        "keys": key,
        "order": order,
        "ends": end,
        "GROUPS": groups,
        "WIDTH": categories.shape[2],
        "BLOCK_K": bk,
        "rows": own.u.shape[1],
    }
    programs = len(key) * triton.cdiv(units, bk)
    return Launch(listed_gradient_kernel, programs, arguments, {"num_warps": 4})


def _common(
    table: Table, potentials: Tensor, leaves: Leaves, own: Scaled, out: Tensor
) -> dict[str, object]:
    return {
        "potentials": potentials,
        "strides": potentials.stride(),
        "top": leaves.top,
        "table": table.linear,
        "log": table.log,
        "log_strides": table.log.stride(),
        "u": own.u,
        "lost": own.lost,
        "value": leaves.value,
        "out": out,
        "UNITS": own.u.shape[2],
        "CATEGORIES": table.log.shape[2],
    }


@triton.jit
def dense_gradient_kernel(
    potentials, strides, top, table, log, log_strides, u, lost, value, out, lost_any,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each group, tile of categories and tile of units."""
    unit_tiles: tl.constexpr = (UNITS + BLOCK_K - 1) // BLOCK_K
    category_tiles: tl.constexpr = (CATEGORIES + BLOCK_V - 1) // BLOCK_V
    k = (tl.program_id(0) % unit_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    rest = tl.program_id(0) // unit_tiles
    v = (rest % category_tiles) * BLOCK_V + tl.arange(0, BLOCK_V)
    group = (rest // category_tiles).to(tl.int64)
    known, there = k < UNITS, v < CATEGORIES
    mask = there[:, None] & known[None, :]
    at = (group * CATEGORIES + v)[:, None] * UNITS + k[None, :]
    t = tl.load(table + at, mask=mask, other=0.0)
    acc = tl.zeros((BLOCK_V, BLOCK_K), dtype=tl.float32)
    for start in range(0, ROWS, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        peak = tl.load(top + group * ROWS + r, mask=r < ROWS, other=float("-inf"))
        wanted = peak > float("-inf")
        place = group * strides[0] + r.to(tl.int64)[None, :] * strides[1] + v[:, None] * strides[2]
        inside = there[:, None] & wanted[None, :]
        x = tl.load(potentials + place, mask=inside, other=float("-inf")).to(tl.float32)
        e = tl.exp(x - tl.where(wanted, peak, 0.0)[None, :])
        own = (group * ROWS + r)[:, None] * UNITS + k[None, :]
        g = tl.load(u + own, mask=(r < ROWS)[:, None] & known[None, :], other=0.0)
        acc = tl.dot(e.to(t.dtype), g.to(t.dtype), acc, input_precision=PRECISION)
    result = acc * t.to(tl.float32)
    if tl.load(lost_any) > 0:
        w = log + group * log_strides[0] + k[None, :].to(tl.int64) * log_strides[1]
        w = tl.load(w + v[:, None].to(tl.int64) * log_strides[2], mask=mask, other=float("-inf"))
        for r in range(ROWS):
            own = (group * ROWS + r) * UNITS + k
            g = tl.load(lost + own, mask=known, other=0.0)
            y = tl.where(g != 0, tl.load(value + own, mask=known, other=0.0), 0.0)
            place = group * strides[0] + r * strides[1] + v * strides[2]
            x = tl.load(potentials + place, mask=there, other=float("-inf")).to(tl.float32)
            term = tl.where((g != 0)[None, :], w + x[:, None] - y[None, :], float("-inf"))
            result += tl.exp(term) * g[None, :]
    tl.store(out + at, result, mask=mask)


@triton.jit
def listed_gradient_kernel(
    potentials, strides, top, table, log, log_strides, u, lost, value, out, keys, order, ends, rows,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each listed entry and tile of units: the first of a category adds them up."""
    unit_tiles: tl.constexpr = (UNITS + BLOCK_K - 1) // BLOCK_K
    k = (tl.program_id(0) % unit_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    known = k < UNITS
    place = (tl.program_id(0) // unit_tiles).to(tl.int64)
    key = tl.load(keys + place)
    before = tl.load(keys + place - 1, mask=place > 0, other=-1)
    if (key != before) & (key < GROUPS * CATEGORIES):
        group, category = key // CATEGORIES, key % CATEGORIES
        w = log + group * log_strides[0] + category * log_strides[2] + k * log_strides[1]
        weight = tl.load(w, mask=known, other=float("-inf"))
        acc = tl.zeros((BLOCK_K,), dtype=tl.float32)
        exact = tl.zeros((BLOCK_K,), dtype=tl.float32)
        end = tl.load(ends + place)
        while place < end:
            entry = tl.load(order + place)
            number = entry // WIDTH
            row = number % rows
            at = group * strides[0] + row * strides[1] + (entry % WIDTH) * strides[2]
            x = tl.load(potentials + at).to(tl.float32)
            peak = tl.load(top + number)
            living = peak > float("-inf")
            e = tl.where(living, tl.exp(tl.where(living, x - peak, 0.0)), 0.0)
            acc += e * tl.load(u + number * UNITS + k, mask=known, other=0.0)
            g = tl.load(lost + number * UNITS + k, mask=known, other=0.0)
            y = tl.load(value + number * UNITS + k, mask=known & (g != 0), other=0.0)
            exact += tl.exp(tl.where(g != 0, weight + x - y, float("-inf"))) * g
            place += 1
        t = tl.load(table + key * UNITS + k, mask=known, other=0.0).to(tl.float32)
        tl.store(out + key * UNITS + k, acc * t + exact, mask=known)
