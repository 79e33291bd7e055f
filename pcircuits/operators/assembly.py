"""Makes a weighted circuit from a list of what its nodes are to be.

Nodes are written down first and made last, since only then is known which of them the root reaches
and so which weights there are: weights of one name become one parameter, whole if all nodes are
tied, else with a part for each.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.operators.tables import Weight
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

Supports = tuple[tuple[int, ...], ...]

_AUTOMATIC = re.compile(r"(input|product|kronecker|sum)_\d+")


@dataclass(frozen=True, eq=False)
class _Record:
    """A node to be made; only the fields of its kind are used."""

    kind: type[AnyNode]
    num_units: int
    children: tuple[int, ...] = ()
    weight: Weight | None = None
    variable: int = 0
    num_categories: int = 0
    supports: Supports | None = None
    mixing: bool = False
    name: str | None = None

    @property
    def group(self) -> Hashable:
        """Whose weights may be in one parameter."""
        assert self.weight is not None, "asked of nodes with weights only"
        return self.kind, self.weight.name, self.num_categories

    @property
    def tie(self) -> Hashable:
        """Whose weights are the same."""
        assert self.weight is not None, "asked of nodes with weights only"
        return self.weight.key, tuple(self.weight.table.shape), self.mixing


class Assembler:
    """A list of nodes to be made, each after its children; they are called by their numbers.

    Args:
        dtype: Floating-point type of weights that are made up.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._records: list[_Record] = []

    def num_units(self, node: int) -> int:
        """Number of units of a node."""
        return self._records[node].num_units

    def input(
        self,
        variable: int,
        num_categories: int,
        content: Weight | Supports,
        *,
        name: str | None = None,
    ) -> int:
        """Adds an input: distributions, or indicators of the given supports."""
        if isinstance(content, Weight):
            weight, supports, num_units = content, None, len(content.table)
        else:
            weight, supports, num_units = None, content, len(content)
        return self._add(
            _Record(
                Input,
                num_units,
                weight=weight,
                variable=variable,
                num_categories=num_categories,
                supports=supports,
                name=name,
            )
        )

    def product(self, children: Sequence[int], *, name: str | None = None) -> int:
        """Adds an elementwise product."""
        units = self.num_units(children[0])
        return self._add(_Record(Product, units, tuple(children), name=name))

    def kronecker(self, children: Sequence[int], *, name: str | None = None) -> int:
        """Adds a product of all combinations."""
        units = math.prod(map(self.num_units, children))
        return self._add(_Record(KroneckerProduct, units, tuple(children), name=name))

    def sum(
        self,
        children: Sequence[int],
        num_units: int,
        weight: Weight | None,
        *,
        mixing: bool = False,
        name: str | None = None,
    ) -> int:
        """Adds a sum; without weights a plain one."""
        return self._add(
            _Record(Sum, num_units, tuple(children), weight=weight, mixing=mixing, name=name)
        )

    def build(self, root: int) -> WeightedCircuit:
        """Makes all nodes that the root needs.

        Args:
            root: The number of a node of one unit.

        Returns:
            The circuit and its weights.
        """
        places = self._reached(root)
        parameters = _Parameters(self._records[place] for place in places)
        names = _NodeNames(self._records[place] for place in places)
        made: dict[int, AnyNode] = {}
        for place in places:
            record = self._records[place]
            children = [made[child] for child in record.children]
            parameter = parameters.parameter_of(record)
            made[place] = _node(record, children, parameter, names.name_of(record, place))
        return WeightedCircuit(Circuit(made[root]), parameters.tensors())

    def _add(self, record: _Record) -> int:
        self._records.append(record)
        return len(self._records) - 1

    def _reached(self, root: int) -> list[int]:
        needed = {root}
        for place in range(root, -1, -1):
            if place in needed:
                needed.update(self._records[place].children)
        return sorted(needed)


def _node(
    record: _Record, children: Sequence[AnyNode], parameter: str | Part | None, name: str | None
) -> AnyNode:
    if record.kind is Input:
        return Input(
            record.variable,
            num_units=record.num_units,
            num_categories=record.num_categories,
            supports=record.supports,
            parameter=parameter,
            name=name,
        )
    if record.kind is Sum:
        return Sum(
            *children,
            num_units=record.num_units,
            mixing=record.mixing,
            weighted=parameter is not None,
            parameter=parameter,
            name=name,
        )
    return Product(*children, name=name) if record.kind is Product else _kronecker(children, name)


def _kronecker(children: Sequence[AnyNode], name: str | None) -> KroneckerProduct:
    return KroneckerProduct(*children, name=name)


class _Parameters:
    """Where the weights of each node go: the tables of a group in the order of their nodes."""

    def __init__(self, records: Iterable[_Record]) -> None:
        self._tables: dict[Hashable, dict[Hashable, _Record]] = {}
        self._starts: dict[tuple[Hashable, Hashable], int] = {}
        ends: dict[Hashable, int] = {}
        for record in records:
            if record.weight is None:
                continue
            group, tie = record.group, record.tie
            tables = self._tables.setdefault(group, {})
            if tie not in tables:
                tables[tie] = record
                self._starts[group, tie] = ends.get(group, 0)
                size = (
                    len(record.weight.table)
                    if record.kind is Input
                    else record.weight.table.numel()
                )
                ends[group] = ends.get(group, 0) + size
        self._names = dict(zip(self._tables, _distinct(self._wishes()), strict=True))

    def parameter_of(self, record: _Record) -> str | Part | None:
        """The parameter of a node."""
        if record.weight is None:
            return None
        name = self._names[record.group]
        if len(self._tables[record.group]) == 1:
            return name
        return Part(name, self._starts[record.group, record.tie])

    def tensors(self) -> dict[str, Tensor]:
        """Parameter name -> log-weights."""
        return {self._names[group]: _tensor(list(t.values())) for group, t in self._tables.items()}

    def _wishes(self) -> Iterator[str]:
        for tables in self._tables.values():
            weight = next(iter(tables.values())).weight
            assert weight is not None, "only nodes with weights were put down"
            yield weight.name


def _tensor(records: Sequence[_Record]) -> Tensor:
    tables = [record.weight.table for record in records if record.weight is not None]
    if records[0].kind is Input:
        return tables[0] if len(tables) == 1 else torch.cat(tables)
    if len(tables) > 1:
        return torch.cat([table.flatten() for table in tables])
    return tables[0][0] if len(tables[0]) == 1 else tables[0]


def _distinct(wishes: Iterable[str]) -> Iterator[str]:
    """The wished names, with a number behind those that are taken."""
    taken: set[str] = set()
    for wish in wishes:
        candidates = itertools.chain([wish], (f"{wish}_{n}" for n in itertools.count(2)))
        name = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(name)
        yield name


class _NodeNames:
    """Names of nodes: those that the circuit would make up may clash with given ones."""

    def __init__(self, records: Iterable[_Record]) -> None:
        self._given = {record.name for record in records if record.name}
        self._clash = any(_AUTOMATIC.fullmatch(name) for name in self._given)

    def name_of(self, record: _Record, place: int) -> str | None:
        """The name of a node; None leaves it to the circuit."""
        if record.name or not self._clash:
            return record.name
        name = f"new_{place}"
        while name in self._given:
            name += "_"
        return name
