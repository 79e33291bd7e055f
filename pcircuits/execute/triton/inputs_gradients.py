# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Gradient of leaf values for the potentials: the posterior of each category, exponentials anew.

Nothing of size rows times categories is kept from the forward pass: totals and row maxima are
enough to compute each term again in one more stream of the table.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.inputs_dense import Leaves
from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import FLOOR, Table
from pcircuits.execute.triton.tables_down import shares
from pcircuits.execute.triton.tiles import block


class Scaled(NamedTuple):
    """The gradient of leaf values, divided by what they are logarithms of.

    Attributes:
        u: (G, R, K) gradient over total; zero where the total may have lost terms.
        lost: (G, R, K) the gradient of those entries that have a value all the same, else zero.
        rows: (G, R) uint8, which rows have such entries.
    """

    u: Tensor
    lost: Tensor
    rows: Tensor


def scaled(leaves: Leaves, gradient: Tensor) -> Scaled:
    """Prepares the (G, R, K) gradient of `leaves.value`."""
    low = leaves.total <= FLOOR
    # Dividing by the very totals conserves the flow, which an exponential of values would not.
    u = (gradient / leaves.total.masked_fill(low, 1.0)).masked_fill_(low, 0.0)
    lost = gradient.masked_fill(~low | (leaves.value == -torch.inf), 0.0)
    return Scaled(u.contiguous(), lost.contiguous(), (lost != 0).any(-1).to(torch.uint8))


def potential_gradient(
    table: Table, potentials: Tensor, leaves: Leaves, own: Scaled, categories: Tensor | None = None
) -> Tensor:
    """Gradient for the potentials.

    Args:
        table: Tables of G groups.
        potentials: (G, R, V), or (G, R, J) with `categories`.
        leaves: What the forward pass returned for them.
        own: The gradient of its values.
        categories: (G, R, J) int64, contiguous; None = all.

    Returns:
        (G, R, V) or (G, R, J), float32.
    """
    out = shares(table, potentials, leaves.top, own.u, categories)
    lost_launch(table, potentials, leaves, own, categories, out).run()
    return out


def lost_launch(
    table: Table,
    potentials: Tensor,
    leaves: Leaves,
    own: Scaled,
    categories: Tensor | None,
    out: Tensor,
) -> Launch:
    """Adds the terms of entries that were computed in log space."""
    groups, rows, units = own.u.shape
    width, bv = potentials.shape[2], 128
    arguments = {
        "potentials": potentials,
        "strides": potentials.stride(),
        "listed": own.rows if categories is None else categories,
        "log": table.log,
        "log_strides": table.log.stride(),
        "value": leaves.value,
        "lost": own.lost,
        "flags": own.rows,
        "out": out,
        "rows": rows,
        "UNITS": units,
        "CATEGORIES": table.log.shape[2],
        "WIDTH": width,
        "LISTED": categories is not None,
        "BLOCK_V": bv,
        "BLOCK_K": block(units, 16, 32),
    }
    return Launch(lost_kernel, groups * rows * triton.cdiv(width, bv), arguments, {"num_warps": 4})


@triton.jit
def lost_kernel(
    potentials, strides, listed, log, log_strides, value, lost, flags, out, rows,
    UNITS: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, LISTED: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each row and tile of potentials; most look at a flag and end."""
    tiles: tl.constexpr = (WIDTH + BLOCK_V - 1) // BLOCK_V
    j = (tl.program_id(0) % tiles) * BLOCK_V + tl.arange(0, BLOCK_V)
    number = (tl.program_id(0) // tiles).to(tl.int64)
    group, row = number // rows, number % rows
    if tl.load(flags + number) > 0:
        v = tl.load(listed + number * WIDTH + j, mask=j < WIDTH, other=CATEGORIES) if LISTED else j
        there = (j < WIDTH) & (v < CATEGORIES)
        at = potentials + group * strides[0] + row * strides[1] + j * strides[2]
        x = tl.load(at, mask=there, other=float("-inf")).to(tl.float32)
        acc = tl.zeros((BLOCK_V,), dtype=tl.float32)
        for start in range(0, UNITS, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            g = tl.load(lost + number * UNITS + k, mask=k < UNITS, other=0.0)
            own = tl.load(value + number * UNITS + k, mask=k < UNITS, other=0.0)
            own = tl.where(g != 0, own, 0.0)
            place = group * log_strides[0] + k[None, :].to(tl.int64) * log_strides[1]
            place += v[:, None].to(tl.int64) * log_strides[2]
            mask = there[:, None] & (g != 0)[None, :]
            w = tl.load(log + place, mask=mask, other=float("-inf"))
            acc += tl.sum(tl.exp(w + x[:, None] - own[None, :]) * g[None, :], 1)
        here = out + number * WIDTH + j
        before = tl.load(here, mask=j < WIDTH, other=0.0)
        tl.store(here, before + acc, mask=j < WIDTH)
