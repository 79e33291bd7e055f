"""This library's forward pass, beside all marginals: what they cost on top."""

from __future__ import annotations

from benchmarks.peers import Contender, ours
from benchmarks.suite import FORWARD, MARGINALS, Work


def contender(work: Work, _: str) -> Contender:
    """The forward pass of the same evidence; its own values are checked in its own pass."""
    forward = ours.contender(work, FORWARD)
    return Contender(forward.call, ours.contender(work, MARGINALS).result, "no marginals")
