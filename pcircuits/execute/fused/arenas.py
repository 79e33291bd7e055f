"""Where an evaluation keeps its rows: all in one block of memory, which the gradient is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pcircuits.execute.fused.memory import Wanted, block_for, carve
from pcircuits.execute.fused.program import Program

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

    @classmethod
    def of(
        cls,
        program: Program,
        folds: Mapping[int, int],
        products: Mapping[int, int],
        batch: int,
        dtype: torch.dtype,
    ) -> Sizes:
        """Rows for so many folds (units -> folds) of sums and of products, of a batch."""
        units = tuple(program.input_folds)
        rows, of_products = (
            tuple(own.get(k, 0) * batch for k in units) for own in (folds, products)
        )
        return cls(units, rows, of_products, batch, dtype)


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
        dtype = _NUMBERS[sizes.dtype]
        wanted: Wanted = [
            ((sum(sizes.values),), np.dtype(np.float64)),
            *(((n, k), dtype) for n, k in zip(sizes.values, sizes.units, strict=True)),
            *(((n, k), dtype) for n, k in zip(sizes.products, sizes.units, strict=True)),
            *(((n,), dtype) for n in sizes.products),
        ]
        self.sizes = sizes
        self.block = block_for(wanted) if block is None else block
        self.scales, *made = carve(self.block, wanted)
        left = iter(made)
        self.values, self.products, self.parts = (
            {k: next(left) for k in sizes.units} for _ in range(3)
        )

    @cached_property
    def addresses(self) -> np.ndarray:
        """Addresses of the rows of sums, in the order of the arenas."""
        return np.array([own.ctypes.data for own in self.values.values()])

    @cached_property
    def first_scales(self) -> np.ndarray:
        """Where the scales of each arena begin."""
        return np.cumsum((0, *self.sizes.values[:-1]))

    def scales_of(self, units: int) -> np.ndarray:
        """(N,) scales of the rows of K units."""
        number = self.sizes.units.index(units)
        first = int(self.first_scales[number])
        return self.scales[first : first + self.sizes.values[number]]
