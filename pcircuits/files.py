"""Reading and writing of files, with errors that name them.

A folder holds a description, one JSON file, and the tensors that it names, in a file that carries
their checksum in its name. The tensors are written first and the description is put in place by one
rename, so that whatever happens in between the folder holds the old state or the new one. The
description holds a checksum of its own content, so that no changed number or name goes unnoticed.
Writers of one folder wait for each other, and readers for writers.

Examples:
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "numbers.json")
    ...     head, rest = {"format": "numbers", "format_version": 1}, {"unit": "nats"}
    ...     pc.files.write_described(path, "tensors", {"x": torch.ones(2)}, head, rest)
    ...     description, tensors = pc.files.read_described(path, {("numbers", 1): True})
    >>> description["unit"], tensors["x"].tolist()
    ('nats', [1.0, 1.0])
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
from torch import Tensor

from pcircuits.errors import FormatError

CHECKSUM = "content_sha256"
"""Key of a description under which the checksum of all its other keys stands."""

_BESIDE = re.compile(r"\.(?P<target>.+)\.\d+-\d+\.partial")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+\.safetensors")
_numbers = itertools.count()


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


def read_json(path: str | Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FormatError: If it cannot be read or is no JSON object.
    """
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} must hold an object; found {type(found).__name__}")
    return found


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """A description with the checksum of its content, as `read_described` expects it."""
    return {**content, CHECKSUM: _content_checksum(content)}


def _content_checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_atomically(path: str | Path, data: bytes) -> None:
    """Writes a file beside and puts it in place by one rename: it is never there in part.

    What a killed writer of the same file left beside it is removed.

    Raises:
        OSError: If it cannot be written; names the file. What was there before is still there.
    """
    target = Path(path)
    _remove_leftovers(target.parent, target.name)
    try:
        with _beside(target) as (beside, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, target)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


@contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside the target, locked as long as it is written, and then gone."""
    while True:
        name = f".{target.name}.{os.getpid()}-{next(_numbers)}.partial"
        beside = target.with_name(name)
        try:
            file = open(beside, "xb")  # noqa: SIM115
        except FileExistsError:
            continue  # of a process that had the same number
        with file:
            _lock(file.fileno(), fcntl.LOCK_EX)
            if not beside.exists():
                continue  # taken for a leftover before it was locked
            try:
                yield beside, file
            finally:
                beside.unlink(missing_ok=True)
            return


def _remove_leftovers(folder: Path, start: str) -> None:
    """Removes what killed writers left of files whose names begin so: nobody has a lock on it."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _BESIDE.fullmatch(entry.name)
            if name is not None and name["target"].startswith(start):
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


@contextmanager
def locked(folder: str | Path, *, shared: bool = False) -> Iterator[None]:
    """Keeps other writers out of a folder; with `shared` writers only, not other readers.

    A process that ends, however it ends, holds nothing. Where the file system knows no locks,
    nothing is locked.

    Args:
        folder: The folder; one that is not there is not locked.
        shared: Whether the folder is only read.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        _lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, kind: int) -> None:
    with suppress(OSError):
        fcntl.flock(handle, kind)


def write_described(
    description: str | Path,
    stem: str,
    tensors: Mapping[str, Tensor],
    head: Mapping[str, Any],
    rest: Mapping[str, Any],
) -> None:
    """Writes tensors and the description that names them, replacing what is there as a whole.

    Args:
        description: The JSON file; its folder is made if needed.
        stem: The tensors' file is called `STEM-CHECKSUM.safetensors`.
        tensors: Name -> tensor, contiguous and on the CPU.
        head: First keys of the description; then comes `tensors`, which names them.
        rest: Its other keys.

    Raises:
        OSError: If a file cannot be written; names it. What was there before is still there.
    """
    path = Path(description)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save(dict(tensors))
    checksum = hashlib.sha256(data).hexdigest()
    entry = {"file": f"{stem}-{checksum[:16]}.safetensors", "bytes": len(data), "sha256": checksum}
    content = with_checksum({**head, "tensors": entry, **rest})
    with locked(path.parent):
        _remove_leftovers(path.parent, f"{stem}-")
        write_atomically(path.parent / str(entry["file"]), data)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
        for old in path.parent.glob(f"{stem}-*.safetensors"):
            if old.name != entry["file"]:
                old.unlink(missing_ok=True)


def read_described(
    description: str | Path, versions: Mapping[tuple[str, Any], bool]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads what `write_described` wrote.

    Args:
        description: The JSON file.
        versions: Format and version -> whether its description must carry its checksum.

    Returns:
        The description and its tensors.

    Raises:
        FormatError: If a file is missing or damaged, or of another format or version.
    """
    path = Path(description)
    with locked(path.parent, shared=True):
        found = read_json(path)
        kind = (found.get("format"), found.get("format_version", found.get("version")))
        expected = [known for known in versions if known == kind]
        if not expected:
            raise FormatError(
                f"{path} is of format and version {kind}; expected one of {list(versions)}"
            )
        if versions[expected[0]] or CHECKSUM in found:
            _check_content(path, found)
        return found, _read_tensors(path, found.get("tensors"))


def _check_content(path: Path, found: Mapping[str, Any]) -> None:
    checksum = _content_checksum(found)
    if found.get(CHECKSUM) != checksum:
        raise FormatError(
            f"{path} is damaged: its content has SHA-256 {checksum[:16]}...; expected "
            f"{str(found.get(CHECKSUM))[:16]}..."
        )


def _read_tensors(description: Path, entry: object) -> dict[str, Tensor]:
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        raise FormatError(f"{description} does not name its tensors")
    name = entry["file"]
    if not _PLAIN.fullmatch(name):
        raise FormatError(f"{description} names tensors outside its folder: {name!r}")
    path = description.parent / name
    data = read_bytes(path)
    if entry.get("bytes", len(data)) != len(data):
        raise FormatError(f"{path} is damaged: expected {entry['bytes']} bytes, found {len(data)}")
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
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise FormatError(f"{path} holds tensors that cannot be read: {error}") from error
