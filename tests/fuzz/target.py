"""What a harness is, and what it allows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

import pcircuits as pc
from codd.errors import CoddError

ALLOWED = (pc.errors.CircuitError, CoddError)
"""The libraries' own errors: whatever else a reader raises is a finding."""

_MOST_NODES, _MOST_UNITS, _LARGEST_LOG = 64, 256, 1e4


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: What it is called on the command line.
        run: Reads the bytes; raises nothing but `ALLOWED`, and anything else is a finding.
        seeds: Makes valid inputs to start from.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


@cache
def folder() -> Path:
    """A folder of this process in memory, where there is such."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    made = tempfile.TemporaryDirectory(prefix="fuzz-", dir=where)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def written(name: str, data: bytes) -> Path:
    """A file with the given content."""
    path = folder() / name
    path.write_bytes(data)
    return path


def use(weighted: pc.WeightedCircuit) -> None:
    """Evaluates what was read, if it is small: no reader gives a circuit that then breaks."""
    circuit = weighted.circuit
    units = [node.num_units for node in circuit.nodes[:_MOST_NODES]]
    if len(circuit.nodes) > _MOST_NODES or max(units) > _MOST_UNITS:
        return
    if circuit.num_categories > _MOST_UNITS:
        return
    logs = [tensor[torch.isfinite(tensor)] for tensor in weighted.log_weights.values()]
    if any(bool((log.abs() > _LARGEST_LOG).any()) for log in logs):
        return
    value = pc.CircuitModel.of(weighted).log_evidence(pc.Evidence())
    assert not bool(value.isnan().any()), f"log Z of what was read is {value}"
