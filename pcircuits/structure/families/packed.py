"""Chains of many states held as several nodes, with parameters that all nodes share.

State c M + j is unit j of node c.
"""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Part, Sum


def tied(name: str, position: int, homogeneous: bool) -> str:
    """Name of a parameter: of all positions, or of one."""
    return name if homogeneous else f"{name}_{position}"


def packed(name: str, place: int, size: int) -> Part:
    """The part of a parameter that belongs to the node at a place, of nodes of equal size."""
    return Part(name, place * size)


def emissions(
    variable: int, num_nodes: int, num_units: int, num_categories: int, parameter: str
) -> list[AnyNode]:
    """The inputs of a position, which share one table (all states, V)."""
    return [
        Input(
            variable,
            num_units=num_units,
            num_categories=num_categories,
            parameter=packed(parameter, place, num_units),
            name=f"state_{variable}_{place}",
        )
        for place in range(num_nodes)
    ]


def chain_root(chain: Sequence[AnyNode]) -> Circuit:
    """The circuit that draws the first of all states from `initial`."""
    return Circuit(Sum(*chain, num_units=1, parameter="initial", name="root"))
