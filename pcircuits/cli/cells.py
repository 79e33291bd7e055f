"""Cells of text, column by column, as numbers: categories, or words and what each stands for."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcircuits.cli.codebook import Codebook, Words
from pcircuits.errors import FormatError
from pcircuits.files import read_text

_MISSING = frozenset({"", "nan", "na", "none", "null", "?", "-1"})
_OTHER_DELIMITERS = (";", "\t", "|", ",")


@dataclass(frozen=True, eq=False)
class Columns:
    """What a file holds, before it is checked.

    Attributes:
        numbers: (N, L) numbers; NaN where missing.
        codebook: What the file calls variables and categories, if it names them.
    """

    numbers: np.ndarray
    codebook: Codebook | None


def read_delimited(path: Path, delimiter: str) -> Columns:
    """Reads a text file; its first row names the variables if one of its cells is no number.

    Raises:
        FormatError: If it is no table, or its columns hold neither numbers nor words.
    """
    text = io.StringIO(read_text(path).removeprefix("\ufeff"), newline="")
    try:
        rows = [row for row in csv.reader(text, delimiter=delimiter) if row]
    except csv.Error as error:
        raise FormatError(f"{path} is not a table: {error}") from error
    if not rows:
        raise FormatError(f"{path} is empty; expected rows of categories")
    _check_delimiter(path, rows[0], delimiter)
    header = any(_number(cell) is None for cell in rows[0])
    body = rows[1:] if header else rows
    for place, row in enumerate(body, start=1 + header):
        if len(row) != len(rows[0]):
            raise FormatError(
                f"{path}: line {place} has {len(row)} cells; expected {len(rows[0])} as before"
            )
    if header:
        _check_header(path, rows[0], body)
        return named_columns(path, tuple(cell.strip() for cell in rows[0]), body)
    return Columns(np.array([[_number(cell) for cell in row] for row in body], float), None)


def named_columns(path: Path, names: tuple[str, ...], body: Sequence[Sequence[str]]) -> Columns:
    """Columns of numbers or of words, the categories of which are their alphabetical order.

    Args:
        path: The file, for messages.
        names: L names.
        body: N rows of L cells.

    Raises:
        FormatError: If a name is missing or given twice, or a column holds words and numbers.
    """
    for column, name in enumerate(names, start=1):
        if not name:
            raise FormatError(
                f"{path}: column {column} has no name; if it is the index that pandas writes, "
                f"leave it out with to_csv(index=False)"
            )
        if names.count(name) > 1:
            raise FormatError(f"{path}: two columns are called {name!r}")
    numbers = np.full((len(body), len(names)), np.nan)
    words: list[Words | None] = []
    for column in range(len(names)):
        numbers[:, column], found = _coded(path, column, [row[column].strip() for row in body])
        words.append(found)
    return Columns(numbers, Codebook(names, tuple(words)))


def _coded(path: Path, column: int, cells: list[str]) -> tuple[list[float], Words | None]:
    numbers = [_number(cell) for cell in cells]
    strange = [row for row, number in enumerate(numbers) if number is None]
    if not strange:
        return [number for number in numbers if number is not None], None
    plain = sum(number is not None and number == number for number in numbers)
    if plain:
        row = strange[0]
        raise FormatError(
            f"{path}: row {row + 1}, column {column + 1} is {cells[row]!r}; expected a category 0, "
            f"1, 2, ... as in {plain} other rows, or words in all of them"
        )
    words = tuple(sorted({cells[row] for row in strange}))
    place = {word: float(number) for number, word in enumerate(words)}
    return [place.get(cell, np.nan) for cell in cells], words


def _number(cell: str) -> float | None:
    """The number in a cell, NaN where it is missing; None if it holds something else."""
    if cell.strip().lower() in _MISSING:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _check_delimiter(path: Path, first: list[str], delimiter: str) -> None:
    """A single column that holds another delimiter is a table of another kind."""
    found = [sign for sign in _OTHER_DELIMITERS if sign != delimiter and sign in first[0]]
    if len(first) == 1 and found:
        raise FormatError(
            f"{path}: expected cells separated by {delimiter!r}; found one column with {found[0]!r}"
        )


def _check_header(path: Path, names: list[str], body: list[list[str]]) -> None:
    """A first row whose cells all occur below it is data, not names."""
    if body and all(
        name in {row[column] for row in body} for column, name in enumerate(names) if name.strip()
    ):
        raise FormatError(
            f"{path}: the first row looks like the others; expected the names of the variables in "
            f"the first row of a file that holds words"
        )
