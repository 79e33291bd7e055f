"""Products of compatible circuits."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.errors import ParameterError, StructureError
from pcircuits.operators.assembly import Assembler
from pcircuits.operators.condition import gathered_root
from pcircuits.operators.regrouping import Regrouping
from pcircuits.operators.tables import dtype_of, table_of, weight_of
from pcircuits.operators.units import Units, add, densified, input_weight, product, sum_weight
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Input, Sum
from pcircuits.validate import compatible

Pair = tuple[AnyNode, AnyNode]
"""A node of the first circuit and one of the second, of the same scope."""


def multiply(first: WeightedCircuit, second: WeightedCircuit) -> WeightedCircuit:
    """The circuit whose value in every world is the product of two circuits' values.

    Every pair of nodes that meet becomes a node, whose units are all pairs of theirs: sums multiply
    their weights pairwise, products pair the factors of equal scope, regrouped where one has more
    of them (Vergari et al., "A compositional atlas of tractable circuit operations for
    probabilistic inference", NeurIPS 2021, theorem 3.1 and algorithm 3). Pairs that are zero
    everywhere are left out. Pairs of tied nodes are tied, and a product without weights on either
    side, such as of two logic circuits, has none. Inputs and sums over one variable are named after
    their pair, as in "state_0 * input_3", and their units are all pairs, the second's fastest: so
    potentials over a factor's units can be given to the product's. The result is not normalised;
    `normalise` does that and gives the log of the sum. Cost: at most the product of the sizes.

    Args:
        first: A circuit.
        second: A circuit that is compatible with it, of the same variables; a fully factorised one
            is compatible with all.

    Returns:
        The product.

    Raises:
        StructureError: If the circuits are not compatible, naming two products.
        ParameterError: If the product is zero in every world because of the circuits' zeros.

    Examples:
        A model times a constraint: a hidden Markov chain that holds exactly two ones.

        >>> hmm = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
        >>> two_ones = pc.families.automaton(
        ...     [{1: 1, 0: 0}, {1: 2, 0: 1}, {0: 2}], accepting={2}, length=4, num_categories=2
        ... )
        >>> product = pc.operators.multiply(hmm.weighted(), pc.WeightedCircuit(two_ones, {}))
        >>> constrained, log_probability = pc.operators.normalise(product)
        >>> drawn = pc.CircuitModel.of(constrained).sample(100)
        >>> drawn.sum(dim=1).unique()
        tensor([2])
    """
    fits = compatible(first.circuit, second.circuit)
    if not fits:
        raise StructureError(f"multiply needs compatible circuits; {fits}")
    assembler = Assembler(dtype_of(first, second))
    root = _Multiplication(assembler, first, second).run()
    if root is None:
        raise ParameterError("the product of the circuits is zero in every world")
    return assembler.build(gathered_root(assembler, root))


def square(weighted: WeightedCircuit) -> WeightedCircuit:
    """The square of a circuit's value in every world.

    Args:
        weighted: A structured-decomposable circuit.

    Returns:
        Its product with itself, not normalised.

    Raises:
        StructureError: If the circuit is not structured-decomposable, naming two products.
        ParameterError: If the circuit is zero in every world.

    Examples:
        >>> tree = pc.chow_liu(torch.tensor([[0, 0], [0, 0], [1, 1]]), pseudocount=0)
        >>> squared = pc.operators.square(tree)
        >>> _, log_sum = pc.operators.normalise(squared)
        >>> log_sum.exp()  # (2/3)^2 + (1/3)^2, the probability that two draws agree
        tensor(0.5556, dtype=torch.float64)
    """
    return multiply(weighted, weighted)


@dataclass(frozen=True, eq=False)
class _Terms:
    """A node seen as a sum: anything that is not one is the sum of itself.

    Attributes:
        children: What is summed.
        table: (K, C) log-weights.
        mixing: Whether unit k sums only the children's units k.
        weighted: Whether there are weights.
        key: Equal for equal weights of one circuit.
    """

    children: tuple[AnyNode, ...]
    table: Tensor
    mixing: bool
    weighted: bool
    key: Hashable

    @property
    def sizes(self) -> list[int]:
        """Numbers of units of the children."""
        return [child.num_units for child in self.children]

    @property
    def full(self) -> bool:
        """Whether every unit sums all units of the children."""
        return not self.mixing or (len(self.table) == 1 and set(self.sizes) == {1})

    def dense(self) -> Tensor:
        """(K, units of all children) log-weights."""
        return densified(self.table, self.sizes) if self.mixing else self.table


class _Multiplication:
    """Multiplies pair after pair, with a stack of its own: circuits are deeper than Python's."""

    def __init__(
        self, assembler: Assembler, first: WeightedCircuit, second: WeightedCircuit
    ) -> None:
        self._assembler = assembler
        self._sides = (first, second)
        self._known: dict[Pair, Units | None] = {}
        self._supports: dict[tuple[int, int], tuple[int, ...]] = {}
        self._regrouping = Regrouping()
        self._tables: dict[Hashable, Tensor] = {}

    def run(self) -> Units | None:
        """The product of the roots; None if it is zero."""
        first, second = self._sides
        roots = (first.circuit.root, second.circuit.root)
        stack = [self._steps(roots)]
        while stack:
            below = next(stack[-1], None)
            if below is None:
                stack.pop()
            elif below not in self._known:
                stack.append(self._steps(below))
        return self._known[roots]

    def _steps(self, pair: Pair) -> Generator[Pair]:
        """Makes the product of a pair; yields the pairs that have to be known first."""
        if isinstance(pair[0], Sum) or isinstance(pair[1], Sum):
            yield from self._sum(pair)
        elif isinstance(pair[0], Input) and isinstance(pair[1], Input):
            self._known[pair] = self._input(pair[0], pair[1])
        else:
            yield from self._product(pair)

    def _sum(self, pair: Pair) -> Generator[Pair]:
        dtype = self._assembler.dtype
        left, right = (_terms(w, node, dtype) for w, node in zip(self._sides, pair, strict=True))
        pairs = [(a, b) for a in left.children for b in right.children]
        yield from pairs
        found = [self._known[inner] for inner in pairs]
        alive = [units is not None for units in found]
        parts = [units for units in found if units is not None]
        if not parts:
            self._known[pair] = None
            return
        both = left.mixing and right.mixing
        if both:
            parts = self._spread(pair, pairs, found)
        key = (left.key, right.key, tuple(alive), tuple(left.sizes), tuple(right.sizes))
        if key not in self._tables:
            make = _mixed if both else _outer
            self._tables[key] = make(left, right, alive)
        table = self._tables[key]
        plain = not left.weighted and not right.weighted and (both or (left.full and right.full))
        weight = None if plain else sum_weight(table, key)
        self._known[pair] = add(
            self._assembler, parts, weight, table, mixing=both, name=self._name(pair)
        )

    def _name(self, pair: Pair) -> str | None:
        """What a pair over one variable is called; products that are regrouped have no name."""
        if len(pair[0].scope) > 1:
            return None
        sides = zip(self._sides, pair, strict=True)
        return " * ".join(weighted.circuit.node_names[node] for weighted, node in sides)

    def _spread(
        self, pair: Pair, pairs: Sequence[Pair], found: Sequence[Units | None]
    ) -> list[Units]:
        """The terms of a mixing sum, all units of each: a child of one unit serves every other."""
        rows, columns = _grid(pair[0].num_units, pair[1].num_units)
        spread = []
        for (a, b), units in zip(pairs, found, strict=True):
            if units is None:
                continue
            if units.size == 1 and units.index is None:
                spread.append(units)
                continue
            own = rows if a.num_units > 1 else torch.zeros_like(rows)
            other = columns if b.num_units > 1 else torch.zeros_like(columns)
            spread.append(units.take(own * b.num_units + other))
        return spread

    def _input(self, first: Input, second: Input) -> Units | None:
        size = first.num_units * second.num_units
        name = self._name((first, second))
        if first.supports is not None and second.supports is not None:
            common = tuple(
                self._shared_support(a, b) for a in first.supports for b in second.supports
            )
            if not any(common):
                return None
            node = self._assembler.input(first.variable, first.num_categories, common, name=name)
            return Units(size, node)
        key = (_input_key(self._sides[0], first), _input_key(self._sides[1], second))
        if key not in self._tables:
            left = table_of(self._sides[0], first, self._assembler.dtype)
            right = table_of(self._sides[1], second, self._assembler.dtype)
            self._tables[key] = (left[:, None] + right).flatten(0, 1)
        table = self._tables[key]
        if bool(table.isneginf().all()):
            return None
        weight = input_weight(table, key)
        node = self._assembler.input(first.variable, first.num_categories, weight, name=name)
        return Units(size, node)

    def _shared_support(self, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
        # By identity: supports of many categories are shared by many inputs, and long to compare.
        key = (id(first), id(second))
        if key not in self._supports:
            self._supports[key] = tuple(sorted(set(first) & set(second)))
        return self._supports[key]

    def _product(self, pair: Pair) -> Generator[Pair]:
        """Pairs the factors of equal scope; the small scopes first, since a zero ends it."""
        parts = []
        rows, columns = _grid(pair[0].num_units, pair[1].num_units)
        for scope in self._regrouping.common_scopes(pair[0], pair[1]):
            left, own = self._regrouping.part(pair[0], scope)
            right, other = self._regrouping.part(pair[1], scope)
            yield left, right
            units = self._known[left, right]
            if units is None:
                self._known[pair] = None
                return
            parts.append(units.take(own[rows] * right.num_units + other[columns]))
        self._known[pair] = product(self._assembler, parts)


def _terms(weighted: WeightedCircuit, node: AnyNode, dtype: torch.dtype) -> _Terms:
    if not isinstance(node, Sum):
        table = torch.zeros(node.num_units, 1, dtype=dtype)
        return _Terms((node,), table, True, False, ("itself", node.num_units))
    weight, table = weight_of(weighted, node), table_of(weighted, node, dtype)
    key = weight.key if weight else ("plain", node.num_units)
    return _Terms(node.children, table, node.mixing, node.weighted, (key, node.mixing))


def _grid(first: int, second: int) -> tuple[Tensor, Tensor]:
    """Unit of the first and of the second node for each unit of their product."""
    unit = torch.arange(first * second)
    return unit // second, unit % second


def _input_key(weighted: WeightedCircuit, node: Input) -> Hashable:
    weight = weight_of(weighted, node)
    return node.supports if weight is None else weight.key


def _mixed(left: _Terms, right: _Terms, alive: Sequence[bool]) -> Tensor:
    """(pairs of units, pairs of children) log-weights of two sums that mix unit by unit."""
    table = left.table[:, None, :, None] + right.table[None, :, None, :]
    return table.flatten(2).flatten(0, 1)[:, torch.tensor(alive)]


def _outer(left: _Terms, right: _Terms, alive: Sequence[bool]) -> Tensor:
    """(pairs of units, pairs of units of every pair of children) log-weights of dense sums."""
    rights = right.dense().split(right.sizes, dim=1)
    pairs = ((a, b) for a in left.dense().split(left.sizes, dim=1) for b in rights)
    return torch.cat(
        [
            (a[:, None, :, None] + b[None, :, None, :]).flatten(2).flatten(0, 1)
            for (a, b), living in zip(pairs, alive, strict=True)
            if living
        ],
        dim=1,
    )
