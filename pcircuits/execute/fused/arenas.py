"""Where an evaluation keeps its rows: all in one block of memory, which the gradient is given.

Arenas are objects that later calls take again, with all that depends on nothing but the program and
the number of examples: where the rows of each sum are is found once.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.memory import LARGEST, NUMBERS, Wanted, block_for, carve
from pcircuits.execute.fused.program import Layout, Program, Run
from pcircuits.execute.fused.runs import Shared

# Layouts, batch sizes and types that a program remembers the sizes for.
_MOST_SIZES = 16
# Arenas that are kept for later calls.
_MOST_FREE = 6


@dataclass(frozen=True, eq=False)
class Step:
    """Where the rows of a run of sums are.

    Attributes:
        shared: (factors, shapes, starts, num_units, tables) of the run; see `Run` and `Layout`.
        arenas: (S,) see `Run`.
        firsts: (S,) first row of each sum in its arena.
        products: (S,) first row of each sum's products.
        never: (S,) False.
    """

    shared: Shared
    arenas: np.ndarray
    firsts: np.ndarray
    products: np.ndarray
    never: np.ndarray

    @classmethod
    def of(cls, run: Run, layout: Layout, number: int, batch: int, *, keep: bool) -> Step:
        """Of a run, the given one of the program, for examples of a number."""
        return cls(
            shared=(layout.factors[number], run.shapes, run.starts, run.num_units, run.tables),
            arenas=run.arenas,
            firsts=layout.firsts[number] * batch,
            products=run.products * batch if keep else np.zeros_like(run.products),
            never=np.zeros(len(run.sums), bool),
        )


@dataclass(frozen=True, eq=False)
class Sizes:
    """Numbers of rows.

    Attributes:
        units: Units K of each arena, as in `Program.input_folds`.
        inputs: Folds of inputs of so many units.
        values: Rows of sums in each.
        products: Rows of elementwise products in each.
        batch: Rows of a fold, one for each example.
        dtype: Type of the numbers.
        steps: Of each run of the program, where its rows are.
    """

    units: tuple[int, ...]
    inputs: tuple[int, ...]
    values: tuple[int, ...]
    products: tuple[int, ...]
    batch: int
    dtype: torch.dtype
    steps: tuple[Step, ...]

    @cached_property
    def wanted(self) -> Wanted:
        """Shapes and types of all arrays."""
        dtype = NUMBERS[self.dtype]
        return [
            ((sum(self.values),), np.dtype(np.float64)),
            *(((n, k), dtype) for n, k in zip(self.values, self.units, strict=True)),
            *(((n, k), dtype) for n, k in zip(self.products, self.units, strict=True)),
            *(((n,), dtype) for n in self.products),
        ]

    @cached_property
    def leaf_rows(self) -> dict[int, np.ndarray]:
        """K -> (F * B,) 0, 1, .. for each fold and example of inputs of so many units."""
        return {
            k: np.arange(folds * self.batch)
            for k, folds in zip(self.units, self.inputs, strict=True)
        }

    @cached_property
    def first_scales(self) -> np.ndarray:
        """Where the scales of each arena begin."""
        return np.cumsum((0, *self.values[:-1]))


_Key = tuple[Layout, int, torch.dtype, bool]
_SIZES: WeakKeyDictionary[Program, dict[_Key, Sizes]] = WeakKeyDictionary()


def sizes_of(
    program: Program, layout: Layout, batch: int, dtype: torch.dtype, *, keep: bool
) -> Sizes:
    """Rows of a program's sums in one of its layouts, found once.

    Args:
        program: The program.
        layout: The layout.
        batch: Examples.
        dtype: Type of the numbers.
        keep: Whether elementwise products have a place for each sum; else they share one.
    """
    known = _SIZES.setdefault(program, {})
    key = (layout, batch, dtype, keep)
    if key not in known:
        if len(known) >= _MOST_SIZES:
            known.clear()
        known[key] = _sizes(program, layout, batch, dtype, keep=keep)
    return known[key]


def _sizes(
    program: Program, layout: Layout, batch: int, dtype: torch.dtype, *, keep: bool
) -> Sizes:
    units = tuple(program.input_folds)
    products = program.product_folds if keep else program.product_folds_at_once
    steps = (Step.of(run, layout, n, batch, keep=keep) for n, run in enumerate(program.runs))
    return Sizes(
        units=units,
        inputs=tuple(program.input_folds.values()),
        values=tuple(layout.folds.get(k, 0) * batch for k in units),
        products=tuple(products.get(k, 0) * batch for k in units),
        batch=batch,
        dtype=dtype,
        steps=tuple(steps),
    )


class Arenas:
    """Rows of sums and of products, for each number of units K.

    Args:
        sizes: How many.
        block: The memory; fresh by default.

    Attributes:
        sizes: How many.
        block: The memory, bytes.
        scales: (all N,) scales of the rows of all K, one after the other, float64.
        values: K -> (N, K) rows of sums, divided by exp of their scales.
        products: K -> (P, K) rows of elementwise products, divided by their sums.
        parts: K -> (P,) what they were multiplied with for it.
        sums: K -> folds of inputs that come first, and values, scales and places of rows, as
            `kernels.multiply` takes them.
        outs: Of each run, (S,) addresses of the rows of its sums, and the first of their scales.
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
        firsts = dict(zip(sizes.units, sizes.first_scales.tolist(), strict=True))
        self.sums = {
            k: (folds, (own, self.scales[firsts[k] : firsts[k] + len(own)], np.arange(len(own))))
            for (k, own), folds in zip(self.values.items(), sizes.inputs, strict=True)
        }
        addresses = np.array([own.ctypes.data for own in self.values.values()])
        self.outs = tuple(
            (
                addresses[own.arenas] + own.firsts * own.shared[3] * sizes.dtype.itemsize,
                sizes.first_scales[own.arenas] + own.firsts,
            )
            for own in sizes.steps
        )

    @cached_property
    def address(self) -> int:
        """Where the memory is."""
        return int(self.block.ctypes.data)

    @cached_property
    def product_starts(self) -> dict[int, int]:
        """K -> where in the memory the rows of products begin."""
        return {k: own.ctypes.data - self.address for k, own in self.products.items()}

    def scales_of(self, units: int) -> np.ndarray:
        """(N,) scales of the rows of K units."""
        return self.sums[units][1][1]

    @cached_property
    def root(self) -> np.ndarray:
        """(B,) the root's values, divided by exp of their scales."""
        return self.values[1][self._root_rows, 0]

    @cached_property
    def root_scales(self) -> np.ndarray:
        """(B,) their scales."""
        return self.scales_of(1)[self._root_rows]

    @cached_property
    def _root_rows(self) -> slice:
        first = int(self.sizes.steps[-1].firsts[-1])
        return slice(first, first + self.sizes.batch)


