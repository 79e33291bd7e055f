"""One folder a circuit: `circuit.json` and the tensors that it names, replaced as a whole.

The tensors' file carries their checksum in its name and is written first; `circuit.json` names it
and is put in place by one rename. Whatever happens in between, the folder holds the old circuit or
the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.files import read_described, write_described
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from pcircuits.structure.circuit import Circuit

FORMAT = "pcircuits"
# Version 2 added the checksum of the description's own content.
FORMAT_VERSION = 2
_READABLE = {(FORMAT, 1): False, (FORMAT, FORMAT_VERSION): True}
_DESCRIPTION, _STEM = "circuit.json", "parameters"


def save_folder(path: str | Path, circuit: Circuit, log_weights: Mapping[str, Tensor]) -> None:
    """Writes a circuit and its log-weights to a folder, made if needed, replacing what is there.

    Args:
        path: The folder.
        circuit: The circuit.
        log_weights: Name -> log-weights.
    """
    write_described(
        Path(path) / _DESCRIPTION,
        _STEM,
        {name: t.detach().cpu().contiguous() for name, t in log_weights.items()},
        {"format": FORMAT, "format_version": FORMAT_VERSION},
        structure_to_json(circuit),
    )


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
    description, tensors = read_described(folder / _DESCRIPTION, _READABLE)
    circuit = structure_from_json(
        {key: description.get(key) for key in ("structure_version", "nodes")}
    )
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
