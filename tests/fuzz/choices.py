"""Random bytes as a source of choices: numbers, hostile values, changed JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**31, 2**63, -(2**63), 10**12, 10**30),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "a", "sum", "input", "../x", "/etc/passwd", "x" * 300, "\ud800", "\0", "NaN", "1"),
    *([], {}, [[]], [None], {"": None}, [1, 2], {"a": 1}, [[0], [1]]),
)


class Choices:
    """Reads choices from bytes; when they have run out, everything is the first choice.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return max(0, len(self._data) - self._place)

    def below(self, end: int) -> int:
        """A number in [0, end), from as few bytes as hold it."""
        value, limit = 0, 1
        while limit < end:
            value = value << 8 | self._next()
            limit <<= 8
        return value % max(end, 1)

    def one(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self.below(len(options))]

    def hostile(self) -> Any:
        """A value that a reader may not expect."""
        return copy.deepcopy(self.one(HOSTILE))

    def rest(self) -> bytes:
        """All bytes not yet read."""
        found = self._data[self._place :]
        self._place = len(self._data)
        return found

    def _next(self) -> int:
        value = self._data[self._place] if self._place < len(self._data) else 0
        self._place += 1
        return value


def changed_json(value: Any, choices: Choices) -> Any:
    """A copy of JSON values in which one to four places were changed."""
    found = copy.deepcopy(value)
    for _ in range(1 + choices.below(4)):
        found = _changed(found, choices, whole=True)
    return found


def random_bytes(count: int = 40) -> list[bytes]:
    """Seeds for harnesses that read choices: the same ones every time."""
    return [random.Random(i).randbytes(24) for i in range(count)]


def json_or_changed(data: bytes, seeds: Sequence[Any]) -> Any:
    """What the bytes say: JSON text if they begin with `{` or `[`, else how to change a seed."""
    if data[:1] in (b"{", b"["):
        return json.loads(data)
    choices = Choices(data)
    return changed_json(choices.one(seeds), choices)


def _changed(value: Any, choices: Choices, *, whole: bool = False) -> Any:
    leaf = not isinstance(value, (list, dict)) or not value
    if leaf or (not whole and choices.below(8) == 7):
        return choices.hostile()
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, action = choices.one(keys), choices.below(8)
    if action == 0:
        del value[key]
    elif action == 1 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[choices.below(len(value))]))
    elif action == 1:
        value[str(choices.hostile())] = value.pop(key)
    elif action == 2:
        other = choices.one(keys)
        value[key], value[other] = value[other], value[key]
    else:
        value[key] = _changed(value[key], choices)
    return value
