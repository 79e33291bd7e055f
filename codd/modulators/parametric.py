"""Parameter-space modulation: transitions and emissions per position (arXiv 2603.00045, E.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import pcircuits as pc
from codd.errors import ConfigError
from codd.modulators.base import Head, Modulation

_HMM = frozenset({"initial", "transition", "emission"})


class ParametricModulator(nn.Module):
    """Gates in a hidden Markov model, opened and filled from the hidden states.

    At every step state i follows the learned transition with probability g_i(h) and else jumps to
    a state drawn from q(h), whatever i is; every emission is gated likewise between the learned one
    and a distribution over tokens r(h) (the circuit `pcircuits.families.gated_hmm`). Gates start
    at `open_share`, so that gradients reach what they gate. With gates at zero and r uniform the
    circuit is the uniform distribution, and every coupling the factorised output.

    Args:
        plan: The plan of a learned homogeneous `pcircuits.families.hmm`.
        hidden_size: Width D of the hidden states.
        rank: Width of the bottlenecks.
        open_share: Initial share of jumps and overrides.

    Raises:
        ConfigError: If the plan is not that of a homogeneous HMM.
    """

    kind = "parametric"

    def __init__(
        self, plan: pc.Plan, hidden_size: int, rank: int = 64, open_share: float = 0.02
    ) -> None:
        super().__init__()
        if set(plan.parameter_shapes) != _HMM:
            raise ConfigError(
                f"the parametric modulator needs a homogeneous hmm with parameters {sorted(_HMM)}; "
                f"found {sorted(plan.parameter_shapes)}"
            )
        num_states, num_categories = plan.parameter_shapes["emission"]
        length = plan.num_variables
        self.rank = rank
        self.plan = pc.compile_circuit(pc.families.gated_hmm(length, num_states, num_categories))
        self.jump = Head(hidden_size, rank, num_states)
        self.override = Head(hidden_size, rank, num_categories)
        self.gates = Head(hidden_size, rank, 2)
        # Per-state gate biases: some states may be easier to override than others.
        self.state_bias = nn.Parameter(torch.zeros(2, num_states))
        with torch.no_grad():
            self.gates.up.bias.fill_(math.log1p(-open_share) - math.log(open_share))

    def forward(self, hidden: Tensor, parameters: Mapping[str, Tensor]) -> Modulation:
        """Parameters of the gated circuit from hidden states (B, W, D)."""
        jump = self.jump(hidden).log_softmax(-1)  # (B, W, K)
        override = self.override(hidden).log_softmax(-1)  # (B, W, V)
        gates = self.gates(hidden)[..., None] + self.state_bias  # (B, W, 2, K)
        both = torch.stack([logsigmoid(gates), logsigmoid(-gates)], dim=-1)  # (B, W, 2, K, 2)
        found = dict(parameters)
        for t in range(hidden.shape[1]):
            found[f"override_{t}"] = override[:, t, None]
            found[f"emission_gate_{t}"] = both[:, t, 1]
            if t + 1 < hidden.shape[1]:
                # The step into position t + 1 is decided by what is known there.
                found[f"jump_{t}"] = jump[:, t + 1]
                found[f"step_gate_{t}"] = both[:, t + 1, 0]
        return Modulation(found)
