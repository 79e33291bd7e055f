"""A small coupled joint and its enumeration in plain sums."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

import pcircuits as pc


@dataclass(frozen=True)
class Case:
    """A circuit, a denoiser's output on a batch of windows, and all worlds."""

    plan: pc.Plan
    parameters: dict[str, Tensor]
    log_probs: Tensor
    values: Tensor
    observed: Tensor
    worlds: Tensor

    def circuit(self) -> Tensor:
        """(N,) probability of every world under the circuit."""
        return pc.forward(
            self.plan, self.parameters, pc.Evidence(self.worlds), impl="reference"
        ).exp()

    def joint(self, log_potentials: Tensor) -> Tensor:
        """(B, N) probability of every world given the visible tokens, under potentials."""
        weights = self.circuit().expand(len(self.values), -1).clone()
        for i in range(self.worlds.shape[1]):
            world = self.worlds[:, i]
            agrees = (world == self.values[:, i, None]).double()
            factor = log_potentials[:, i].exp()[:, world]
            weights = weights * torch.where(self.observed[:, i, None], agrees, factor)
        return weights / weights.sum(1, keepdim=True)

    def marginals(self, joint: Tensor) -> Tensor:
        """(B, W, V) single-token marginals of a joint over worlds."""
        one_hot = torch.nn.functional.one_hot(self.worlds, self.log_probs.shape[2]).double()
        return torch.einsum("bn,nlv->blv", joint, one_hot)


def small_case(*, seed: int = 0, length: int = 4, num_categories: int = 3) -> Case:
    """An HMM of three states over windows of four tokens, two of them partly visible."""
    generator = torch.Generator().manual_seed(seed)
    plan = pc.compile_circuit(pc.families.hmm(length, 3, num_categories))
    parameters = {
        name: (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).log_softmax(-1)
        for name, shape in plan.parameter_shapes.items()
    }
    shape = (3, length, num_categories)
    log_probs = torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    values = torch.randint(0, num_categories, shape[:2], generator=generator)
    observed = torch.zeros(shape[:2], dtype=torch.bool)
    observed[0, 1] = observed[1, 0] = observed[1, 3] = True
    worlds = torch.tensor(list(itertools.product(range(num_categories), repeat=length)))
    return Case(plan, parameters, log_probs, values, observed, worlds)