_FREE: list[Arenas] = []


def taken(sizes: Sizes) -> Arenas:
    """Arenas that are the caller's until it gives them back, unset."""
    for arenas in reversed(tuple(_FREE)):  # the last one may still be in the caches
        if arenas.sizes is sizes and _take(arenas):
            return arenas
    return Arenas(sizes)


def give_back(arenas: Arenas) -> None:
    """Leaves arenas, of which nothing is needed any more, to later calls."""
    if len(arenas.block) <= LARGEST:
        _FREE.append(arenas)
        del _FREE[:-_MOST_FREE]


def lent(arenas: Arenas) -> Tensor:
    """The arenas' memory; when that is gone, they are given back."""
    return torch.from_numpy(_lent(arenas))


def lent_products(arenas: Arenas) -> dict[int, np.ndarray]:
    """K -> (P, K) rows of products; when all are gone, the arenas are given back."""
    own = _lent(arenas)
    return {
        k: np.ndarray(rows.shape, rows.dtype, own, arenas.product_starts[k])
        for k, rows in arenas.products.items()
    }


def _lent(arenas: Arenas) -> np.ndarray:
    # From the buffer: a view of the array would be held by nobody, only the array itself.
    own = np.frombuffer(arenas.block.data, np.uint8)
    weakref.finalize(own, give_back, arenas).atexit = False
    return own


def _take(arenas: Arenas) -> bool:
    """Takes free arenas; False if another thread was faster."""
    try:
        _FREE.remove(arenas)
    except ValueError:
        return False
    return True
