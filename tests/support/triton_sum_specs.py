"""The kernels of sums as circuits of real sizes launch them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.execute.triton.gradients import (
    Record,
    empty_parts,
    operand_launch,
    weights_launch,
)
from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.sums import LinearWeights, empty_sums, sum_launch
from tests.support.triton_aot import Spec


@dataclass(frozen=True)
class Layer:
    """A layer of sums over the product of two operands.

    Attributes:
        name: For messages.
        folds: Number of folds F.
        batch: Number of examples B.
        units: Units O of a sum.
        width: Units K of the product.
        groups: Tables of weights G.
        examples: Tables for each example A.
        kronecker: Whether the product holds all pairs.
        records: Layers that share the weights.
        dtype: Of all numbers.
    """

    name: str
    folds: int
    batch: int
    units: int
    width: int
    groups: int = 1
    examples: int = 1
    kronecker: bool = False
    records: int = 1
    dtype: torch.dtype = torch.float32

    def launches(self) -> Iterator[Spec]:
        """The kernels of both ways."""
        own = math.isqrt(self.width) if self.kronecker else self.width
        operands = tuple(self._empty(self.folds, self.batch, own) for _ in range(2))
        table = self._empty(self.groups, self.examples, self.units, self.width)
        weights = LinearWeights(table, table, table[..., 0])
        sums = empty_sums(operands, weights, kronecker=self.kronecker)
        yield self._spec("forward", sum_launch(operands, weights, sums, kronecker=self.kronecker))
        record = Record(operands, self.kronecker, sums.totals, sums.tops, sums.out)
        yield self._spec("values", operand_launch(record, weights)[0])
        parts = empty_parts([record] * self.records, weights)
        yield self._spec("weights", weights_launch([record] * self.records, weights, parts))

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device="meta")

    def _spec(self, kernel: str, launch: Launch) -> Spec:
        return Spec(f"{self.name}: {kernel}", launch.kernel, launch.arguments, launch.options)


LAYERS = (
    Layer("hmm 1024, batch 1", 1, 1, 1024, 1024, records=31),
    Layer("hmm 1024, batch 8", 1, 8, 1024, 1024, records=31),
    Layer("hmm 1024, batch 64", 1, 64, 1024, 1024, records=31),
    Layer("hmm 1024, float64", 1, 8, 1024, 1024, dtype=torch.float64),
    Layer("hmm 1024, per example", 1, 8, 1024, 1024, examples=8),
    Layer("hclt 256", 16, 256, 256, 256, groups=16),
    Layer("pairs of 64", 8, 256, 64, 4096, groups=8, kronecker=True),
    Layer("root", 1, 256, 1, 64),
)


def specs() -> list[Spec]:
    """All kernels of all layers."""
    return [spec for layer in LAYERS for spec in layer.launches()]
