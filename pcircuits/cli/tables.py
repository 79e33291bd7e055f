"""Data files: rows of categories in CSV, TSV, NPY, NPZ and Parquet."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.cli.cells import Columns, named_columns, read_delimited
from pcircuits.cli.codebook import Codebook
from pcircuits.cli.optional import pandas
from pcircuits.errors import FormatError
from pcircuits.execute.evidence import Evidence
from pcircuits.files import read_bytes


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of categories, some of them missing.

    Attributes:
        path: The file.
        values: (N, L) int64; 0 where missing.
        observed: (N, L) bool, False = missing.
        codebook: What the file calls variables and categories, if it names them.
    """

    path: Path
    values: Tensor
    observed: Tensor
    codebook: Codebook | None

    def evidence(self) -> Evidence:
        """What the rows say, for queries and learning."""
        return Evidence(self.values, None if bool(self.observed.all()) else self.observed)

    def categories(self) -> list[int]:
        """Number of categories of every variable, as far as the rows show: at least two."""
        return (self.values.amax(0) + 1).clamp_min(2).tolist()

    def coded_by(self, codebook: Codebook) -> Table:
        """The table with the categories' numbers, and the order of variables, of another codebook.

        Raises:
            FormatError: If the variables have other names, or a word is not known there.
        """
        if self.codebook is None:
            return replace(self, codebook=codebook)
        if sorted(self.codebook.names) != sorted(codebook.names):
            missing = sorted(set(codebook.names) - set(self.codebook.names))
            raise FormatError(
                f"{self.path}: expected the columns {', '.join(codebook.names)}; found "
                f"{', '.join(self.codebook.names)}" + (f"; missing: {missing}" if missing else "")
            )
        order = [self.codebook.names.index(name) for name in codebook.names]
        values, observed = self.values[:, order], self.observed[:, order]
        for variable, place in enumerate(order):
            words = self.codebook.words[place]
            if words is not None:
                numbers = self._numbers_of(words, variable, codebook)
                values[:, variable] = numbers[values[:, variable]]
        return Table(self.path, values.masked_fill(~observed, 0), observed, codebook)

    def _numbers_of(self, words: tuple[str, ...], variable: int, codebook: Codebook) -> Tensor:
        known = codebook.words[variable] or ()
        for word in words:
            if word not in known:
                expected = f"one of {', '.join(known)}" if known else "numbers, as learned from"
                raise FormatError(
                    f"{self.path}: column {codebook.names[variable]!r} holds {word!r}; expected "
                    f"{expected}"
                )
        return torch.tensor([known.index(word) for word in words])


def read_table(path: Path, key: str | None = None) -> Table:
    """Reads rows of categories, one variable a column.

    Missing are empty cells, -1 and NaN. A text file whose first row is no data names the variables;
    then a column may hold words, whose alphabetical order numbers the categories.

    Args:
        path: A .csv, .tsv, .npy, .npz or .parquet file.
        key: Which array of an NPZ file; needed if it has several.

    Raises:
        FormatError: If the file cannot be read, is of another kind, or holds something else than
            categories; the message names the cell.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise FormatError(f"{path}: expected one of {', '.join(_READERS)}; found {path.suffix!r}")
    if key is not None and path.suffix.lower() != ".npz":
        raise FormatError(f"{path}: only .npz files have keys; found key {key!r}")
    columns = reader(path, key)
    if columns.numbers.ndim != 2 or 0 in columns.numbers.shape:
        raise FormatError(f"{path}: expected rows and columns; found shape {columns.numbers.shape}")
    return _table(path, columns)


def _table(path: Path, columns: Columns) -> Table:
    if columns.numbers.dtype.kind not in "buif":
        raise FormatError(f"{path}: expected numbers; found {columns.numbers.dtype}")
    numbers = columns.numbers.astype(np.float64)
    missing = np.isnan(numbers) | (numbers == -1)
    filled = np.where(missing, 0.0, numbers)
    wrong = (filled < 0) | (filled != np.floor(filled)) | (filled > 2**31)
    if wrong.any():
        row, column = (int(index[0]) for index in wrong.nonzero())
        raise FormatError(
            f"{path}: row {row + 1}, column {column + 1} is {filled[row, column]:g}; expected a "
            f"category 0, 1, 2, ..., or -1 or nothing where it is missing; put quantities into "
            f"bins first, for example with numpy.digitize"
        )
    values = torch.from_numpy(filled.astype(np.int64))
    return Table(path, values, torch.from_numpy(~missing), columns.codebook)


_MOST_UNPACKED = 2**28  # bytes; what is packed less than a hundredfold may be larger
# What numpy and zipfile raise at files that are damaged in one way or another.
_UNREADABLE = (
    *(ValueError, OSError, EOFError, KeyError, TypeError, IndexError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, struct.error),
    tokenize.TokenError,
)


def _read_npy(path: Path, key: str | None) -> Columns:
    found = _load(path)
    if not isinstance(found, np.ndarray):
        raise FormatError(f"{path} is not an .npy file")
    return Columns(found, None)


def _read_npz(path: Path, key: str | None) -> Columns:
    found = _load(path)
    if isinstance(found, np.ndarray):
        raise FormatError(f"{path} is not an .npz file")
    keys = list(found.keys())
    if key is None and len(keys) == 1:
        key = keys[0]
    if key not in keys:
        raise FormatError(f"{path}: expected a key among {keys}; found {key!r} (option --key)")
    try:
        _check_packed(found.zip, str(key))
        return Columns(np.asarray(found[key]), None)
    except _UNREADABLE as error:
        raise FormatError(f"{path}: array {key!r} cannot be read: {error}") from error


def _load(path: Path) -> Any:
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that an old Python wrote
            return _checked(data)
    except _UNREADABLE as error:
        raise FormatError(f"{path} is not a NumPy file: {error}") from error


def _checked(data: bytes) -> Any:
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        _check_room(io.BytesIO(data), len(data))
    return np.load(io.BytesIO(data), allow_pickle=False)


def _check_room(stream: IO[bytes], size: int) -> None:
    """Checks that an array is not larger than what is said to hold it, before it is made."""
    header = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if header == (1, 0) else None
    shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(stream)
    if math.prod(shape) * dtype.itemsize > size or min(shape, default=0) < 0:
        raise ValueError(f"it claims an array of shape {shape} in {size} bytes")


def _check_packed(archive: zipfile.ZipFile, key: str) -> None:
    """Checks that an archive does not unpack to far more than it is."""
    member = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
    entry = archive.getinfo(member)
    if entry.file_size > max(_MOST_UNPACKED, 100 * entry.compress_size):
        raise ValueError(f"{member} unpacks to {entry.file_size} bytes")
    with archive.open(member) as stream:
        _check_room(stream, entry.file_size)


def _read_parquet(path: Path, key: str | None) -> Columns:
    frame = pandas().read_parquet(io.BytesIO(read_bytes(path)))
    missing = frame.isna().to_numpy()
    cells = frame.astype(object).to_numpy()
    body = [
        ["" if gap else str(cell) for cell, gap in zip(row, gaps, strict=True)]
        for row, gaps in zip(cells, missing, strict=True)
    ]
    return named_columns(path, tuple(str(name) for name in frame.columns), body)


_READERS: dict[str, Callable[[Path, str | None], Columns]] = {
    ".csv": lambda path, key: read_delimited(path, ","),
    ".tsv": lambda path, key: read_delimited(path, "\t"),
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}
