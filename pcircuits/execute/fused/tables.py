"""Tables of weights as compiled code takes them, and the gradients of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.kernels import transpose
from pcircuits.execute.weights import AnyWeights, Weights


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of weights in linear space, by address.

    Attributes:
        addresses: (T,) of each table.
        strides: (T,) bytes from one fold's table to the next; 0 where all folds have one.
        held: What is at the addresses.
    """

    addresses: np.ndarray
    strides: np.ndarray
    held: tuple[Tensor, ...]

    @classmethod
    def upwards(cls, weights: Sequence[AnyWeights]) -> Tables:
        """(K, O) tables that all folds have, or (F, O, K), as `runs.ascend` takes them."""
        return cls._of(
            [_columns(own) if own.factor.ndim == 2 else factor_of(own) for own in _dense(weights)]
        )

    @classmethod
    def downwards(cls, weights: Sequence[AnyWeights]) -> Tables:
        """(O, K) tables that all folds have, or (F, O, K), as `runs.descend` takes them."""
        return cls._of([factor_of(own) for own in _dense(weights)])

    @classmethod
    def _of(cls, held: list[Tensor]) -> Tables:
        strides = np.array([stride_of(own) for own in held])
        return cls(np.array([own.data_ptr() for own in held]), strides, tuple(held))


def _dense(weights: Sequence[AnyWeights]) -> Iterator[Weights]:
    for own in weights:
        assert isinstance(own, Weights)
        yield own


def _columns(weights: Weights) -> Tensor:
    """`Weights.columns`, made once for the same weights, by a faster kernel than PyTorch's."""
    if "columns" not in weights.__dict__:
        factor = factor_of(weights)
        made = factor.new_empty(factor.shape[::-1])
        transpose(factor.numpy()[None], made.numpy()[None])
        weights.__dict__["columns"] = made
    return weights.columns


def factor_of(weights: Weights) -> Tensor:
    """(O, K) weights that all folds have, or (F, 1, O, K), without gaps."""
    return weights.factor.contiguous()


def stride_of(factor: Tensor) -> int:
    """Bytes from one fold's table to the next; 0 where all have one."""
    return 0 if factor.ndim == 2 else factor.stride(0) * factor.itemsize


class TableGradient:
    """Gradient of one table, in linear space until all is added up."""

    def __init__(self, weights: AnyWeights) -> None:
        assert isinstance(weights, Weights)
        self._factor, self._shape = factor_of(weights).numpy(), weights.log.shape
        self._linear = np.empty_like(self._factor)

    @property
    def address(self) -> int:
        """Where it is, in the layout of `Tables.downwards`."""
        return self._linear.ctypes.data

    def total(self) -> Tensor:
        """(G, 1, O, K) gradient with respect to the log-weights."""
        np.multiply(self._linear, self._factor, out=self._linear)
        return torch.from_numpy(self._linear).view(self._shape)
