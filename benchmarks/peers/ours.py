"""This library, through its public names."""

from __future__ import annotations

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.peers import Contender, NotApplicableError, Result
from benchmarks.suite import BACKWARD, EM, FORWARD, MARGINALS, Work

EM_SETTINGS = pc.EMSettings("plain", pseudocount=0.0)
# Samples that are timed, and that are drawn for the check.
NUM_SAMPLES, CHECKED_SAMPLES = 256, 4000


def contender(work: Work, pass_: str, impl: str = "auto") -> Contender:
    """Parameters are prepared once where no gradient in them is taken, as a user would do."""
    if pass_ == BACKWARD:
        return _backward(work, impl)
    if pass_ == EM:
        return _em(work)
    prepared = pc.prepare(work.plan, work.log_parameters)
    if pass_ == FORWARD:
        forward = torch.no_grad()(lambda: pc.forward(work.plan, prepared, work.evidence, impl=impl))
        choice = pc.choose_implementation(work.plan, prepared, work.evidence, impl=impl)
        return Contender(forward, forward, f"impl={choice.implementation}")
    if pass_ == MARGINALS:
        return _marginals(work, prepared)

    def sample(number: int = NUM_SAMPLES) -> Tensor:
        return pc.queries.sample(work.plan, prepared, number)

    return Contender(sample, lambda: sample(CHECKED_SAMPLES), f"{NUM_SAMPLES} samples")


def _backward(work: Work, impl: str) -> Contender:
    leaves = {n: p.clone().requires_grad_() for n, p in work.log_parameters.items()}

    def call() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        pc.forward(work.plan, leaves, work.evidence, impl=impl).sum().backward()

    def result() -> Result:
        call()
        return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    choice = pc.choose_implementation(work.plan, leaves, work.evidence, impl=impl)
    return Contender(call, result, f"impl={choice.implementation}")


def _em(work: Work) -> Contender:
    def step() -> dict[str, Tensor]:
        new, _, _ = pc.em_step(
            work.plan,
            work.log_parameters,
            pc.EMState(),
            work.evidence,
            EM_SETTINGS,
            num_rows=work.case.batch_size,
        )
        return new

    return Contender(step, lambda: {name: log.exp() for name, log in step().items()})


def _marginals(work: Work, prepared: pc.PreparedParameters) -> Contender:
    if work.case.evidence != "values":
        tokens = lambda: pc.queries.marginals(work.plan, prepared, work.evidence)  # noqa: E731
        return Contender(tokens, tokens, "of all categories")
    if work.case.family not in ("HMM", "HCLT"):
        raise NotApplicableError("all variables are observed")
    latents = work.latents

    def states() -> dict[str, Tensor]:
        return pc.queries.latent_marginals(work.plan, prepared, work.evidence, latents)

    return Contender(states, lambda: torch.stack([states()[n] for n in latents]), "of the states")
