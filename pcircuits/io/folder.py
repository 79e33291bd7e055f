"""One folder a circuit: `circuit.json` and the tensors that it names, replaced as a whole.

The tensors' file carries their checksum in its name and is written first; `circuit.json` names it
and is put in place by one rename. Whatever happens in between, the folder holds the old circuit or
the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.files import (
    read_tensors,
    remove_older_tensors,
    write_atomically,
    write_tensors,
)
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from pcircuits.structure.circuit import Circuit

FORMAT = "pcircuits"
FORMAT_VERSION = 1
_DESCRIPTION, _STEM = "circuit.json", "parameters"


def save_folder(path: str | Path, circuit: Circuit, log_weights: Mapping[str, Tensor]) -> None:
    """Writes a circuit and its log-weights to a folder, made if needed, replacing what is there.

    Args:
        path: The folder.
        circuit: The circuit.
        log_weights: Name -> log-weights.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in log_weights.items()}
    entry = write_tensors(folder, _STEM, tensors)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tensors": entry,
        **structure_to_json(circuit),
    }
    write_atomically(folder / _DESCRIPTION, (json.dumps(description, indent=1) + "\n").encode())
    remove_older_tensors(folder, _STEM, entry)


def load_folder(path: str | Path) -> tuple[Circuit, dict[str, Tensor]]:
    """Reads a circuit and its log-weights.

    Args:
        path: The folder that `save_folder` wrote.

    Returns:
        The circuit and name -> log-weights.

    Raises:
        FormatError: If there is no such folder, or it is of another format or version, damaged,
            or its tensors do not fit its circuit.
    """
    folder = Path(path)
    description = _read_description(folder / _DESCRIPTION)
    circuit = structure_from_json(
        {key: description.get(key) for key in ("structure_version", "nodes")}
    )
    tensors = read_tensors(folder / _DESCRIPTION, description.get("tensors"))
    shapes = circuit.parameter_shapes
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        differing = sorted(n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n))
        name = differing[0]
        raise FormatError(
            f"{folder}: parameter {name!r} has shape {found.get(name)}; "
            f"the circuit expects {shapes.get(name)}"
        )
    return circuit, tensors


def _read_description(path: Path) -> dict[str, object]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(description, dict):
        raise FormatError(f"{path} must hold an object; found {type(description).__name__}")
    found = (description.get("format"), description.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise FormatError(
            f"{path} is of format and version {found}; expected {(FORMAT, FORMAT_VERSION)}"
        )
    return description
