"""One small file a library: how it does each pass of a case, with the same parameters.

`contender(name, work, pass_)` imports the file, and with it the library, only then. A file has one
function, `contender(work, pass_)`, which raises `NotApplicableError` with the reason where the
library cannot do the pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from benchmarks.suite import Work

# What `Contender.result` returns, by pass: (B,) log-values; gradients in log-parameters by name;
# new probabilities by name; (N, L) samples; posteriors.
Result = Tensor | Mapping[str, Tensor]

OURS = "pcircuits"
# Not a library: our forward pass, in turn with all marginals, to say what they cost on top.
BESIDE_MARGINALS = "forward alone"

# Name in the tables -> file in this folder.
PEERS: dict[str, str] = {
    OURS: "ours",
    BESIDE_MARGINALS: "forward_alone",
    "pcircuits, eager": "eager",
    "plain": "plain_torch",
    "plain, scaled": "plain_scaled",
    "compiled": "compiled",
    "dynamax": "dynamax_filter",
    "hmmlearn": "hmmlearn_scaling",
    "pomegranate": "pomegranate_hmm",
    "cirkit": "cirkit_circuit",
    "spflow": "spflow_circuit",
    "pyjuice": "pyjuice_circuit",
    "pyjuice, float32": "pyjuice_float32",
}


class NotApplicableError(Exception):
    """A library cannot do a pass of a case, or nothing would be compared; the text says why."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One library's way to do one pass of a case.

    Attributes:
        call: What is timed.
        result: Computes the same once more and brings it into the form that is checked.
        note: What a reader of the figures should know: what it was given, its precision.
        tolerance: Largest error of a right result; default: the pass's. Larger for a library whose
            own default is a lower precision, as its note then says.
    """

    call: Callable[[], object]
    result: Callable[[], Result]
    note: str = ""
    tolerance: float | None = None


def contender(name: str, work: Work, pass_: str) -> Contender:
    """A library's way to do a pass.

    Raises:
        NotApplicableError: If it cannot.
        ImportError: If it is not installed.
    """
    module = importlib.import_module(f"benchmarks.peers.{PEERS[name]}")
    found: Contender = module.contender(work, pass_)
    return found
