# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""From units down to categories: sums over the units of factor times table, and their use.

One more stream of the table gives the posterior of every category (the gradient of the
potentials), its leave-one-out prediction, or the potentials that proportional fitting takes next.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.tables import FLOOR, Table
from pcircuits.execute.triton.tables_listed import epilogue, listed_down_launch, row_log_sum
from pcircuits.execute.triton.tiles import block

SHARES, LEAVE_ONE_OUT, MOVED = 0, 1, 2


def shares(
    table: Table, potentials: Tensor, top: Tensor, factors: Tensor, categories: Tensor | None = None
) -> Tensor:
    """exp(potentials[g, r, v] - top[g, r]) sum_k factors[g, r, k] linear[g, v, k].

    Args:
        table: Tables of G groups.
        potentials: (G, R, V), or (G, R, J) with `categories`.
        top: (G, R); rows of -inf give zero.
        factors: (G, R, K) in linear space, contiguous.
        categories: (G, R, J) int64, contiguous; None = all.

    Returns:
        (G, R, V) or (G, R, J).
    """
    out = factors.new_empty(potentials.shape)
    _run(table, down_arguments(factors, top, potentials, out, SHARES), categories)
    return out


def log_leave_one_out(table: Table, messages: Tensor, categories: Tensor | None = None) -> Tensor:
    """Logarithm of each category's probability given what the rest of the circuit says.

    Args:
        table: Tables of G groups.
        messages: (G, R, K) log-messages to the units.
        categories: (G, R, J) int64, contiguous, those that are asked for; None = all.

    Returns:
        (G, R, V) or (G, R, J), normalised over all V categories; -inf where impossible.
    """
    groups, rows, _ = messages.shape
    width = table.log.shape[2] if categories is None else categories.shape[2]
    out = messages.new_empty(groups, rows, width)
    _from_messages(table, messages, out, out, categories, out, LEAVE_ONE_OUT, 1.0, 0.0)
    return out


def moved_potentials(
    table: Table,
    messages: Tensor,
    potentials: Tensor,
    target: Tensor,
    size: float,
    largest: float,
    categories: Tensor | None = None,
) -> Tensor:
    """Potentials after one sweep of proportional fitting, in the same stream of the table.

    (1 - size) potentials + size min(target - log leave-one-out, largest), -inf where the target is.

    Args:
        table: Tables of G groups.
        messages: (G, R, K) log-messages to the units.
        potentials: (G, R, V), or (G, R, J) with `categories`: those of before.
        target: The log-probabilities to reach, of the same shape.
        size: How far to move, in (0, 1].
        largest: Largest log-potential.
        categories: (G, R, J) int64, contiguous; None = all.

    Returns:
        A new tensor of the same shape.
    """
    out = messages.new_empty(potentials.shape)
    _from_messages(table, messages, potentials, target, categories, out, MOVED, size, largest)
    return out


def _from_messages(
    table: Table,
    messages: Tensor,
    potentials: Tensor,
    target: Tensor,
    categories: Tensor | None,
    out: Tensor,
    mode: int,
    size: float,
    largest: float,
) -> None:
    factors, top = table.factors(messages)
    rows = messages + table.log_row_sums[:, None]
    total = rows.logsumexp(-1)
    # Of a row that nothing allows all categories are -inf: nothing may become NaN.
    norm = total.masked_fill(total == -torch.inf, 0.0)
    given = {
        **down_arguments(factors, top - norm, potentials, out, mode),
        "messages": messages.contiguous(),
        "norm": norm,
        "target": target,
        "target_strides": target.stride(),
        "size": float(size),
        "largest": float(largest),
    }
    _run(table, given, categories)


def down_arguments(
    factors: Tensor, base: Tensor, potentials: Tensor, out: Tensor, mode: int
) -> dict[str, object]:
    """Arguments of both forms; what shares do not read is filled with what they do."""
    return {
        "factors": factors,
        "messages": factors,
        "base": base,
        "norm": base,
        "potentials": potentials,
        "strides": potentials.stride(),
        "target": potentials,
        "target_strides": potentials.stride(),
        "out": out,
        "size": 1.0,
        "largest": 0.0,
        "MODE": mode,
    }


def _run(table: Table, given: Mapping[str, object], categories: Tensor | None) -> None:
    if categories is not None:
        listed_down_launch(table, given, categories).run()
        return
    for launch in down_launches(table, given):
        launch.run()


