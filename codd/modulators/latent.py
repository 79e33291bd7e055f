"""Latent-space modulation: potentials over the circuit's latent units (arXiv 2603.00045, E.1)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

import pcircuits as pc
from codd.modulators.base import Head, Modulation, num_units, position_nodes


class LatentModulator(nn.Module):
    """Hidden states say which latent units are active at each position.

    p(x) becomes sum_z p(x, z) prod_i phi_i(z_i), phi_i a low-rank function of the hidden state at
    position i, over the units of all inputs of that position. It starts as the static circuit.
    Potentials that single out one latent path make the circuit a product distribution, under which
    the copula is the factorised output.

    Args:
        plan: The learned circuit's plan.
        hidden_size: Width D of the hidden states.
        rank: Width of the bottleneck.
    """

    kind = "latent"

    def __init__(self, plan: pc.Plan, hidden_size: int, rank: int = 64) -> None:
        super().__init__()
        self.plan = plan
        self.rank = rank
        self.nodes = position_nodes(plan)
        self.sizes = [[num_units(plan, name) for name in names] for names in self.nodes]
        self.head = Head(hidden_size, rank, sum(self.sizes[0]))

    def forward(self, hidden: Tensor, parameters: Mapping[str, Tensor]) -> Modulation:
        """Latent potentials from hidden states (B, W, D); the parameters stay shared."""
        potentials = self.head(hidden)
        latent = {
            name: own
            for i, names in enumerate(self.nodes)
            for name, own in zip(names, potentials[:, i].split(self.sizes[i], -1), strict=True)
        }
        return Modulation(parameters, latent)
