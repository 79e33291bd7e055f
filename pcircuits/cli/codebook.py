"""What the variables and categories of a data set are called, kept beside the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pcircuits.errors import EvidenceError, FormatError
from pcircuits.files import read_json, write_atomically
from pcircuits.structure.circuit import Circuit

NAMES = "names.json"
_HEAD = {"format": "pcircuits-names", "format_version": 1}
Words = tuple[str, ...]


@dataclass(frozen=True)
class Codebook:
    """What variables and their categories are called.

    Attributes:
        names: L names of the variables, all different.
        words: For each variable the words that its categories stand for, in their order; None
            where the data has numbers.
    """

    names: tuple[str, ...]
    words: tuple[Words | None, ...]

    @classmethod
    def numbered(cls, circuit: Circuit) -> Codebook:
        """X0, X1, ..., for a model that comes without names."""
        count = circuit.num_variables
        return cls(tuple(f"X{i}" for i in range(count)), (None,) * count)

    def label(self, variable: int, category: int) -> str:
        """What a category is called: its word, or its number."""
        words = self.words[variable]
        return words[category] if words and category < len(words) else str(category)

    def labels(self, variable: int, count: int) -> list[str]:
        """What the first categories of a variable are called."""
        return [self.label(variable, category) for category in range(count)]

    def variable(self, text: str) -> int:
        """The variable that a user names, by name or by number.

        Raises:
            EvidenceError: If there is none.
        """
        if text in self.names:
            return self.names.index(text)
        if text.isdecimal() and int(text) < len(self.names):
            return int(text)
        raise EvidenceError(
            f"expected a variable by name or by number; found {text!r}; the variables are "
            f"{_listed(self.names)}"
        )

    def category(self, variable: int, text: str, count: int) -> int:
        """The category that a user names, by its word or by number.

        Args:
            variable: The variable.
            text: What the user wrote.
            count: Number of its categories.

        Raises:
            EvidenceError: If there is none.
        """
        labels = self.labels(variable, count)
        if text in labels:
            return labels.index(text)
        if text.isdecimal() and int(text) < count:
            return int(text)
        raise EvidenceError(
            f"expected a category of {self.names[variable]!r}; found {text!r}; the categories are "
            f"{_listed(labels)}"
        )

    def spelled(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Categories (N, L) as columns of words, where there are words."""
        columns = {}
        for variable, (name, words) in enumerate(zip(self.names, self.words, strict=True)):
            column = values[:, variable]
            if words is not None:
                column = np.array([self.label(variable, int(v)) for v in column], dtype=object)
            columns[name] = column
        return columns

    def ordered(self, names: Sequence[str]) -> Codebook | None:
        """This one with its variables in another order; None if they are others."""
        if sorted(names) != sorted(self.names):
            return None
        order = [self.names.index(name) for name in names]
        return Codebook(tuple(names), tuple(self.words[place] for place in order))

    def joined(self, other: Codebook) -> Codebook:
        """This one with the words that only another has appended; its categories keep their place.

        Args:
            other: Of the same variables in the same order.
        """
        pairs = zip(self.words, other.words, strict=True)
        words = tuple(
            mine if mine is None or its is None else tuple(dict.fromkeys((*mine, *its)))
            for mine, its in pairs
        )
        return replace(self, words=words)


def read_names(model: Path, circuit: Circuit) -> Codebook | None:
    """What a model's folder says of its variables; None if it says nothing.

    Raises:
        FormatError: If the file is damaged or of another circuit.
    """
    path = model / NAMES
    if not path.is_file():
        return None
    found = read_json(path)
    if {key: found.get(key) for key in _HEAD} != _HEAD:
        raise FormatError(f"{path}: expected {_HEAD}; found another format or version")
    codebook = _from_json(path, found.get("variables"))
    sizes = circuit.categories
    fits = len(codebook.names) == len(sizes) and all(
        words is None or len(words) <= size
        for words, size in zip(codebook.words, sizes, strict=True)
    )
    if not fits:
        raise FormatError(f"{path} names other variables than the circuit beside it has; remove it")
    return codebook


def write_names(model: Path, codebook: Codebook) -> None:
    """Writes what `read_names` reads, in one step."""
    variables = [
        {"name": name, "categories": words}
        for name, words in zip(codebook.names, codebook.words, strict=True)
    ]
    text = json.dumps({**_HEAD, "variables": variables}, indent=1, ensure_ascii=False)
    write_atomically(model / NAMES, f"{text}\n".encode())


def _from_json(path: Path, variables: Any) -> Codebook:
    names, words = [], []
    for entry in variables if isinstance(variables, list) else [None]:
        name = entry.get("name") if isinstance(entry, dict) else None
        categories = entry.get("categories") if isinstance(entry, dict) else None
        known = categories is None or (
            isinstance(categories, list) and all(isinstance(word, str) for word in categories)
        )
        if not isinstance(name, str) or not known:
            raise FormatError(f"{path}: expected a name and a list of words; found {entry!r:.80}")
        names.append(name)
        words.append(None if categories is None else tuple(categories))
    if len(set(names)) < len(names):
        raise FormatError(f"{path}: a name is given to two variables")
    return Codebook(tuple(names), tuple(words))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown}, ... ({len(names)} in all)"