def down_launches(table: Table, given: Mapping[str, object]) -> list[Launch]:
    """The stream of the table and, but for shares, the repair of what underflowed."""
    factors = given["factors"]
    assert isinstance(factors, Tensor)
    groups, rows, units = factors.shape
    categories = table.log.shape[2]
    br, bv, bk = block(rows, 16, 64), 128, block(units, 16, 32)
    tiles = groups * triton.cdiv(rows, br) * triton.cdiv(categories, bv)
    common = {
        **given,
        "rows": rows,
        "lost": torch.empty(tiles, dtype=torch.uint8, device=factors.device),
        "UNITS": units,
        "CATEGORIES": categories,
        "FLOOR": FLOOR,
        "BLOCK_R": br,
        "BLOCK_V": bv,
        "BLOCK_K": bk,
    }
    stream = {
        **common,
        "table": table.linear,
        "possible": table.possible,
        "PRECISION": table.dot_precision,
    }
    del stream["messages"], stream["norm"]
    options = {"num_warps": 4 if br < 64 else 8, "num_stages": 3}
    found = [Launch(down_kernel, tiles, stream, options)]
    if given["MODE"] != SHARES:
        repair = {**common, "log": table.log, "log_strides": table.log.stride()}
        del repair["factors"], repair["base"]
        programs = groups * rows * triton.cdiv(categories, bv)
        found.append(Launch(repair_kernel, programs, repair, {"num_warps": 4}))
    return found


@triton.jit
def down_kernel(
    factors, base, potentials, strides, target, target_strides, out, size, largest, rows, lost,
    table, possible,
    MODE: tl.constexpr, UNITS: tl.constexpr, CATEGORIES: tl.constexpr, FLOOR: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each group, tile of categories and tile of rows."""
    row_tiles = tl.cdiv(rows, BLOCK_R)
    category_tiles: tl.constexpr = (CATEGORIES + BLOCK_V - 1) // BLOCK_V
    r = (tl.program_id(0) % row_tiles) * BLOCK_R + tl.arange(0, BLOCK_R)
    rest = tl.program_id(0) // row_tiles
    v = (rest % category_tiles) * BLOCK_V + tl.arange(0, BLOCK_V)
    group = (rest // category_tiles).to(tl.int64)
    inside, there = r < rows, v < CATEGORIES
    acc = tl.zeros((BLOCK_R, BLOCK_V), dtype=tl.float32)
    own = factors + (group * rows + r)[:, None] * UNITS
    columns = table + (group * CATEGORIES + v)[:, None] * UNITS
    for start in range(0, UNITS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        known = (k < UNITS)[None, :]
        f = tl.load(own + k[None, :], mask=inside[:, None] & known, other=0.0)
        t = tl.load(columns + k[None, :], mask=there[:, None] & known, other=0.0)
        acc = tl.dot(f.to(t.dtype), tl.trans(t), acc, input_precision=PRECISION)
    mask = inside[:, None] & there[None, :]
    shift = tl.load(base + group * rows + r, mask=inside, other=0.0)[:, None]
    n = r.to(tl.int64)[:, None]
    at = group * strides[0] + n * strides[1] + v[None, :] * strides[2]
    if MODE == 0:
        x = tl.load(potentials + at, mask=mask, other=float("-inf")).to(tl.float32)
        alive = shift > float("-inf")
        x = tl.where(alive, x, float("-inf")) - tl.where(alive, shift, 0.0)
        result = tl.exp(x) * acc
    else:
        allowed = tl.load(possible + group * CATEGORIES + v, mask=there, other=0) > 0
        low = (acc <= FLOOR) & mask
        log = tl.where(acc > FLOOR, tl.log(tl.where(acc > FLOOR, acc, 1.0)) + shift, float("-inf"))
        goals = group * target_strides[0] + n * target_strides[1] + v[None, :] * target_strides[2]
        result = epilogue(log, potentials + at, target + goals, mask, size, largest, MODE)
        low = low & allowed[None, :]
        # Nothing else is +inf: it marks what the second kernel computes anew.
        result = tl.where(low, float("inf"), result)
        tl.store(lost + tl.program_id(0), tl.max(tl.max(low.to(tl.int32), 1), 0).to(tl.uint8))
    tl.store(out + (group * rows + n) * CATEGORIES + v[None, :], result, mask=mask)


@triton.jit
def repair_kernel(
    messages, norm, potentials, strides, target, target_strides, out, size, largest, rows, lost,
    log, log_strides,
    MODE: tl.constexpr, UNITS: tl.constexpr, CATEGORIES: tl.constexpr, FLOOR: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each row and tile of categories; most look at a flag and end."""
    row_tiles = tl.cdiv(rows, BLOCK_R)
    category_tiles: tl.constexpr = (CATEGORIES + BLOCK_V - 1) // BLOCK_V
    tile = tl.program_id(0) % category_tiles
    number = (tl.program_id(0) // category_tiles).to(tl.int64)
    group, row = number // rows, number % rows
    flag = (group * category_tiles + tile) * row_tiles + row // BLOCK_R
    if tl.load(lost + flag) > 0:
        v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        there = v < CATEGORIES
        before = tl.load(out + number * CATEGORIES + v, mask=there, other=0.0)
        wanted = there & (before == float("inf"))
        found = row_log_sum(
            messages + number * UNITS, log + group * log_strides[0], log_strides, v, there,
            UNITS, BLOCK_V, BLOCK_K,
        )  # fmt: skip
        found -= tl.load(norm + number)
        at = potentials + group * strides[0] + row * strides[1] + v * strides[2]
        goals = target + group * target_strides[0] + row * target_strides[1]
        goals += v * target_strides[2]
        result = epilogue(found, at, goals, there, size, largest, MODE)
        tl.store(out + number * CATEGORIES + v, result, mask=wanted)
