"""Tables of weights as compiled code takes them, and the gradients of these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.fused.memory import NUMBERS
from pcircuits.execute.fused.table_kernels import LARGEST, exponentiate, transpose
from pcircuits.execute.weights import Weights, least_log_weight

# Addresses of all tables, and bytes from one fold's table to the next; 0 where all folds have one.
Places = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Table:
    """Weights in linear space.

    Attributes:
        linear: (G, 1, O, K) weights; G is 1 or the number of folds.
        columns: (1, K, O) the one table transposed; none where each fold has its own.
        extremes: Least and largest log-weight.
    """

    linear: np.ndarray
    columns: np.ndarray
    extremes: tuple[float, float]

    @cached_property
    def address(self) -> int:
        """Where the weights are."""
        return int(self.linear.ctypes.data)

    @property
    def stride(self) -> int:
        """Bytes from one fold's table to the next; 0 where all have one."""
        return 0 if len(self.linear) == 1 else int(self.linear.strides[0])


def table_of(weights: Weights, dtype: torch.dtype) -> Table | None:
    """Weights in linear space; None where underflow may take a part of their sums."""
    own = weights.log.detach() if weights.log.requires_grad else weights.log
    log = np.ascontiguousarray(own.numpy(), NUMBERS[dtype])
    linear, extremes = np.empty_like(log), np.empty(2)
    columns = np.empty((1 if len(log) == 1 else 0, log.shape[3], log.shape[2]), log.dtype)
    if not exponentiate(log, linear, columns, extremes):
        extremes[:] = log.min(), log.max()
        tops = np.abs(log.max(-1)).max()
        if not (extremes[0] > least_log_weight(dtype) and tops < LARGEST):
            return None
        np.exp(log, out=linear)
        transpose(linear[: len(columns), 0], columns)
    return Table(linear, columns, (float(extremes[0]), float(extremes[1])))


@dataclass(frozen=True, eq=False)
class Tables:
    """All tables of a program."""

    tables: tuple[Table, ...]

    @cached_property
    def upwards(self) -> Places:
        """(K, O) tables that all folds have, or (F, O, K), as `runs.ascend` takes them."""
        return self._places(
            [own.columns.ctypes.data if len(own.columns) else own.address for own in self.tables]
        )

    @cached_property
    def downwards(self) -> Places:
        """(O, K) tables that all folds have, or (F, O, K), as `runs.descend` takes them."""
        return self._places([own.address for own in self.tables])

    def _places(self, addresses: list[int]) -> Places:
        return np.array(addresses), np.array([own.stride for own in self.tables])


class TableGradient:
    """Gradient of one table, in linear space until all is added up."""

    def __init__(self, table: Table) -> None:
        self._table, self._linear = table, np.empty_like(table.linear)

    @property
    def address(self) -> int:
        """Where it is, in the layout of `Tables.downwards`."""
        return int(self._linear.ctypes.data)

    def total(self) -> Tensor:
        """(G, 1, O, K) gradient with respect to the log-weights."""
        np.multiply(self._linear, self._table.linear, out=self._linear)
        return torch.from_numpy(self._linear)
