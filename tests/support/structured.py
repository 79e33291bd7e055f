"""Random circuits that follow one tree of variables, so that they can be multiplied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.parameters import WeightedCircuit
from tests.support.circuits import SEEDS, Builder, parameters_of
from tests.support.enumeration import Array, enumerate_worlds

Draw = Callable[[st.SearchStrategy], object]


@dataclass
class StructuredBuilder(Builder):
    """Splits every scope as the tree does, in two, or in three by splitting a part again.

    Inputs are sometimes indicators, sums sometimes without weights.
    """

    cuts: int = 0

    def _split(self, scope: tuple[int, ...]) -> list[tuple[int, ...]]:
        parts = self._halves(scope)
        if self._chance(3):
            again = [self._halves(part) if len(part) > 1 else [part] for part in parts]
            parts = [part for half in again for part in half]
        return list(self.draw(st.permutations(parts)))

    def _halves(self, scope: tuple[int, ...]) -> list[tuple[int, ...]]:
        ordered = tuple(sorted(scope))
        cut = 1 + hash((ordered, self.cuts)) % (len(ordered) - 1)
        return [ordered[:cut], ordered[cut:]]

    def _input(self, variable: int, num_units: int) -> pc.Input:
        if not self._chance(3):
            return super()._input(variable, num_units)
        size = self.categories[variable]
        some = st.sets(st.integers(0, size - 1), max_size=size)
        supports = tuple(tuple(self.draw(some)) for _ in range(num_units))
        return pc.Input(variable, num_units=num_units, num_categories=size, supports=supports)

    def _sum(self, scope: tuple[int, ...], num_units: int, sums: int, *, mixing: bool) -> pc.Sum:
        node = super()._sum(scope, num_units, sums, mixing=mixing)
        if not self._chance(3):
            return node
        return pc.Sum(*node.children, num_units=num_units, mixing=mixing, weighted=False)


@st.composite
def compatible_circuits(draw: Draw, count: int = 2) -> tuple[WeightedCircuit, ...]:
    """Some circuits over the same tree of variables, with weights of which some are zero."""
    length = draw(st.integers(1, 4))
    categories = tuple(draw(st.integers(2, 3)) for _ in range(length))
    cuts, found = draw(SEEDS), []
    for _ in range(count):
        builder = StructuredBuilder(draw, categories, draw(st.booleans()), cuts=cuts)
        circuit = pc.Circuit(builder.node(tuple(range(length)), num_units=1, sums=2))
        found.append(weighted_by(draw, circuit))
    return tuple(found)


def weighted_by(draw: Draw, circuit: pc.Circuit) -> WeightedCircuit:
    """The circuit with random log-weights, not normalised, some of them zero."""
    return WeightedCircuit(circuit, draw(parameters_of(circuit, per_example=False)))


def world_values(weighted: WeightedCircuit) -> Array:
    """(W,) the value in every world, in the order of `itertools.product`."""
    shape = (1, weighted.circuit.num_variables, weighted.circuit.num_categories)
    nothing = pc.Evidence(log_potentials=torch.zeros(shape, dtype=torch.float64))
    return enumerate_worlds(weighted.circuit, weighted.log_weights, nothing).weights[0]


def normalised_weights(circuit: pc.Circuit, seed: int = 0) -> WeightedCircuit:
    """The circuit with normalised float64 log-weights, far from uniform."""
    plan = pc.compile_circuit(circuit)
    weights: dict[str, Tensor] = pc.random_parameters(
        plan, seed=seed, spread=2.0, dtype=torch.float64
    )
    return WeightedCircuit(circuit, weights)
