"""How kernels are started: where they can run, how work is cut into tiles, what is launched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton

# Programs that keep every multiprocessor of a large device busy.
_ENOUGH_PROGRAMS = 256
# Fewest rows and columns of a matrix product on tensor cores.
_LEAST = 16


@dataclass(frozen=True)
class Launch:
    """One kernel with all it is given; what the compiler sees can be read from it.

    Attributes:
        kernel: A function under `triton.jit`.
        programs: Number of programs.
        arguments: Parameter name -> tensor, number, tuple or compile-time constant.
        options: Of the compiler: `num_warps`, `num_stages`.
    """

    kernel: Any
    programs: int
    arguments: Mapping[str, Any]
    options: Mapping[str, int]

    def run(self) -> None:
        """Starts the kernel, on the current device and stream."""
        if self.programs > 0:
            self.kernel[(self.programs,)](**self.arguments, **self.options)


@dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles of one kernel.

    Attributes:
        rows: Examples; 1 where every example has weights of its own.
        columns: Units that a program computes.
        depth: Units that it multiplies at a time.
        warps: Warps of a program.
        stages: Loads in flight.
    """

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3

    @property
    def options(self) -> dict[str, int]:
        """As options of the compiler."""
        return {"num_warps": self.warps, "num_stages": self.stages}


def interpreted() -> bool:
    """Whether Triton interprets kernels, so that they run on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def against_device(device: torch.device) -> str | None:
    """Why kernels cannot run on tensors of a device; None if they can."""
    if device.type == "cuda" or (device.type == "cpu" and interpreted()):
        return None
    return f"the parameters are on a device of type {device.type!r}, not on a CUDA device"


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes the device the current one, where kernels are launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def precision_of(dtype: torch.dtype, precision: str | None) -> str:
    """How numbers of a type are multiplied: on tensor cores without loss, unless asked for less.

    Args:
        dtype: Of values and weights.
        precision: "ieee", "tf32x3" (three products of 11-bit parts, about float32), "tf32"
            (relative errors of 5e-4 a product); None for the default.
    """
    if dtype == torch.float64:
        return "ieee"
    return precision or "tf32x3"


def tiles_of(
    folds: int,
    rows: int,
    columns: int,
    depth: int,
    *,
    each: bool,
    dtype: torch.dtype,
    pairs: bool = False,
) -> Tiles:
    """Tiles of a product of (rows, depth) with (depth, columns), `folds` times.

    Rows are padded to the 16 of a tensor core's tile and go up to 64. Columns are cut until there
    are programs for every multiprocessor.

    Args:
        folds: Number of products.
        rows: Examples B.
        columns: Units that are computed.
        depth: Units that are summed over.
        each: Whether every example has weights of its own, so that rows cannot be shared.
        dtype: Of the numbers.
        pairs: Whether each tile goes through many products, so that it is cut no further.
    """
    if each:
        return Tiles(1, _power(columns, 1, 16), _power(depth, 1, 128))
    wide = 64 if dtype == torch.float32 else 32
    own_rows = _power(rows, _LEAST, wide)
    own_columns = _power(columns, _LEAST, wide)
    row_tiles = folds * triton.cdiv(rows, own_rows)
    while (
        not pairs
        and own_columns > _LEAST
        and row_tiles * triton.cdiv(columns, own_columns) < _ENOUGH_PROGRAMS
    ):
        own_columns //= 2
    # A narrow product reads more of the table at a time; a wide one needs registers of more warps.
    deep = 64 if own_rows == _LEAST and dtype == torch.float32 else 32
    warps = 8 if own_rows * own_columns > 2048 else 4
    return Tiles(own_rows, own_columns, _power(depth, _LEAST, deep), warps)


def row_blocks(units: int, width: int, *, dtype: torch.dtype, each: bool) -> Tiles:
    """Tiles of the gradient of a table: (units, width) in `rows` and `columns`, examples deep."""
    if each:
        return Tiles(_power(units, 1, 16), _power(width, 1, 128), 1)
    wide = 64 if dtype == torch.float32 else 32
    rows, columns = _power(units, _LEAST, wide), _power(width, _LEAST, wide)
    return Tiles(rows, columns, 32, 8 if rows * columns > 2048 else 4)


def _power(size: int, least: int, most: int) -> int:
    """The power of two that covers a size, within bounds."""
    return min(max(int(triton.next_power_of_2(size)), least), most)
