"""What every modulator offers, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

import pcircuits as pc
from codd.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Modulation:
    """What a modulator makes of hidden states.

    Attributes:
        parameters: Name -> log-weights of the modulated circuit, shared or (B, ...).
        latent: Node name -> (B, K) log-potentials over latent units; None without any.
    """

    parameters: Mapping[str, Tensor]
    latent: dict[str, Tensor] | None = field(default=None)


class Modulator(Protocol):
    """Turns hidden states into the parameters of a circuit over the same window."""

    @property
    def kind(self) -> str:
        """Name of the kind."""

    @property
    def plan(self) -> pc.Plan:
        """The circuit whose parameters are made; not always the one that was learned."""

    def __call__(self, hidden: Tensor, parameters: Mapping[str, Tensor]) -> Modulation:
        """Makes parameters.

        Args:
            hidden: (B, W, D) the denoiser's hidden states on the window.
            parameters: The learned circuit's normalised log-weights by name.
        """


def position_nodes(plan: pc.Plan) -> tuple[tuple[str, ...], ...]:
    """For each variable the names of its input nodes, or of what mixes them unit by unit.

    For a hidden Markov model that is the emission of its position: potentials there weight the
    hidden states. A circuit with several splits of its variables has an input for each.

    Args:
        plan: The circuit.

    Raises:
        ConfigError: If variables differ in their numbers of units.
    """
    found: list[dict[object, str]] = [{} for _ in range(plan.num_variables)]
    leaves: set[object] = set()
    for node, name in plan.circuit.node_names.items():
        mixes = isinstance(node, pc.Sum) and node.mixing and leaves.issuperset(node.children)
        if mixes or isinstance(node, pc.Input):
            leaves.add(node)
            own = found[next(iter(node.scope))]
            for child in node.children if isinstance(node, pc.Sum) else ():
                own.pop(child, None)
            own[node] = name
    nodes = tuple(tuple(own.values()) for own in found)
    sizes = {sum(num_units(plan, name) for name in names) for names in nodes}
    if len(sizes) != 1:
        raise ConfigError(
            f"a modulator needs equally many units at every variable; found {sorted(sizes)}"
        )
    return nodes


def num_units(plan: pc.Plan, name: str) -> int:
    """Number of units K of a node."""
    layer, _ = plan.places[name]
    return plan.layers[layer].num_units


class Head(nn.Module):
    """Low-rank read-out of hidden states: norm, D -> rank, activation, rank -> outputs.

    The last matrix starts at zero, so a new head changes nothing, and it is reached by a gradient
    because what comes before is not zero.

    Args:
        hidden_size: D.
        rank: Width of the bottleneck.
        num_outputs: Outputs a position.
    """

    def __init__(self, hidden_size: int, rank: int, num_outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.down = nn.Linear(hidden_size, rank)
        self.up = nn.Linear(rank, num_outputs)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, W, D) hidden states -> (B, W, num_outputs)."""
        # Hidden states come in the denoiser's number type, which need not be the head's.
        normed = self.norm(hidden.to(self.down.weight.dtype))
        found: Tensor = self.up(nn.functional.silu(self.down(normed)))
        return found
