"""Random irregular circuits of single nodes: unequal fan-ins, indicators, plain and tied sums."""

from __future__ import annotations

import random

import torch
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.parameters import row_maxima
from tests.support.circuits import SEEDS, Draw

AnyNode = pc.Input | pc.Product | pc.KroneckerProduct | pc.Sum


@st.composite
def scalar_circuits(
    draw: Draw, *, max_variables: int = 6, max_categories: int = 3, packed: bool | None = None
) -> pc.Circuit:
    """Circuits whose nodes have one unit and any number of children.

    Args:
        draw: Given by hypothesis.
        max_variables: Largest number of variables.
        max_categories: Largest number of categories of a variable.
        packed: Whether nodes hold parts of shared parameters; None draws it.
    """
    chance = random.Random(draw(SEEDS))
    pack = draw(st.booleans()) if packed is None else packed
    categories = [
        chance.randint(2, max_categories) for _ in range(chance.randint(1, max_variables))
    ]
    return pc.Circuit(_Graph(chance, categories, pack).root())


class _Graph:
    """Splits scopes at random, and reuses what it has made for a scope."""

    def __init__(self, chance: random.Random, categories: list[int], pack: bool) -> None:
        self._chance = chance
        self._categories = categories
        self._pack = pack
        self._made: dict[tuple[int, ...], list[AnyNode]] = {}
        self._sizes: dict[str, int] = {}

    def root(self) -> AnyNode:
        return self._sum(tuple(range(len(self._categories))), depth=0)

    def _node(self, scope: tuple[int, ...], depth: int) -> AnyNode:
        made = self._made.setdefault(scope, [])
        if made and self._chance.random() < 0.4:
            return self._chance.choice(made)
        if depth < 3 and self._chance.random() < 0.4:
            node = self._sum(scope, depth)
        elif len(scope) == 1:
            node = self._input(scope[0])
        else:
            node = self._product(scope, depth)
        made.append(node)
        return node

    def _input(self, variable: int) -> pc.Input:
        size = self._categories[variable]
        if self._chance.random() < 0.3:
            kept = tuple(c for c in range(size) if self._chance.random() < 0.7)
            return pc.Input(variable, num_units=1, num_categories=size, supports=(kept or (0,),))
        part = self._part(f"inputs_{size}", 1)
        return pc.Input(variable, num_units=1, num_categories=size, parameter=part)

    def _product(self, scope: tuple[int, ...], depth: int) -> pc.Product:
        parts: dict[int, list[int]] = {}
        for variable in scope:
            parts.setdefault(self._chance.randrange(4), []).append(variable)
        return pc.Product(*(self._node(tuple(own), depth) for own in parts.values()))

    def _sum(self, scope: tuple[int, ...], depth: int) -> pc.Sum:
        count = self._chance.choice([1, 2, 2, 3, 5])
        children = [self._node(scope, depth + 1) for _ in range(count)]
        if self._chance.random() < 0.2:
            return pc.Sum(*children, num_units=1, weighted=False)
        return pc.Sum(*children, num_units=1, parameter=self._part("sums", count))

    def _part(self, name: str, size: int) -> pc.Part | None:
        if not self._pack:
            return None
        start = self._sizes.get(name, 0)
        self._sizes[name] = start + size
        return pc.Part(name, start)


def scalar_parameters(circuit: pc.Circuit, seed: int, *, zeros: bool) -> dict[str, Tensor]:
    """Normalised float64 log-weights; if `zeros`, some are -inf where a row has others left."""
    plan = pc.compile_circuit(circuit)
    drawn = pc.random_parameters(plan, seed=seed, spread=1.5, dtype=torch.float64)
    if not zeros:
        return drawn
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, log in drawn.items():
        empty = torch.rand(log.shape, generator=generator) < 0.2
        thinned = log.masked_fill(empty & (log < row_maxima(plan, name, log)), -torch.inf)
        found[name] = pc.normalise_parameter(plan, name, thinned)
    return found
