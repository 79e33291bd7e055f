"""Where an evaluation keeps its rows: all in one block of memory, which the gradient is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.memory import Wanted, block_for, carve
from pcircuits.execute.fused.program import Program

# Batch sizes and types that a program remembers the sizes for.
_MOST_SIZES = 16
_NUMBERS: dict[torch.dtype, np.dtype] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}


@dataclass(frozen=True)
class Sizes:
    """Numbers of rows.

    Attributes:
        units: Units K of each arena, as in `Program.input_folds`.
        values: Rows of sums in each.
        products: Rows of elementwise products in each.
        batch: Rows of a fold, one for each example.
        dtype: Type of the numbers.
    """

    units: tuple[int, ...]
    values: tuple[int, ...]
    products: tuple[int, ...]
    batch: int
    dtype: torch.dtype

    @cached_property
    def wanted(self) -> Wanted:
        """Shapes and types of all arrays."""
        dtype = _NUMBERS[self.dtype]
        return [
            ((sum(self.values),), np.dtype(np.float64)),
            *(((n, k), dtype) for n, k in zip(self.values, self.units, strict=True)),
            *(((n, k), dtype) for n, k in zip(self.products, self.units, strict=True)),
            *(((n,), dtype) for n in self.products),
        ]

    @cached_property
    def first_scales(self) -> np.ndarray:
        """Where the scales of each arena begin."""
        return np.cumsum((0, *self.values[:-1]))

    @cached_property
    def scales_of(self) -> dict[int, slice]:
        """K -> where its scales are."""
        places = zip(self.units, self.first_scales.tolist(), self.values, strict=True)
        return {k: slice(first, first + n) for k, first, n in places}


def tensor_of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An unset tensor in a block of its own."""
    wanted = [(shape, _NUMBERS[dtype])]
    return torch.from_numpy(carve(block_for(wanted), wanted)[0])


_SIZES: WeakKeyDictionary[Program, dict[tuple[object, ...], Sizes]] = WeakKeyDictionary()


def sizes_of(
    program: Program,
    folds: Mapping[int, int],
    products: Mapping[int, int],
    batch: int,
    dtype: torch.dtype,
) -> Sizes:
    """Rows for so many folds (units -> folds) of sums and of products, of a batch; found once."""
    known = _SIZES.setdefault(program, {})
    key = (id(folds), id(products), batch, dtype)
    if key not in known:
        if len(known) >= _MOST_SIZES:
            known.clear()
        units = tuple(program.input_folds)
        rows, of_products = (
            tuple(own.get(k, 0) * batch for k in units) for own in (folds, products)
        )
        known[key] = Sizes(units, rows, of_products, batch, dtype)
    return known[key]


class Arenas:
    """Rows of sums and of products, for each number of units K.

    Args:
        sizes: How many.
        block: The memory; fresh by default.

    Attributes:
        sizes: How many.
        block: The memory, bytes.
        values: K -> (N, K) rows of sums, divided by exp of their scales.
        scales: (all N,) scales of the rows of all K, one after the other, float64.
        products: K -> (P, K) rows of elementwise products, divided by their sums.
        parts: K -> (P,) what they were multiplied with for it.
    """

    def __init__(self, sizes: Sizes, block: np.ndarray | None = None) -> None:
        self.sizes = sizes
        self.block = block_for(sizes.wanted) if block is None else block
        self.scales, *made = carve(self.block, sizes.wanted)
        number = len(sizes.units)
        self.values, self.products, self.parts = (
            dict(zip(sizes.units, made[i * number : (i + 1) * number], strict=True))
            for i in range(3)
        )

    @cached_property
    def addresses(self) -> np.ndarray:
        """Addresses of the rows of sums, in the order of the arenas."""
        return np.array([own.ctypes.data for own in self.values.values()])

    def scales_of(self, units: int) -> np.ndarray:
        """(N,) scales of the rows of K units."""
        return self.scales[self.sizes.scales_of[units]]
