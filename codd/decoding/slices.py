"""What a constraint allows in one window, as a circuit over the window's tokens.

The tokens before and after a window make states of the automaton likely or impossible, in each row
others. So the first and the last token of a slice have an input for each state, and how likely
that is comes as a potential over its unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pcircuits as pc
from codd.decoding.automata import Unrolled


class Place(NamedTuple):
    """Where a slice lies.

    Attributes:
        lead: Tokens of the window before it, which are free here.
        first: Its first token among the new ones.
        stop: The new token after it, at which the window ends.
    """

    lead: int
    first: int
    stop: int


class Gate(NamedTuple):
    """The states that an input belongs to; None where it serves all.

    Attributes:
        source: The state before the slice.
        target: The state after it.
    """

    source: int | None
    target: int | None


@dataclass(frozen=True, eq=False)
class Slice:
    """A constraint on one window.

    Attributes:
        circuit: Over the window's tokens, without parameters.
        gates: Name of an input of its first or last token -> its states.
    """

    circuit: pc.Circuit
    gates: Mapping[str, Gate] = field(default_factory=dict)

    def latent(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Name of an input -> its log-potentials (B, 1).

        Args:
            before: (B, S) log-weights of the states before the slice.
            after: (B, S') log-weights of those after it.
        """
        found = {}
        for name, gate in self.gates.items():
            sides = ((before, gate.source), (after, gate.target))
            own = [weights[:, [state]] for weights, state in sides if state is not None]
            found[name] = torch.stack(own).sum(0)
        return found


def cut(unrolled: Unrolled, place: Place) -> Slice:
    """What an automaton allows in a slice, from every state before it to every one after it."""
    gates: dict[str, Gate] = {}
    rests: Sequence[Any] = ()
    for at in reversed(range(place.first, place.stop)):
        opens, closes = at == place.first, at == place.stop - 1
        indicators = _Indicators(unrolled, place.lead + at - place.first)
        states: list[list[Any]] = [[] for _ in range(unrolled.num_states[at])]
        for source, support, target in unrolled.moves[at]:
            gate = Gate(source if opens else None, target if closes else None)
            own = indicators.find(support, gate)
            if opens or closes:
                gates[str(own.name)] = gate
            states[source].append(own if closes else indicators.before(own, rests[target]))
        rests = [_sum(branches) for branches in states]
    return Slice(_led(_sum(rests) if rests else None, place.lead, unrolled.num_categories), gates)


class _Indicators:
    """The inputs of one token, and their products with what follows; each is made once."""

    def __init__(self, unrolled: Unrolled, variable: int) -> None:
        self._unrolled = unrolled
        self._variable = variable
        self._inputs: dict[tuple[int, Gate], pc.Input] = {}
        self._products: dict[tuple[pc.Input, Any], pc.Product] = {}

    def find(self, support: int, gate: Gate) -> pc.Input:
        """The input that is 1 on a set of tokens."""
        key = support, gate
        if key not in self._inputs:
            self._inputs[key] = pc.Input(
                self._variable,
                num_units=1,
                num_categories=self._unrolled.num_categories,
                supports=(self._unrolled.supports[support],),
                name=f"token_{self._variable}_in_{support}_from_{gate.source}_to_{gate.target}",
            )
        return self._inputs[key]

    def before(self, own: pc.Input, rest: Any) -> pc.Product:
        """An input, and then a rest."""
        if (own, rest) not in self._products:
            self._products[own, rest] = pc.Product(own, rest)
        return self._products[own, rest]


def at_the_end(constraint: pc.Circuit, length: int) -> Slice:
    """The whole constraint on the last tokens of `length`; those before may be anything.

    Args:
        constraint: Over N variables.
        length: Tokens in all, at least N.
    """
    shift = length - constraint.num_variables
    moved: dict[object, Any] = {}
    for node in constraint.nodes:
        if isinstance(node, pc.Input):
            moved[node] = replace(node, variable=node.variable + shift)
            continue
        children = [moved[child] for child in node.children]
        if isinstance(node, pc.Sum):
            moved[node] = pc.Sum(*children, num_units=node.num_units, weighted=False)
        else:
            moved[node] = type(node)(*children)
    return Slice(_led(moved[constraint.root], shift, constraint.num_categories))


def _led(root: Any, lead: int, num_categories: int) -> pc.Circuit:
    """The circuit whose first variables are free; `root` is over the others, None if none are."""
    every = (tuple(range(num_categories)),)
    for variable in reversed(range(lead)):
        free = pc.Input(variable, num_units=1, num_categories=num_categories, supports=every)
        root = free if root is None else pc.Product(free, root)
    return pc.Circuit(root)


def _sum(terms: Sequence[Any]) -> Any:
    return terms[0] if len(terms) == 1 else pc.Sum(*terms, num_units=1, weighted=False)
