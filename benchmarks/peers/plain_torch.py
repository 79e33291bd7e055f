"""Plain PyTorch, as a user would write it who knows PyTorch and no circuits."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.peers import Contender, NotApplicableError
from benchmarks.peers.ours import CHECKED_SAMPLES, NUM_SAMPLES
from benchmarks.programs import emissions, likelihood_contender, program_of
from benchmarks.suite import MARGINALS, SAMPLING, Work


def contender(work: Work, pass_: str) -> Contender:
    """Loops in log space; posteriors by automatic differentiation; samples position by position."""
    if pass_ not in (MARGINALS, SAMPLING):
        program = program_of(work)
        return likelihood_contender(program, work, pass_, program.function)
    if work.case.family != "HMM":
        raise NotApplicableError("written for chains only")
    return _posteriors(work) if pass_ == MARGINALS else _sampling(work)


def _posteriors(work: Work) -> Contender:
    potentials = work.evidence.log_potentials
    table = work.log_parameters["emission"].T.contiguous()
    if potentials is None:
        emitted = emissions(work, table).requires_grad_()

        def states() -> Tensor:
            value = plain.chain_log_value(work.log_parameters, emitted)
            return torch.autograd.grad(value.sum(), emitted)[0]

        return Contender(states, states, "of the states")
    leaf = potentials.clone().requires_grad_()
    categories = work.evidence.categories

    def tokens() -> Tensor:
        if categories is None:
            emitted = plain.soft_emissions(table, leaf)
        else:
            emitted = plain.listed_emissions(table, leaf, categories)
        value = plain.chain_log_value(work.log_parameters, emitted)
        (found,) = torch.autograd.grad(value.sum(), leaf)
        if categories is None:
            return found
        full = found.new_zeros(*found.shape[:2], len(table))
        return full.scatter_add(2, categories, found)

    return Contender(tokens, tokens, "of all categories")


def _sampling(work: Work) -> Contender:
    initial, transition, emission = (
        work.log_parameters[name].exp() for name in ("initial", "transition", "emission")
    )

    def sample(number: int = NUM_SAMPLES) -> Tensor:
        states = [torch.multinomial(initial, number, replacement=True)]
        for _ in range(work.plan.num_variables - 1):
            states.append(torch.multinomial(transition[states[-1]], 1)[:, 0])
        return torch.stack([torch.multinomial(emission[s], 1)[:, 0] for s in states], 1)

    return Contender(sample, lambda: sample(CHECKED_SAMPLES), f"{NUM_SAMPLES} samples")
