"""PyJuice's `.jpc` files."""

from __future__ import annotations

from pathlib import Path

from pcircuits.errors import CircuitError, FormatError
from pcircuits.files import read_bytes, write_atomically
from pcircuits.io.jpc_export import export_nodes
from pcircuits.io.jpc_import import import_nodes
from pcircuits.io.jpc_nodes import read_nodes
from pcircuits.io.juice import read_juice_jpc
from pcircuits.parameters import WeightedCircuit

_PICKLE = b"\x80"  # first byte of every pickle since protocol 2


def read_jpc(path: str | Path) -> WeightedCircuit:
    """Reads a circuit that PyJuice saved, or one in Juice's text format of the same ending.

    PyJuice's files are pickles. They are read by a machine that runs nothing: it knows arrays of
    numbers and the names of PyJuice's distributions, and refuses everything else.

    Args:
        path: The file.

    Returns:
        The circuit and its log-weights in float64, as stored (PyJuice keeps them normalised).
        Parameters are named `input_I` and `sum_I` by the index of the node vector that owns them;
        for a text see `read_juice_jpc`.

    Raises:
        FormatError: If the file cannot be read, names anything else than it needs, or holds
            distributions that are not over categories.
    """
    data = read_bytes(path)
    if not data.startswith(_PICKLE):
        return read_juice_jpc(path)
    try:
        return import_nodes(read_nodes(data, str(path)), str(path))
    except FormatError:
        raise
    except CircuitError as error:
        raise FormatError(f"{path}: {error}") from error


def write_jpc(path: str | Path, weighted: WeightedCircuit) -> None:
    """Writes a circuit as a file that `pyjuice.load` reads, in float32.

    Args:
        path: The file; PyJuice expects its name to end in `.jpc`.
        weighted: The circuit; every row of its weights must be a distribution.

    Raises:
        FormatError: If the circuit has sums without weights, indicators of several categories, or
            weights that are not normalised.
    """
    write_atomically(path, export_nodes(weighted))
