"""Model files: the format goes by the suffix, a new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pcircuits.errors import FormatError
from pcircuits.files import read_text, write_atomically
from pcircuits.io.folder import load_folder, save_folder
from pcircuits.io.jpc import read_jpc, write_jpc
from pcircuits.io.juice import read_clt, read_spn
from pcircuits.io.logic_files import read_nnf, read_sdd
from pcircuits.io.psdd import read_psdd
from pcircuits.io.text import to_text, weighted_from_text
from pcircuits.parameters import WeightedCircuit

FOLDER = "folder"


def read_model(path: Path) -> WeightedCircuit:
    """Reads a circuit and its log-weights.

    Args:
        path: A folder that `pcircuits fit` or `CircuitModel.save` wrote, or a file.

    Raises:
        FormatError: If it cannot be read or its format is not known.
    """
    kind = FOLDER if path.is_dir() or not path.suffix else path.suffix.lower()
    reader = READERS.get(kind)
    if reader is None:
        known = ", ".join(READERS)
        raise FormatError(f"{path}: expected a {known} file; found {path.suffix!r}")
    return reader(path)


def write_model(path: Path, weighted: WeightedCircuit) -> None:
    """Writes a circuit and its log-weights.

    Args:
        path: A folder (a name without suffix), or a file.
        weighted: The circuit.

    Raises:
        FormatError: If the format is not known or cannot hold the circuit.
    """
    WRITERS[written_kind(path)](path, weighted)


def written_kind(path: Path) -> str:
    """The format that a model would be written in.

    Raises:
        FormatError: If it is not known.
    """
    kind = FOLDER if path.is_dir() or not path.suffix else path.suffix.lower()
    if kind not in WRITERS:
        raise FormatError(f"{path}: expected a {', '.join(WRITERS)}; found {path.suffix!r}")
    return kind


def _read_folder(path: Path) -> WeightedCircuit:
    return WeightedCircuit(*load_folder(path))


def _read_text(path: Path) -> WeightedCircuit:
    return weighted_from_text(read_text(path), where=str(path))


def _write_folder(path: Path, weighted: WeightedCircuit) -> None:
    save_folder(path, weighted.circuit, weighted.log_weights)


def _write_text(path: Path, weighted: WeightedCircuit) -> None:
    write_atomically(path, to_text(weighted).encode())


def _vtree_of(path: Path) -> Path | None:
    """The vtree file of the same name beside a file, if there is one."""
    beside = path.with_suffix(".vtree")
    return beside if beside.exists() else None


READERS: dict[str, Callable[[Path], WeightedCircuit]] = {
    FOLDER: _read_folder,
    ".jpc": read_jpc,
    ".psdd": lambda path: read_psdd(path, _vtree_of(path)),
    ".spn": read_spn,
    ".clt": read_clt,
    ".nnf": lambda path: WeightedCircuit(read_nnf(path), {}),
    ".sdd": lambda path: WeightedCircuit(read_sdd(path, _vtree_of(path)), {}),
    ".txt": _read_text,
    ".pc": _read_text,
}
WRITERS: dict[str, Callable[[Path, WeightedCircuit], None]] = {
    FOLDER: _write_folder,
    ".jpc": write_jpc,
    ".txt": _write_text,
    ".pc": _write_text,
}
