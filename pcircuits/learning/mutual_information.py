"""Mutual information of all pairs of variables, counted from data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pcircuits.errors import EvidenceError
from pcircuits.jit import cached_jit
from pcircuits.learning.history import progress_bar


def pairwise_mutual_information(
    values: Tensor | np.ndarray,
    *,
    observed: Tensor | np.ndarray | None = None,
    weights: Tensor | np.ndarray | None = None,
    pseudocount: float = 1.0,
    num_categories: int | Sequence[int] | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Mutual information of all pairs of variables, from their smoothed joint frequencies.

    Args:
        values: (N, L) integers.
        observed: (N, L) bool, True = observed; default all. A row counts for the pairs of which it
            has both values.
        weights: (N,) weight of each row, >= 0; default 1.
        pseudocount: Count added to every pair of categories.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        progress: Whether to show a progress bar.

    Returns:
        (L, L) symmetric matrix in nats, zero on the diagonal.

    Raises:
        EvidenceError: If values, mask or weights do not fit.
        ValueError: If the pseudocount is negative.

    Examples:
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> information = pc.pairwise_mutual_information(rows, pseudocount=0.0)
        >>> information.round(4)  # ln 2 = 0.6931 between the first two
        array([[0.    , 0.6931, 0.    ],
               [0.6931, 0.    , 0.    ],
               [0.    , 0.    , 0.    ]])
    """
    table = PairTable.of(values, observed, weights, num_categories)
    return mutual_information_of(table, pseudocount, progress)


def mutual_information_of(table: PairTable, pseudocount: float, progress: bool) -> np.ndarray:
    """Mutual information of all pairs of variables; see `pairwise_mutual_information`.

    Args:
        table: The data.
        pseudocount: Count added to every pair of categories.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the pseudocount is negative.
    """
    if not (pseudocount >= 0 and np.isfinite(pseudocount)):
        raise ValueError(f"expected a finite pseudocount >= 0; found {pseudocount}")
    length = len(table.columns)
    sizes = np.array(table.num_categories)
    information = np.zeros((length, length))
    with progress_bar("mutual information", shown=progress) as report:
        for i in range(1, length):
            _add_row(table.columns, table.weights, sizes, float(pseudocount), i, information)
            report((i + 1) ** 2 / length**2, f"variable {i + 1} of {length}")
    # Rounding may leave an independent pair a hair below zero.
    return np.maximum(information, 0.0)


@dataclass(frozen=True, eq=False)
class PairTable:
    """Checked data as counting wants it.

    Attributes:
        columns: (L, N) int32 values, -1 where not observed.
        weights: (N,) float64.
        num_categories: (L,) number of categories of every variable.
    """

    columns: np.ndarray
    weights: np.ndarray
    num_categories: tuple[int, ...]

    @classmethod
    def of(
        cls,
        values: Tensor | np.ndarray,
        observed: Tensor | np.ndarray | None,
        weights: Tensor | np.ndarray | None,
        num_categories: int | Sequence[int] | None,
    ) -> PairTable:
        """Checks data, as `pairwise_mutual_information` takes it.

        Raises:
            EvidenceError: If values, mask or weights do not fit.
        """
        rows = _array(values)
        if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "iub":
            raise EvidenceError(
                f"values must be (N, L) integers with N, L >= 1; found shape {rows.shape} of "
                f"{rows.dtype}"
            )
        columns = rows.T.astype(np.int32, order="C")
        if observed is not None:
            mask = _array(observed)
            if mask.shape != rows.shape or mask.dtype != np.bool_:
                raise EvidenceError(
                    f"observed must be a bool mask of shape {rows.shape}; found shape "
                    f"{mask.shape} of {mask.dtype}"
                )
            columns = np.where(mask.T, columns, -1)
        sizes = _sizes(columns, num_categories, observed is not None)
        return cls(columns, _row_weights(weights, len(rows)), sizes)

    def pair_counts(self, i: int, j: int) -> np.ndarray:
        """(V of i, V of j) total weight of each pair of categories of two observed variables."""
        shape = self.num_categories[i], self.num_categories[j]
        pair = self.columns[i].astype(np.int64) * shape[1] + self.columns[j]
        return np.bincount(pair, self.weights, shape[0] * shape[1]).reshape(shape)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _row_weights(weights: Tensor | np.ndarray | None, num_rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(num_rows)
    found = _array(weights).astype(np.float64)
    if found.shape != (num_rows,) or not np.isfinite(found).all() or found.min() < 0:
        raise EvidenceError(
            f"weights must be {num_rows} finite numbers >= 0; found shape {found.shape}"
        )
    return found


def _sizes(
    columns: np.ndarray, num_categories: int | Sequence[int] | None, masked: bool
) -> tuple[int, ...]:
    """Number of categories of every variable, checked against the values."""
    top = columns.max(axis=1)
    if num_categories is None:
        num_categories = int(top.max()) + 1
    sizes = (
        (num_categories,) * len(columns)
        if isinstance(num_categories, int)
        else tuple(int(size) for size in num_categories)
    )
    if len(sizes) != len(columns):
        raise EvidenceError(
            f"num_categories must be one number, or one for each of the {len(columns)} variables; "
            f"found {len(sizes)} numbers"
        )
    low = -1 if masked else 0
    wrong = (top >= np.array(sizes)) | (columns.min(axis=1) < low)
    if wrong.any():
        i = int(wrong.argmax())
        raise EvidenceError(
            f"variable {i} holds {columns[i].min()} .. {top[i]}; expected categories "
            f"0 .. {sizes[i] - 1}"
        )
    return sizes


@cached_jit(nogil=True)
def _add_row(
    columns: np.ndarray,
    weights: np.ndarray,
    sizes: np.ndarray,
    pseudocount: float,
    i: int,
    information: np.ndarray,
) -> None:
    """Fills row and column i of `information` for all variables before i."""
    for j in range(i):
        counts = np.full((sizes[i], sizes[j]), pseudocount)
        for row in range(columns.shape[1]):
            a, b = columns[i, row], columns[j, row]
            if a >= 0 and b >= 0:
                counts[a, b] += weights[row]
        total = counts.sum()
        rows, others = counts.sum(1), counts.sum(0)
        found = 0.0
        for a in range(sizes[i]):
            for b in range(sizes[j]):
                if counts[a, b] > 0:
                    found += counts[a, b] * np.log(counts[a, b] * total / (rows[a] * others[b]))
        information[i, j] = information[j, i] = found / max(total, 1e-300)
