"""No modulation: the learned circuit as it is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

import pcircuits as pc
from codd.modulators.base import Modulation


class StaticModulator(nn.Module):
    """Gives every window the learned parameters.

    Args:
        plan: The learned circuit's plan.
    """

    kind = "static"

    def __init__(self, plan: pc.Plan) -> None:
        super().__init__()
        self.plan = plan
        self.rank = 0

    def forward(self, hidden: Tensor, parameters: Mapping[str, Tensor]) -> Modulation:
        """The parameters as given; hidden states (B, W, D) are not looked at."""
        return Modulation(parameters)
