# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Top-down samples of a chain by inversion: states in one launch, then categories given them.

Each draw takes the first index at which the cumulative weight exceeds uniform times total, among
those of positive weight, so that rounding never picks what is impossible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcircuits.execute.triton.launch import Launch


def draw_states(initial: Tensor, transitions: Tensor, inside: Tensor, uniforms: Tensor) -> Tensor:
    """States of every sample.

    Args:
        initial: (K,) log-weights of the first state, contiguous.
        transitions: Contiguous log-weights (T, K, K), T = 1 where all steps share them, else L - 1.
        inside: (L, B, K) log-values of what follows from each state on, contiguous.
        uniforms: (B, S, L, 2) in [0, 1), contiguous; the first of each pair counts.

    Returns:
        (B, S, L) int64.
    """
    states = torch.empty(uniforms.shape[:3], dtype=torch.int64, device=inside.device)
    states_launch(initial, transitions, inside, uniforms, states).run()
    return states


def states_launch(
    initial: Tensor, transitions: Tensor, inside: Tensor, uniforms: Tensor, states: Tensor
) -> Launch:
    """One program for each sample goes along the chain."""
    length, batch, units = inside.shape
    samples = uniforms.shape[1]
    block = max(16, triton.next_power_of_2(units))
    arguments = {
        "initial": initial,
        "transitions": transitions,
        "step": 0 if len(transitions) <= 1 else units * units,
        "inside": inside,
        "uniforms": uniforms,
        "states": states,
        "batch": batch,
        "samples": samples,
        "LENGTH": length,
        "UNITS": units,
        "BLOCK_K": block,
    }
    return Launch(
        states_kernel, batch * samples, arguments, {"num_warps": min(8, block // 32 or 1)}
    )


def draw_categories(
    log: Tensor,
    states: Tensor,
    potentials: Tensor,
    uniforms: Tensor,
    temperature: float,
    categories: Tensor | None = None,
) -> Tensor:
    """A category of every variable, given its state and its potentials.

    Args:
        log: (G, K, V) log-weights, G = 1 or L.
        states: (B, S, L) int64, contiguous.
        potentials: (B, L, V), or (B, L, J) with `categories`.
        uniforms: (B, S, L, 2) in [0, 1), contiguous; the second of each pair counts.
        temperature: Divides log-weights; 0 takes the largest.
        categories: (B, L, J) int64, contiguous; None = all.

    Returns:
        (B, S, L) int64.
    """
    found = torch.empty_like(states)
    for launch in category_launches(
        log, states, potentials, uniforms, temperature, categories, found
    ):
        launch.run()
    return found


def category_launches(
    log: Tensor,
    states: Tensor,
    potentials: Tensor,
    uniforms: Tensor,
    temperature: float,
    categories: Tensor | None,
    found: Tensor,
) -> tuple[Launch, Launch]:
    """Maxima and sums of all tiles, then the choice of a tile and of a category within it."""
    rows, width, bv = states.numel(), potentials.shape[2], 1024
    tiles = triton.cdiv(width, bv)
    peaks, sums = (torch.empty(rows, tiles, device=log.device) for _ in range(2))
    common = {
        "log": log,
        "log_strides": (log.stride(0) if len(log) > 1 else 0, *log.stride()[1:]),
        "states": states,
        "potentials": potentials,
        "strides": potentials.stride(),
        "listed": states if categories is None else categories,
        "peaks": peaks,
        "sums": sums,
        "sharpness": 1.0 / temperature if temperature > 0 else 1.0,
        "samples": states.shape[1],
        "LENGTH": states.shape[2],
        "CATEGORIES": log.shape[2],
        "WIDTH": width,
        "TILES": tiles,
        "LISTED": categories is not None,
        "BLOCK_V": bv,
    }
    pick = {
        **common,
        "uniforms": uniforms,
        "found": found,
        "GREEDY": temperature == 0,
        "BLOCK_T": max(16, triton.next_power_of_2(tiles)),
    }
    return (
        Launch(tiles_kernel, rows * tiles, common, {"num_warps": 4}),
        Launch(pick_kernel, rows, pick, {"num_warps": 4}),
    )


@triton.jit
def states_kernel(
    initial, transitions, step, inside, uniforms, states, batch, samples,
    LENGTH: tl.constexpr, UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program for each sample; see `draw_states`."""
    sample = tl.program_id(0).to(tl.int64)
    example = sample // samples
    k = tl.arange(0, BLOCK_K)
    known = k < UNITS
    row = tl.load(initial + k, mask=known, other=float("-inf"))
    for t in range(LENGTH):
        at = (t * batch + example) * UNITS + k
        x = row + tl.load(inside + at, mask=known, other=float("-inf"))
        top = tl.max(x, 0)
        u = tl.load(uniforms + (sample * LENGTH + t) * 2)
        state = invert(tl.exp(x - tl.where(top > float("-inf"), top, 0.0)), u, BLOCK_K)
        tl.store(states + sample * LENGTH + t, state.to(tl.int64))
        if t + 1 < LENGTH:
            own = transitions + t * step + state.to(tl.int64) * UNITS
            row = tl.load(own + k, mask=known, other=float("-inf"))


@triton.jit
def invert(p, u, BLOCK: tl.constexpr):
    """First index with a cumulative weight above u times the total, of positive weight itself."""
    index = tl.arange(0, BLOCK)
    cumulative = tl.cumsum(p, 0)
    total = tl.max(cumulative, 0)
    reached = (cumulative > u * total) & (p > 0)
    first = tl.min(tl.where(reached, index, BLOCK), 0)
    # Rounding may leave none: then the last possible one.
    last = tl.max(tl.where(p > 0, index, 0), 0)
    return tl.where(first < BLOCK, first, last)


@triton.jit
def category_logits(
    log, log_strides, states, potentials, strides, listed, sharpness, samples, row, j,
    LENGTH: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Sharpened log-weights of a tile of categories, or of a list's entries."""
    position, example = row % LENGTH, row // (LENGTH * samples)
    place = example * LENGTH + position
    v = tl.load(listed + place * WIDTH + j, mask=j < WIDTH, other=CATEGORIES) if LISTED else j
    there = (j < WIDTH) & (v < CATEGORIES)
    own = position * log_strides[0] + tl.load(states + row) * log_strides[1]
    w = tl.load(log + own + v.to(tl.int64) * log_strides[2], mask=there, other=float("-inf"))
    at = example * strides[0] + position * strides[1] + j * strides[2]
    x = tl.load(potentials + at, mask=there, other=float("-inf")).to(tl.float32)
    return (w + x) * sharpness


@triton.jit
def tiles_kernel(
    log, log_strides, states, potentials, strides, listed, peaks, sums, sharpness, samples,
    LENGTH: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
    LISTED: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One program for each variable of each sample and tile: the tile's maximum and sum."""
    row = (tl.program_id(0) // TILES).to(tl.int64)
    tile = tl.program_id(0) % TILES
    j = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    x = category_logits(
        log, log_strides, states, potentials, strides, listed, sharpness, samples, row, j,
        LENGTH, CATEGORIES, WIDTH, LISTED,
    )  # fmt: skip
    peak = tl.max(x, 0)
    total = tl.sum(tl.exp(x - tl.where(peak > float("-inf"), peak, 0.0)), 0)
    tl.store(peaks + row * TILES + tile, peak)
    tl.store(sums + row * TILES + tile, total)


@triton.jit
def pick_kernel(
    log, log_strides, states, potentials, strides, listed, peaks, sums, sharpness, samples,
    uniforms, found,
    LENGTH: tl.constexpr, CATEGORIES: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
    LISTED: tl.constexpr, BLOCK_V: tl.constexpr, GREEDY: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One program for each variable of each sample: the tile, then the category in it."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK_T)
    peak = tl.load(peaks + row * TILES + i, mask=i < TILES, other=float("-inf"))
    total = tl.load(sums + row * TILES + i, mask=i < TILES, other=0.0)
    top = tl.max(peak, 0)
    top = tl.where(top > float("-inf"), top, 0.0)
    mass = tl.exp(peak - top) * total
    u = tl.load(uniforms + row * 2 + 1)
    if GREEDY:
        tile = tl.min(tl.where(peak == tl.max(peak, 0), i, BLOCK_T), 0)
    else:
        tile = invert(mass, u, BLOCK_T)
    j = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    x = category_logits(
        log, log_strides, states, potentials, strides, listed, sharpness, samples, row, j,
        LENGTH, CATEGORIES, WIDTH, LISTED,
    )  # fmt: skip
    if GREEDY:
        place = tl.min(tl.where(x == tl.max(x, 0), tl.arange(0, BLOCK_V), BLOCK_V), 0)
    else:
        # What is left of the uniform after the tiles before, as a share of this tile.
        before = tl.sum(tl.where(i < tile, mass, 0.0), 0)
        own = tl.sum(tl.where(i == tile, mass, 0.0), 0)
        cumulative = tl.max(tl.cumsum(mass, 0), 0)
        share = (u * cumulative - before) / tl.where(own > 0, own, 1.0)
        share = tl.minimum(tl.maximum(share, 0.0), 1.0)
        place = invert(tl.exp(x - top), share, BLOCK_V)
    index = (tile * BLOCK_V + place).to(tl.int64)
    if LISTED:
        example = row // (LENGTH * samples)
        at = (example * LENGTH + row % LENGTH) * WIDTH + index
        index = tl.load(listed + at)
    tl.store(found + row, index)
