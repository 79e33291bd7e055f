"""A chain in linear space with scaling: plain PyTorch's fastest, where nothing underflows."""

from __future__ import annotations

from benchmarks import plain
from benchmarks.peers import Contender, NotApplicableError
from benchmarks.programs import likelihood_contender, program_of
from benchmarks.suite import EM, Work


def contender(work: Work, pass_: str) -> Contender:
    """Log-likelihoods of hidden Markov models."""
    if work.case.family != "HMM" or pass_ == EM:
        raise NotApplicableError("a recursion of chains")
    program = program_of(work, plain.scaled_chain_log_value)
    return likelihood_contender(program, work, pass_, program.function)
