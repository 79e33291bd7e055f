"""Complete categorical data as structure learners want it, and the circuits that they build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pcircuits.errors import EvidenceError
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Part, Sum


@dataclass(frozen=True, eq=False)
class CategoricalTable:
    """Checked rows without missing values.

    Attributes:
        values: (N, L) int64.
        sizes: (L,) number of categories of every variable.
    """

    values: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls, values: Tensor | np.ndarray, num_categories: int | Sequence[int] | None
    ) -> CategoricalTable:
        """Checks rows.

        Args:
            values: (N, L) integers.
            num_categories: Number of categories, of all variables or of each; default one more than
                the largest value.

        Raises:
            EvidenceError: If values are no integers, or not within the categories.
        """
        rows = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "iub":
            raise EvidenceError(
                f"values must be (N, L) integers with N, L >= 1; found shape {rows.shape} of "
                f"{rows.dtype}"
            )
        rows = rows.astype(np.int64)
        default = int(rows.max()) + 1
        sizes = np.asarray(default if num_categories is None else num_categories)
        if sizes.shape not in ((), (rows.shape[1],)):
            raise EvidenceError(
                f"num_categories must be one number, or one for each of the {rows.shape[1]} "
                f"variables; found shape {sizes.shape}"
            )
        sizes = np.broadcast_to(sizes, rows.shape[1:]).astype(np.int64)
        wrong = (rows < 0) | (rows >= sizes)
        if wrong.any():
            row, variable = np.argwhere(wrong)[0]
            raise EvidenceError(
                f"values[{row}, {variable}] is {rows[row, variable]}; expected a category "
                f"0 .. {sizes[variable] - 1}"
            )
        return cls(rows, sizes)

    @property
    def num_variables(self) -> int:
        """Number of variables L."""
        return len(self.sizes)

    @cached_property
    def starts(self) -> np.ndarray:
        """(L + 1,) where the columns of each variable start in `one_hot`."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def one_hot(self) -> np.ndarray:
        """(N, sum of all V) float32: whether a variable has a category."""
        table = np.zeros((len(self.values), self.starts[-1]), dtype=np.float32)
        np.put_along_axis(table, self.values + self.starts[:-1], 1.0, axis=1)
        return table

    def indicators(self, rows: np.ndarray, variables: np.ndarray) -> np.ndarray:
        """(rows, sum of the variables' V) the part of `one_hot` about some rows and variables."""
        if len(variables) == self.num_variables:
            return np.asarray(self.one_hot[rows])
        columns = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in variables])
        return np.asarray(self.one_hot[np.ix_(rows, columns)])

    def counts(self, rows: np.ndarray, variable: int) -> np.ndarray:
        """(V,) how often each category occurs in some rows."""
        return np.bincount(self.values[rows, variable], minlength=self.sizes[variable])


def log_distribution(counts: np.ndarray, pseudocount: float) -> np.ndarray:
    """Logarithm of frequencies along the last axis, each count raised by a pseudocount > 0."""
    raised = np.asarray(counts, dtype=np.float64) + pseudocount
    return np.asarray(np.log(raised) - np.log(raised.sum(-1, keepdims=True)))


class PackedCircuit:
    """A circuit in the making, the numbers of all nodes packed into a few shared parameters."""

    def __init__(self) -> None:
        self._sums: list[np.ndarray] = []
        self._num_weights = 0
        self._rows: dict[int, list[np.ndarray]] = {}

    def input(self, variable: int, log_weights: np.ndarray) -> Input:
        """An input of one unit; log_weights (V,)."""
        size = len(log_weights)
        rows = self._rows.setdefault(size, [])
        rows.append(log_weights)
        part = Part(f"inputs_{size}", len(rows) - 1)
        return Input(variable, num_units=1, num_categories=size, parameter=part)

    def sum(self, children: Sequence[AnyNode], log_weights: np.ndarray) -> Sum:
        """A sum of K units; log_weights (K, total units of the children)."""
        part = Part("sums", self._num_weights)
        self._sums.append(log_weights.ravel())
        self._num_weights += log_weights.size
        return Sum(*children, num_units=len(log_weights), parameter=part)

    def weighted(self, root: AnyNode) -> WeightedCircuit:
        """The circuit under a root, with its float64 log-weights."""
        log_weights = {
            f"inputs_{size}": torch.from_numpy(np.stack(rows)) for size, rows in self._rows.items()
        }
        if self._sums:
            log_weights["sums"] = torch.from_numpy(np.concatenate(self._sums))
        return WeightedCircuit(Circuit(root), log_weights)
