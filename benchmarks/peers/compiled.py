"""`torch.compile` of the plain PyTorch versions (on the CPU it needs a C++ compiler)."""

from __future__ import annotations

import shutil

import torch

from benchmarks.peers import Contender, NotApplicableError
from benchmarks.programs import likelihood_contender, program_of
from benchmarks.suite import BACKWARD, FORWARD, Work

# A loop is unrolled, so that compilation takes minutes for more nodes than this.
_MOST_NODES = 300


def contender(work: Work, pass_: str) -> Contender:
    """Log-likelihoods and their gradients."""
    if pass_ not in (FORWARD, BACKWARD):
        raise NotApplicableError("compiled for log-likelihoods and gradients only")
    nodes = len(work.plan.circuit.nodes)
    if nodes > _MOST_NODES:
        raise NotApplicableError(f"too large to unroll: {nodes} nodes")
    if work.device.type == "cpu" and shutil.which("c++") is None and shutil.which("g++") is None:
        raise NotApplicableError("no C++ compiler here")
    torch.compiler.reset()
    program = program_of(work)
    return likelihood_contender(program, work, pass_, torch.compile(program.function))
