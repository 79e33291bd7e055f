"""Data files: rows of categories in CSV, TSV, NPY, NPZ and Parquet, read and written."""

from __future__ import annotations

import csv
import importlib
import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.execute.evidence import Evidence
from pcircuits.files import read_bytes, read_text, write_atomically

_MISSING = frozenset({"", "nan", "na", "none", "null", "?", "-1"})
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of categories, some of them missing.

    Attributes:
        values: (N, L) int64; 0 where missing.
        observed: (N, L) bool, False = missing.
        names: L names of the variables, if the file has some.
    """

    values: Tensor
    observed: Tensor
    names: tuple[str, ...] | None

    def evidence(self) -> Evidence:
        """What the rows say, for queries and learning."""
        return Evidence(self.values, None if bool(self.observed.all()) else self.observed)

    def categories(self) -> list[int]:
        """Number of categories of every variable, as far as the rows show: at least two."""
        return (self.values.amax(0) + 1).clamp_min(2).tolist()


@dataclass(frozen=True, eq=False)
class Result:
    """What a command computed about N rows.

    Attributes:
        columns: Name -> (N,) numbers, as a table shows them.
        array: The numbers in their natural shape, as an NPY file holds them.
    """

    columns: dict[str, np.ndarray]
    array: np.ndarray


def read_table(path: Path, key: str | None = None) -> Table:
    """Reads rows of categories, one variable a column.

    Missing are empty cells, -1 and NaN. The first row of a text file may name the variables.

    Args:
        path: A .csv, .tsv, .npy, .npz or .parquet file.
        key: Which array of an NPZ file; needed if it has several.

    Raises:
        FormatError: If the file cannot be read, is of another kind, or holds something else than
            categories 0, 1, 2, ...; the message names the cell.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise FormatError(f"{path}: expected one of {', '.join(_READERS)}; found {path.suffix!r}")
    if key is not None and path.suffix.lower() != ".npz":
        raise FormatError(f"{path}: only .npz files have keys; found key {key!r}")
    numbers, names = reader(path, key)
    if numbers.ndim != 2 or 0 in numbers.shape:
        raise FormatError(f"{path}: expected rows and columns; found shape {numbers.shape}")
    return _table(path, numbers, names)


def write_result(path: Path | None, result: Result) -> None:
    """Writes what was computed, in one step, or prints it as CSV.

    Args:
        path: A .csv, .tsv, .npy, .npz or .parquet file; None: standard output.
        result: What was computed.

    Raises:
        FormatError: If the file is of another kind, or Parquet without pandas.
    """
    if path is None:
        print(_text(result, ",").decode(), end="")
        return
    check_output(path)
    write_atomically(path, _WRITERS[path.suffix.lower()](result))


def check_output(path: Path | None) -> None:
    """Checks, before any work is done, that a result can be written.

    Raises:
        FormatError: If the file's kind is not known, its library or its folder missing.
    """
    if path is None:
        return
    if path.suffix.lower() not in _WRITERS:
        raise FormatError(f"{path}: expected one of {', '.join(_WRITERS)}; found {path.suffix!r}")
    if path.suffix.lower() == ".parquet":
        _pandas()
    if not path.parent.is_dir():
        raise FormatError(f"{path}: the folder {path.parent} does not exist")


def value_table(values: np.ndarray, names: Sequence[str]) -> Result:
    """Rows of categories (N, L) as a result."""
    return Result(dict(zip(names, values.T, strict=True)), values)


def _table(path: Path, numbers: np.ndarray, names: tuple[str, ...] | None) -> Table:
    if numbers.dtype.kind not in "buif":
        raise FormatError(f"{path}: expected numbers; found {numbers.dtype}")
    numbers = numbers.astype(np.float64)
    missing = np.isnan(numbers) | (numbers == -1)
    filled = np.where(missing, 0.0, numbers)
    wrong = (filled < 0) | (filled != np.floor(filled)) | (filled > 2**31)
    if wrong.any():
        row, column = (int(index[0]) for index in wrong.nonzero())
        raise FormatError(
            f"{path}: row {row + 1}, column {column + 1} is {filled[row, column]:g}; expected a "
            f"category 0, 1, 2, ..., or -1 or nothing where it is missing"
        )
    values = torch.from_numpy(filled.astype(np.int64))
    return Table(values, torch.from_numpy(~missing), names)


