"""Reading and writing of single files, with errors that name them."""

from __future__ import annotations

import os
from pathlib import Path

from pcircuits.errors import FormatError


def read_bytes(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        FormatError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from error


def read_text(path: str | Path) -> str:
    """The content of a file as text.

    Raises:
        FormatError: If it cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8: {error}") from error


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes a file beside and puts it in place by one rename: it is never there in part."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
