"""This library's PyTorch operations, where it would choose compiled kernels: what those gain."""

from __future__ import annotations

import pcircuits as pc
from benchmarks.peers import Contender, NotApplicableError, ours
from benchmarks.suite import BACKWARD, FORWARD, Work


def contender(work: Work, pass_: str) -> Contender:
    """`impl="eager"`."""
    if pass_ not in (FORWARD, BACKWARD):
        raise NotApplicableError("stands beside values and gradients alone")
    choice = pc.choose_implementation(work.plan, work.log_parameters, work.evidence)
    if choice.implementation == "eager":
        raise NotApplicableError("it is what is chosen")
    return ours.contender(work, pass_, impl="eager")
