"""Little deterministic circuits, and determinism by looking at every world."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

import pcircuits as pc

AnyNode = pc.Input | pc.Product | pc.KroneckerProduct | pc.Sum
Draw = Callable[[st.SearchStrategy], object]
Array = np.ndarray


@st.composite
def decision_circuits(draw: Draw, *, careless: bool = False) -> pc.Circuit:
    """Circuits whose sums decide one variable each, in an order that differs between branches.

    Args:
        draw: Given by hypothesis.
        careless: Whether branches may share categories, so that determinism may be lost.
    """
    length = draw(st.integers(1, 5))
    categories = tuple(draw(st.integers(2, 3)) for _ in range(length))
    builder = _Decisions(draw, categories, careless)
    return pc.Circuit(builder.node(frozenset(range(length))))


@dataclass
class _Decisions:
    draw: Draw
    categories: tuple[int, ...]
    careless: bool
    made: dict[frozenset[int], list[AnyNode]] = field(default_factory=dict)

    def node(self, scope: frozenset[int]) -> AnyNode:
        known = self.made.setdefault(scope, [])
        if known and (len(known) > 2 or self.draw(st.booleans())):
            return self.draw(st.sampled_from(known))
        variable = self.draw(st.sampled_from(sorted(scope)))
        rest = scope - {variable}
        groups = self._groups(variable)
        made = self._split(scope) if len(rest) > 1 and self.draw(st.integers(0, 3)) == 0 else None
        if made is None:
            terms = [self._term(variable, group, rest) for group in groups]
            weighted = self.draw(st.booleans())
            made = terms[0] if len(terms) == 1 else pc.Sum(*terms, num_units=1, weighted=weighted)
        known.append(made)
        return made

    def _split(self, scope: frozenset[int]) -> AnyNode:
        part = self.draw(st.sets(st.sampled_from(sorted(scope)), min_size=1))
        parts = [p for p in (frozenset(part), scope - part) if p]
        return pc.Product(*(self.node(p) for p in parts)) if len(parts) > 1 else self.node(scope)

    def _groups(self, variable: int) -> list[tuple[int, ...]]:
        """The categories of a variable in disjoint groups; some may be in none."""
        size = self.categories[variable]
        if self.careless and self.draw(st.booleans()):
            some = st.sets(st.integers(0, size - 1), min_size=1)
            return [tuple(self.draw(some)) for _ in range(self.draw(st.integers(1, 3)))]
        labels = [self.draw(st.integers(0, 2)) for _ in range(size)]
        found = [tuple(c for c in range(size) if labels[c] == label) for label in range(3)]
        return [group for group in found if group]

    def _term(self, variable: int, group: tuple[int, ...], rest: frozenset[int]) -> AnyNode:
        size = self.categories[variable]
        own = pc.Input(variable, num_units=1, num_categories=size, supports=(group,))
        return pc.Product(own, self.node(rest)) if rest else own


def all_worlds(circuit: pc.Circuit) -> Array:
    """(W, L) all assignments."""
    return np.array(list(itertools.product(*map(range, circuit.categories))))


def positive_terms(
    circuit: pc.Circuit, zeros: Mapping[str, Array] | None = None
) -> dict[tuple[AnyNode, int], Array]:
    """For each unit of each sum, (W, terms) whether a term is positive in a world.

    Units that do not reach the root, and terms without weight, are left out.

    Args:
        circuit: A small circuit, whose parameters are not packed.
        zeros: Parameter name -> where it is zero.
    """
    worlds, zeros = all_worlds(circuit), zeros or {}
    values: dict[AnyNode, Array] = {}
    for node in circuit.nodes:
        values[node] = _positive(circuit, node, values, worlds, zeros)
    used = {(circuit.root, 0)} if values[circuit.root].any() else set()
    found = {}
    for node in reversed(circuit.nodes):
        for unit in range(node.num_units):
            if (node, unit) in used and values[node][:, unit].any():
                terms = _terms(circuit, node, unit, zeros)
                used |= {term for term in terms if values[term[0]][:, term[1]].any()}
                if isinstance(node, pc.Sum):
                    columns = [values[child][:, k] for child, k in terms]
                    found[node, unit] = np.stack(columns, axis=1)
    return found


def _positive(
    circuit: pc.Circuit,
    node: AnyNode,
    values: Mapping[AnyNode, Array],
    worlds: Array,
    zeros: Mapping[str, Array],
) -> Array:
    """(W, K) whether a unit is positive in a world."""
    if isinstance(node, pc.Input):
        categories = worlds[:, node.variable]
        if node.supports is not None:
            return np.stack([np.isin(categories, list(s)) for s in node.supports], axis=1)
        name = circuit.parameter_names[node]
        absent = zeros.get(name, np.zeros(node.parameter_shape, dtype=bool))
        return ~absent[:, categories].T
    columns = []
    for unit in range(node.num_units):
        terms = _terms(circuit, node, unit, zeros)
        stacked = [values[child][:, k] for child, k in terms]
        join = np.any if isinstance(node, pc.Sum) else np.all
        columns.append(join(stacked, axis=0) if stacked else np.zeros(len(worlds), dtype=bool))
    return np.stack(columns, axis=1)


def _terms(
    circuit: pc.Circuit, node: AnyNode, unit: int, zeros: Mapping[str, Array]
) -> list[tuple[AnyNode, int]]:
    """The units that a unit adds or multiplies."""
    if isinstance(node, pc.Input):
        return []
    if isinstance(node, pc.KroneckerProduct):
        sizes = [child.num_units for child in node.children]
        return list(zip(node.children, map(int, np.unravel_index(unit, sizes)), strict=True))
    if isinstance(node, pc.Sum) and not node.mixing:
        terms = [(child, k) for child in node.children for k in range(child.num_units)]
    else:
        terms = [(child, unit if child.num_units > 1 else 0) for child in node.children]
    name = circuit.parameter_names.get(node)
    if name in zeros:
        absent = zeros[name].reshape(node.num_units, -1)[unit]
        terms = [term for term, zero in zip(terms, absent, strict=True) if not zero]
    return terms
