"""PyJuice's `.jpc` files."""

from __future__ import annotations

from pathlib import Path

import torch

from pcircuits.errors import CircuitError, FormatError
from pcircuits.files import open_bounded, write_atomically
from pcircuits.io.jpc_export import export_nodes
from pcircuits.io.jpc_import import import_nodes
from pcircuits.io.jpc_nodes import read_nodes
from pcircuits.io.juice import read_juice_jpc
from pcircuits.parameters import WeightedCircuit

_PICKLE = b"\x80"  # first byte of every pickle since protocol 2


def read_jpc(path: str | Path, *, dtype: torch.dtype = torch.float64) -> WeightedCircuit:
    """Reads a circuit that PyJuice saved, or one in Juice's text format of the same ending.

    PyJuice's files are pickles. They are read by a machine that runs nothing: it knows arrays of
    numbers and the names of PyJuice's distributions, and refuses everything else.

    Args:
        path: The file.
        dtype: Number type of the log-weights. PyJuice stores float32, so that float32 halves the
            memory of a large table: what the file has and the log-weights are all that is held.

    Returns:
        The circuit and its log-weights, as stored (PyJuice keeps them normalised).
        Parameters are named `input_I` and `sum_I` by the index of the node vector that owns them;
        for a text see `read_juice_jpc`.

    Raises:
        FormatError: If the file cannot be read, names anything else than it needs, or holds
            distributions that are not over categories.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(3, num_components=2, num_categories=4))
        >>> pc.write_jpc("mixture.jpc", model.weighted())
        >>> again = pc.CircuitModel.of(pc.read_jpc("mixture.jpc"))
        >>> rows = torch.tensor([[0, 1, 3]])
        >>> torch.allclose(again.log_likelihood(rows).float(), model.log_likelihood(rows))
        True
    """
    if not dtype.is_floating_point:
        raise FormatError(f"{path}: log-weights need a floating-point type; found {dtype}")
    with open_bounded(path) as file:
        nodes = read_nodes(file, str(path)) if file.starts_with(_PICKLE) else None
    if nodes is None:
        text = read_juice_jpc(path)
        return WeightedCircuit(text.circuit, {n: t.to(dtype) for n, t in text.log_weights.items()})
    try:
        return import_nodes(nodes, str(path), dtype)
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

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=4))
        >>> pc.write_jpc("hmm.jpc", model.weighted())  # for pyjuice.load
        >>> pc.read_jpc("hmm.jpc").circuit.num_variables
        3
    """
    write_atomically(path, export_nodes(weighted))
