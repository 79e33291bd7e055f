"""What an evaluation has computed, and what of it the gradient is given."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.arenas import Arenas, lent
from pcircuits.execute.fused.rows import InputRows


@dataclass(frozen=True, eq=False)
class Kept:
    """What the gradient needs of an evaluation.

    Attributes:
        inputs: Units K -> rows of the inputs.
        arenas: Rows of the sums, which are only those of the last ones where the program does not
            reread them, and of the products.
        exact: Sum layer -> rows of its products with the part NaN, and for each factor the (n, K)
            products divided by its values.
    """

    inputs: Mapping[int, InputRows]
    arenas: Arenas
    exact: dict[int, tuple[Tensor, ...]]

    def fold(self, units: int, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and scales where a fold of K units is, and the (B,) rows of it."""
        (folds, sums), batch = self.arenas.sums[units], self.arenas.sizes.batch
        values, scales, rows = self.inputs[units].arrays if place < folds else sums
        first = (place if place < folds else place - folds) * batch
        return values, scales, rows[first : first + batch]

    def pack(self) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Kept]]:
        """Its tensors, and what makes it from them again, which holds on to none of them.

        The arenas are free for other calls when the tensors are gone.
        """
        sizes, alive = self.arenas.sizes, weakref.ref(self.arenas)
        others = {i: (own.scales, own.rows, own.in_table) for i, own in self.inputs.items()}
        counts = {i: len(own) for i, own in self.exact.items()}
        tensors = [lent(self.arenas)]
        tensors += [torch.from_numpy(own.values) for own in self.inputs.values()]
        tensors += [tensor for own in self.exact.values() for tensor in own]

        def unpack(saved: Sequence[Tensor]) -> Kept:
            block, *rest = saved
            left = iter(rest)
            inputs = {i: InputRows(next(left).numpy(), *own) for i, own in others.items()}
            exact = {i: tuple(next(left) for _ in range(count)) for i, count in counts.items()}
            arenas = alive()
            if arenas is None or arenas.address != block.data_ptr():
                arenas = Arenas(sizes, block.numpy())  # hooks have put it elsewhere meanwhile
            return Kept(inputs, arenas, exact)

        return tensors, unpack
