"""The binary density-estimation sets, and what has been published on them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Published test log-likelihoods in nats a row: HCLT, the best single model on these sets, from
# Selvam et al., AISTATS 2023, and the best of RAT-SPN, ID-SPN, Strudel, EXPC, HCLT and CMCLT.
PUBLISHED = {
    "nltcs": (-5.99, -5.99),
    "msnbc": (-6.05, -6.04),
    "plants": (-14.26, -11.99),
    "baudio": (-39.77, -39.02),
    "jester": (-52.46, -51.29),
    "accidents": (-26.74, -26.74),
    "dna": (-79.05, -79.05),
    "kosarek": (-10.66, -10.52),
    "book": (-33.83, -33.75),
    "tmovie": (-50.81, -49.23),
}

_PARTS = ("train", "valid", "test")


class DataError(Exception):
    """A data set is missing or is not what it should be."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Distinct rows and how often each occurs.

    Attributes:
        values: (U, L) distinct rows of 0 and 1.
        weights: (U,) float32 number of times each occurs.
    """

    values: Tensor
    weights: Tensor

    @property
    def total(self) -> float:
        """Number of rows N, repetitions counted."""
        return float(self.weights.double().sum())

    def thinned(self, limit: int) -> Tensor:
        """At most `limit` rows, as often as they occur: every so many of the sorted ones."""
        rows = self.values.repeat_interleave(self.weights.long(), 0)
        return rows[:: math.ceil(len(rows) / limit)]

    def mean(self, numbers: Tensor) -> float:
        """Mean over all N rows of a number for each distinct one."""
        return float((numbers.double() * self.weights).sum()) / self.total

    def entropy(self) -> float:
        """Entropy of the rows in nats: minus it bounds every model's mean log-likelihood."""
        return -self.mean((self.weights.double() / self.total).log())


@dataclass(frozen=True, eq=False)
class DataSet:
    """One set, in the split that everybody uses."""

    name: str
    train: Rows
    valid: Rows
    test: Rows


def find_sets(folder: Path, names: Sequence[str] | None) -> list[str]:
    """Names of the sets to run: those asked for, or all that the folder has.

    Raises:
        DataError: If the folder or a set asked for is not there, or there is none at all.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give one with --data, of files NAME.npz")
    there = {path.stem for path in folder.glob("*.npz")}
    wanted = list(names) if names else [name for name in PUBLISHED if name in there]
    wanted += sorted(there - set(wanted)) if not names else []
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        raise DataError(f"{folder} has no {', '.join(missing) or 'file NAME.npz'}")
    return wanted


def load(folder: Path, name: str) -> DataSet:
    """Reads NAME.npz, which holds `train`, `valid` and `test`: (N, L) zeros and ones.

    Raises:
        DataError: If a part is missing, or is not a table of zeros and ones.
    """
    path = folder / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {part: file[part] for part in _PARTS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no archive of train, valid and test: {error}") from error
    width = found["train"].shape[-1:]
    for part, table in found.items():
        if table.ndim != 2 or table.shape[1:] != width or 0 in table.shape:
            raise DataError(
                f"{path}: {part} has shape {table.shape}; expected (N, L), with the same L >= 1 as "
                f"train"
            )
        if not np.isin(table, (0, 1)).all():
            raise DataError(f"{path}: {part} holds other values than 0 and 1")
    return DataSet(name, *(_distinct(found[part]) for part in _PARTS))


def _distinct(table: np.ndarray) -> Rows:
    values, counts = np.unique(table.astype(np.int64), axis=0, return_counts=True)
    return Rows(torch.from_numpy(values), torch.from_numpy(counts).float())