_MOST_UNPACKED = 2**28  # bytes; what is packed less than a hundredfold may be larger
# What numpy and zipfile raise at files that are damaged in one way or another.
_UNREADABLE = (
    *(ValueError, OSError, EOFError, KeyError, TypeError, IndexError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, struct.error),
    tokenize.TokenError,
)


def _read_delimited(path: Path, key: str | None) -> tuple[np.ndarray, tuple[str, ...] | None]:
    text = io.StringIO(read_text(path), newline="")
    try:
        rows = [row for row in csv.reader(text, delimiter=_DELIMITERS[path.suffix.lower()]) if row]
    except csv.Error as error:
        raise FormatError(f"{path} is not a table: {error}") from error
    if not rows:
        raise FormatError(f"{path} is empty; expected rows of categories")
    header = any(not _is_number(cell) for cell in rows[0])
    names = tuple(cell.strip() for cell in rows[0]) if header else None
    body = rows[1:] if header else rows
    for place, row in enumerate(body, start=1 + header):
        if len(row) != len(rows[0]):
            raise FormatError(
                f"{path}: line {place} has {len(row)} cells; expected {len(rows[0])} as before"
            )
    return np.array([_numbers(path, row, i + 1) for i, row in enumerate(body)]), names


def _is_number(cell: str) -> bool:
    if cell.strip().lower() in _MISSING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(path: Path, cells: Sequence[str], row: int) -> list[float]:
    found = []
    for column, cell in enumerate(cells, start=1):
        try:
            found.append(float("nan") if cell.strip().lower() in _MISSING else float(cell))
        except ValueError:
            raise FormatError(
                f"{path}: row {row}, column {column} is {cell!r}; expected a category 0, 1, 2, ..."
            ) from None
    return found


def _read_npy(path: Path, key: str | None) -> tuple[np.ndarray, None]:
    found = _load(path)
    if not isinstance(found, np.ndarray):
        raise FormatError(f"{path} is not an .npy file")
    return found, None


def _read_npz(path: Path, key: str | None) -> tuple[np.ndarray, None]:
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
        return np.asarray(found[key]), None
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


def _read_parquet(path: Path, key: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    frame = _pandas().read_parquet(io.BytesIO(read_bytes(path)))
    try:
        numbers = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path}: expected numbers in all columns; {error}") from error
    return numbers, tuple(str(name) for name in frame.columns)


def _pandas() -> Any:
    try:
        module = importlib.import_module("pandas")
        importlib.import_module("pyarrow")
    except ImportError as error:
        raise FormatError(
            "Parquet files need pandas and pyarrow, which are not installed"
        ) from error
    return module


def _text(result: Result, delimiter: str) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(result.columns)
    # `repr` of a float64 reads back as the same number.
    writer.writerows(zip(*(column.tolist() for column in result.columns.values()), strict=True))
    return stream.getvalue().encode()


def _npy(result: Result) -> bytes:
    stream = io.BytesIO()
    np.save(stream, result.array, allow_pickle=False)
    return stream.getvalue()


def _npz(result: Result) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, result=result.array)
    return stream.getvalue()


def _parquet(result: Result) -> bytes:
    stream = io.BytesIO()
    _pandas().DataFrame(result.columns).to_parquet(stream, index=False)
    return stream.getvalue()


_READERS: dict[str, Callable[[Path, str | None], tuple[np.ndarray, tuple[str, ...] | None]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}
_WRITERS: dict[str, Callable[[Result], bytes]] = {
    ".csv": lambda result: _text(result, ","),
    ".tsv": lambda result: _text(result, "\t"),
    ".npy": _npy,
    ".npz": _npz,
    ".parquet": _parquet,
}
