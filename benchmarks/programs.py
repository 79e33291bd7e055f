"""The plain PyTorch versions of the cases, with their tensors laid out as suits them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from benchmarks import plain
from benchmarks.expected import maximised
from benchmarks.peers import Contender, NotApplicableError
from benchmarks.suite import BACKWARD, EM, FORWARD, Work

Tensors = Mapping[str, Tensor]
Chain = Callable[[Tensors, Tensor], Tensor]


@dataclass(frozen=True)
class Program:
    """A log-likelihood and its tensors.

    Attributes:
        leaves: Name -> tensor that it takes.
        function: leaves -> (B,) log-values.
        by_name: Tensors like the leaves -> by the circuit's parameter names.
    """

    leaves: Tensors
    function: Callable[[Tensors], Tensor]
    by_name: Callable[[Tensors], dict[str, Tensor]]


def program_of(work: Work, chain: Chain = plain.chain_log_value) -> Program:
    """A chain is a loop over positions, a tree one product a level, all else a loop over nodes."""
    if work.case.family == "HMM":
        return _chain_program(work, chain)
    if work.case.family.startswith("binary tree"):
        return _tree_program(work)
    return Program(
        work.log_parameters,
        lambda leaves: plain.circuit_log_value(work.plan.circuit, leaves, work.evidence),
        dict,
    )


def likelihood_contender(
    program: Program, work: Work, pass_: str, function: Callable[[Tensors], Tensor]
) -> Contender:
    """The passes that follow from a differentiable log-likelihood.

    Args:
        program: What `function` computes, with its tensors.
        work: The case.
        pass_: Forward, forward and backward, or a step of EM.
        function: The program's function, or what a compiler made of it.

    Raises:
        NotApplicableError: For another pass.
    """
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in program.leaves.items()}

    def gradients() -> dict[str, Tensor]:
        for leaf in leaves.values():
            leaf.grad = None
        function(leaves).sum().backward()
        found = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        return found

    def step() -> dict[str, Tensor]:
        return maximised(work.plan, program.by_name(gradients()), program.by_name(program.leaves))

    if pass_ == FORWARD:
        forward = torch.no_grad()(lambda: function(program.leaves))
        return Contender(forward, forward)
    if pass_ == BACKWARD:
        return Contender(gradients, lambda: program.by_name(gradients()))
    if pass_ == EM:
        return Contender(step, step)
    raise NotApplicableError("not written in plain PyTorch")


def emissions(work: Work, table: Tensor) -> Tensor:
    """(L, B, K) log-likelihoods of a chain's states, from its table (V, K)."""
    evidence = work.evidence
    if evidence.log_potentials is None:
        return embedding(work.values.T, table)
    if evidence.categories is None:
        return plain.soft_emissions(table, evidence.log_potentials)
    return plain.listed_emissions(table, evidence.log_potentials, evidence.categories)


def _chain_program(work: Work, chain: Chain) -> Program:
    def swapped(tensors: Tensors) -> dict[str, Tensor]:
        return {n: t.T.contiguous() if n == "emission" else t for n, t in tensors.items()}

    def function(leaves: Tensors) -> Tensor:
        return chain(leaves, emissions(work, leaves["emission"]))

    return Program(swapped(work.log_parameters), function, swapped)


def _tree_program(work: Work) -> Program:
    length = work.plan.num_variables
    levels = plain.stacked_tree(work.log_parameters, length)
    pairs = work.case.family.endswith("all pairs")

    def function(leaves: Tensors) -> Tensor:
        return plain.tree_log_likelihood(list(leaves.values()), work.values, pairs=pairs)

    return Program(
        {f"level_{i}": level for i, level in enumerate(levels)},
        function,
        lambda tensors: plain.unstacked_tree(list(tensors.values())),
    )
