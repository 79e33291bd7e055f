"""Hypothesis strategies for little random circuits and their parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc

AnyNode = pc.Input | pc.Product | pc.KroneckerProduct | pc.Sum
Draw = Callable[[st.SearchStrategy], object]
MAX_VARIABLES = 5
MAX_CATEGORIES = 3
MAX_UNITS = 4
ENOUGH_NODES = 12

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def circuits(draw: Draw, *, tied: bool | None = None) -> pc.Circuit:
    """Random circuits of all node kinds over at most five variables of two or three categories.

    Args:
        draw: Given by hypothesis.
        tied: Whether nodes may share parameters; None draws it.
    """
    # One variable alone says little: more are drawn more often.
    length = draw(st.sampled_from([1, 2, 3, 3, 4, 4, MAX_VARIABLES]))
    categories = tuple(draw(st.integers(2, MAX_CATEGORIES)) for _ in range(length))
    tie = draw(st.booleans()) if tied is None else tied
    builder = Builder(draw, categories, tie)
    return pc.Circuit(builder.node(tuple(range(length)), num_units=1, sums=2))


@dataclass
class Builder:
    """Builds nodes by splitting regions, sometimes reusing a node that is already there."""

    draw: Draw
    categories: tuple[int, ...]
    tie: bool
    made: list[AnyNode] = field(default_factory=list)

    def node(self, scope: tuple[int, ...], *, num_units: int, sums: int) -> AnyNode:
        """A node of the given scope and size; at most `sums` more nodes keep its scope below it."""
        bits = sum(1 << variable for variable in scope)
        same = [n for n in self.made if n.scope.bits == bits and n.num_units == num_units]
        if same and self._chance(3):
            return self.draw(st.sampled_from(same))
        free = sums > 0 and len(self.made) < ENOUGH_NODES
        kinds = ["split"] + ["dense", "mixing", "dense", "mixing", "wrap"] * free
        kind = self.draw(st.sampled_from(kinds))
        if kind == "wrap":
            node = self._wrap(scope, num_units, sums - 1)
        elif kind != "split":
            node = self._sum(scope, num_units, sums - 1, mixing=kind == "mixing")
        elif len(scope) == 1:
            node = self._input(scope[0], num_units)
        else:
            node = self._product(scope, num_units)
        self.made.append(node)
        return node

    def _input(self, variable: int, num_units: int) -> pc.Input:
        size = self.categories[variable]
        return pc.Input(
            variable,
            num_units=num_units,
            num_categories=size,
            parameter=self._tie(f"tied_input_{num_units}x{size}"),
            name=self._name(),
        )

    def _wrap(self, scope: tuple[int, ...], num_units: int, sums: int) -> AnyNode:
        """A product of one child: legal, changes nothing, and easily forgotten."""
        kind = self.draw(st.sampled_from([pc.Product, pc.KroneckerProduct]))
        return kind(self.node(scope, num_units=num_units, sums=sums), name=self._name())

    def _product(self, scope: tuple[int, ...], num_units: int) -> AnyNode:
        parts = self._split(scope)
        if self._chance(2):
            children = [self.node(part, num_units=num_units, sums=2) for part in parts]
            return pc.Product(*children, name=self._name())
        sizes = [1] * len(parts)
        for prime in _prime_factors(num_units):
            sizes[self.draw(st.integers(0, len(parts) - 1))] *= prime
        children = [
            self.node(part, num_units=size, sums=2) for part, size in zip(parts, sizes, strict=True)
        ]
        return pc.KroneckerProduct(*children, name=self._name())

    def _sum(self, scope: tuple[int, ...], num_units: int, sums: int, *, mixing: bool) -> pc.Sum:
        sizes = st.sampled_from([num_units, 1]) if mixing else st.integers(1, MAX_UNITS)
        children = [
            self.node(scope, num_units=self.draw(sizes), sums=sums)
            for _ in range(self.draw(st.integers(1, 3)))
        ]
        inputs = len(children) if mixing else sum(child.num_units for child in children)
        kind = "mixing" if mixing else "dense"
        return pc.Sum(
            *children,
            num_units=num_units,
            mixing=mixing,
            parameter=self._tie(f"tied_{kind}_{num_units}x{inputs}"),
            name=self._name(),
        )

    def _split(self, scope: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The scope in two or three parts that are not empty, in any arrangement."""
        order = self.draw(st.permutations(scope))
        parts = self.draw(st.integers(2, min(3, len(scope))))
        cuts = sorted(
            self.draw(
                st.sets(st.integers(1, len(scope) - 1), min_size=parts - 1, max_size=parts - 1)
            )
        )
        ends = [0, *cuts, len(scope)]
        return [tuple(order[a:b]) for a, b in itertools.pairwise(ends)]

    def _tie(self, name: str) -> str | None:
        return name if self.tie and self._chance(2) else None

    def _name(self) -> str | None:
        return f"named_{len(self.made)}_{self.draw(SEEDS)}" if self._chance(4) else None

    def _chance(self, one_in: int) -> bool:
        return self.draw(st.integers(1, one_in)) == one_in


@st.composite
def parameters_of(
    draw: Draw,
    circuit: pc.Circuit,
    *,
    batch_size: int = 1,
    per_example: bool | None = None,
    zeros: bool | None = None,
    normalized: bool | None = None,
) -> dict[str, Tensor]:
    """Random float64 log-weights of a circuit.

    Args:
        draw: Given by hypothesis.
        circuit: The circuit.
        batch_size: B of parameters that are given per example.
        per_example: Whether all parameters have a batch dimension; None draws it for each.
        zeros: Whether some weights are exactly zero; None draws it.
        normalized: Whether rows sum to one; None draws it.
    """
    generator = torch.Generator().manual_seed(draw(SEEDS))
    with_zeros = draw(st.booleans()) if zeros is None else zeros
    with_norm = draw(st.booleans()) if normalized is None else normalized
    parameters = {}
    for name, shape in circuit.parameter_shapes.items():
        batched = draw(st.booleans()) if per_example is None else per_example
        full = (batch_size, *shape) if batched else shape
        parameters[name] = random_log_weights(
            full, generator, zeros=with_zeros, normalized=with_norm
        )
    return parameters


def random_log_weights(
    shape: tuple[int, ...], generator: torch.Generator, *, zeros: bool, normalized: bool
) -> Tensor:
    """Float64 log-weights of the given shape; if `zeros`, one in five is, but never a whole row."""
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    if zeros:
        empty = torch.rand(shape, generator=generator) < 0.2
        empty = empty & ~empty.all(dim=-1, keepdim=True)
        weights = weights.masked_fill(empty, -math.inf)
    return weights.log_softmax(dim=-1) if normalized else weights


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
