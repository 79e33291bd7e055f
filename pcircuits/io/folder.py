"""One folder a circuit: `circuit.json` and the tensors that it names, replaced as a whole.

The tensors' file carries their checksum in its name and is written first; `circuit.json` names it
and is put in place by one rename. Whatever happens in between, the folder holds the old circuit or
the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.files import write_atomically
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from pcircuits.structure.circuit import Circuit

FORMAT = "pcircuits"
FORMAT_VERSION = 1
_DESCRIPTION = "circuit.json"


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
    data = safetensors.torch.save(tensors)
    checksum = hashlib.sha256(data).hexdigest()
    tensor_file = f"parameters-{checksum[:16]}.safetensors"
    write_atomically(folder / tensor_file, data)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tensors": {"file": tensor_file, "sha256": checksum},
        **structure_to_json(circuit),
    }
    write_atomically(folder / _DESCRIPTION, (json.dumps(description, indent=1) + "\n").encode())
    for old in folder.glob("parameters-*.safetensors"):
        if old.name != tensor_file:
            old.unlink(missing_ok=True)


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
    tensors = _read_tensors(folder, description.get("tensors"))
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


def _read_tensors(folder: Path, entry: object) -> dict[str, Tensor]:
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        raise FormatError(f"{folder / _DESCRIPTION} does not name its tensors")
    path = folder / entry["file"]
    if path.parent != folder:
        raise FormatError(f"{folder / _DESCRIPTION} names tensors outside its folder: {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from error
    checksum = hashlib.sha256(data).hexdigest()
    if checksum != entry.get("sha256"):
        raise FormatError(
            f"{path} has SHA-256 {checksum[:16]}...; expected {str(entry.get('sha256'))[:16]}..."
        )
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path} is not a safetensors file: {error}") from error
