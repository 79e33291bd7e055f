"""One line of a circuit's text, read from left to right."""

from __future__ import annotations

import json
import re
from typing import Any

from pcircuits.errors import FormatError

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_INTEGER = re.compile(r"[0-9]{1,18}")
_SPACE = re.compile(r"[ \t]*")
_JSON = json.JSONDecoder()


class Scanner:
    """Reads one line from left to right.

    Args:
        where: Which line, for messages.
        text: The line.
        most: Variables that the whole text may have.
    """

    def __init__(self, where: str, text: str, most: int) -> None:
        self.most = most  # variables; scopes are bit masks, and each variable has a line
        self._where = where
        self._text = text
        self._place = 0
        self._skip_space()

    def error(self, text: str) -> FormatError:
        """An error about the line."""
        return FormatError(f"{self._where}: {text}")

    def expected(self, what: str) -> FormatError:
        """An error that says what stands there instead."""
        found = self._text[self._place : self._place + 40]
        return self.error(f"expected {what}; found {found!r}" if found else f"expected {what}")

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._text)

    def take(self, symbol: str) -> bool:
        """Whether the symbol comes next; if so it is passed."""
        if not self._text.startswith(symbol, self._place):
            return False
        self._pass(self._place + len(symbol))
        return True

    def symbol(self, symbol: str) -> None:
        """Passes a symbol that has to come next."""
        if not self.take(symbol):
            raise self.expected(repr(symbol))

    def word(self, what: str) -> str:
        """A word, `what` in messages."""
        match = WORD.match(self._text, self._place)
        if not match:
            raise self.expected(what)
        self._pass(match.end())
        return match.group()

    def name(self, what: str) -> str:
        """A word, or any text in quotes."""
        if not self._text.startswith('"', self._place):
            return self.word(what)
        value = self.value(what)
        assert isinstance(value, str), "it begins with a quote"
        return value

    def integer(self, what: str) -> int:
        """A number without sign."""
        match = _INTEGER.match(self._text, self._place)
        if not match:
            raise self.expected(what)
        self._pass(match.end())
        return int(match.group())

    def value(self, what: str) -> Any:
        """A JSON value."""
        try:
            value, end = _JSON.raw_decode(self._text, self._place)
        except (ValueError, RecursionError) as error:
            raise self.expected(what) from error
        self._pass(end)
        return value

    def _pass(self, place: int) -> None:
        self._place = place
        self._skip_space()

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._place)
        assert match is not None, "it matches nothing too"
        self._place = match.end()
