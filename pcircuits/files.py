"""Reading and writing of files, with errors that name them.

Tensors are kept in a file that carries their checksum in its name, and a description names it: the
tensors are written first and the description is put in place by one rename, so that whatever
happens in between a folder holds the old state or the new one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
from torch import Tensor

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


class BoundedFile:
    """An open file that is never asked for more than it holds.

    A length that a damaged file claims then costs no memory.

    Args:
        file: The file, open for reading.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        """At most so many bytes."""
        return self._file.read(min(size, self.size))

    def readline(self) -> bytes:
        """The bytes up to the next end of a line."""
        return self._file.readline()

    def tell(self) -> int:
        """Bytes read so far."""
        return self._file.tell()

    def starts_with(self, prefix: bytes) -> bool:
        """Whether the file begins so; it is read from its beginning afterwards."""
        found = self.read(len(prefix))
        self._file.seek(0)
        return found == prefix


@contextmanager
def open_bounded(path: str | Path) -> Iterator[BoundedFile]:
    """A file to be read piece by piece.

    Raises:
        FormatError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            yield BoundedFile(file)
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


def write_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Writes tensors to `STEM-CHECKSUM.safetensors`; what a description needs to name them."""
    data = safetensors.torch.save(dict(tensors))
    checksum = hashlib.sha256(data).hexdigest()
    name = f"{stem}-{checksum[:16]}.safetensors"
    write_atomically(folder / name, data)
    return {"file": name, "sha256": checksum}


def remove_older_tensors(folder: Path, stem: str, entry: Mapping[str, str]) -> None:
    """Removes the tensors that the description, now in place, no longer names."""
    for old in folder.glob(f"{stem}-*.safetensors"):
        if old.name != entry["file"]:
            old.unlink(missing_ok=True)


def read_tensors(description: Path, entry: object) -> dict[str, Tensor]:
    """Reads the tensors that a description names.

    Args:
        description: The file that names them; they lie in its folder.
        entry: What `write_tensors` returned.

    Raises:
        FormatError: If they are not named, outside the folder, not there or damaged.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        raise FormatError(f"{description} does not name its tensors")
    path = description.parent / entry["file"]
    if path.parent != description.parent:
        raise FormatError(f"{description} names tensors outside its folder: {path}")
    data = read_bytes(path)
    checksum = hashlib.sha256(data).hexdigest()
    if checksum != entry.get("sha256"):
        raise FormatError(
            f"{path} is damaged: it has SHA-256 {checksum[:16]}...; expected "
            f"{str(entry.get('sha256'))[:16]}..."
        )
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path} is not a safetensors file: {error}") from error
