"""What a command computed, written as CSV, TSV, NPY, NPZ or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcircuits.cli.optional import pandas
from pcircuits.errors import FormatError
from pcircuits.files import write_atomically


@dataclass(frozen=True, eq=False)
class Result:
    """What a command computed about N rows.

    Attributes:
        columns: Name -> (N,) numbers or words, as a table shows them.
        array: The numbers in their natural shape, as an NPY file holds them.
    """

    columns: dict[str, np.ndarray]
    array: np.ndarray


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
        pandas()
    if not path.parent.is_dir():
        raise FormatError(f"{path}: the folder {path.parent} does not exist")


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
    pandas().DataFrame(result.columns).to_parquet(stream, index=False)
    return stream.getvalue()


_WRITERS: dict[str, Callable[[Result], bytes]] = {
    ".csv": lambda result: _text(result, ","),
    ".tsv": lambda result: _text(result, "\t"),
    ".npy": _npy,
    ".npz": _npz,
    ".parquet": _parquet,
}
