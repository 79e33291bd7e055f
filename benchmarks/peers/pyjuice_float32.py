"""PyJuice with products in float32, which it has as an option."""

from __future__ import annotations

from benchmarks.peers import Contender, pyjuice_circuit
from benchmarks.suite import Work


def contender(work: Work, pass_: str) -> Contender:
    """As `pyjuice_circuit`, in float32."""
    return pyjuice_circuit.contender(work, pass_, full_precision=True)
