"""The circuit: a graph of nodes under one root, with the names and shapes of its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pcircuits.errors import StructureError
from pcircuits.structure.nodes import (
    AnyNode,
    Input,
    KroneckerProduct,
    Part,
    Product,
    Sum,
    title_of,
)
from pcircuits.structure.scope import Scope


@dataclass(frozen=True, eq=False)
class Circuit:
    """A smooth, decomposable circuit over the variables 0 .. L-1.

    Args:
        root: A node of one unit whose scope is {0, ..., L-1}.

    Raises:
        StructureError: If the root does not have one unit, variables are missing, a name is used
            twice, nodes of one variable differ in their categories, or tied nodes differ in shape.

    Examples:
        Either both are likely, or neither is:

        >>> likely = [pc.Input(i, num_units=2, num_categories=2, name=f"x{i}") for i in range(2)]
        >>> circuit = pc.Circuit(pc.Sum(pc.Product(*likely), num_units=1))
        >>> circuit.num_variables, circuit.num_categories
        (2, 2)
        >>> [node.name for node in circuit.inputs]
        ['x0', 'x1']
    """

    root: AnyNode

    def __post_init__(self) -> None:
        if not isinstance(self.root, (Input, Product, KroneckerProduct, Sum)):
            raise StructureError(f"a circuit's root must be a node; found {type(self.root)}")
        if self.root.num_units != 1:
            raise StructureError(
                f"the root {title_of(self.root)} must have one unit; found {self.root.num_units}"
            )
        missing = Scope((1 << self.root.scope.bits.bit_length()) - 1) ^ self.root.scope
        if missing:
            raise StructureError(
                f"a circuit's variables must be 0 .. {self.num_variables - 1} without a gap; the "
                f"root {title_of(self.root)} lacks {missing}"
            )
        _ = self.categories, self.node_names, self.parameter_shapes  # each checks what it names

    @cached_property
    def nodes(self) -> tuple[AnyNode, ...]:
        """All nodes, each after its children."""
        return tuple(_children_first(self.root))

    @property
    def num_variables(self) -> int:
        """Number of variables L."""
        return self.root.scope.bits.bit_length()

    @cached_property
    def categories(self) -> tuple[int, ...]:
        """Number of categories of every variable."""
        found: dict[int, Input] = {}
        for node in self.inputs:
            other = found.setdefault(node.variable, node)
            if other.num_categories != node.num_categories:
                raise StructureError(
                    f"variable {node.variable} has {other.num_categories} categories at "
                    f"{title_of(other)} and {node.num_categories} at {title_of(node)}"
                )
        return tuple(found[variable].num_categories for variable in range(self.num_variables))

    @property
    def num_categories(self) -> int:
        """Largest number of categories V of any variable."""
        return max(self.categories)

    @property
    def inputs(self) -> Iterator[Input]:
        """The input nodes, in topological order."""
        return (node for node in self.nodes if isinstance(node, Input))

    @cached_property
    def node_names(self) -> dict[AnyNode, str]:
        """Name of every node: its own, or one made from its kind and place."""
        names: dict[AnyNode, str] = {}
        taken: dict[str, AnyNode] = {}
        for place, node in enumerate(self.nodes):
            name = node.name or f"{_KIND[type(node)]}_{place}"
            if name in taken:
                raise StructureError(
                    f"node names must differ; {name!r} names {taken[name]!r} and {node!r}"
                )
            taken[name] = node
            names[node] = name
        return names

    @cached_property
    def parameter_names(self) -> dict[AnyNode, str]:
        """Parameter name of every input and sum that has one: the given one, else the node's."""
        return {
            node: _given_name(node) or self.node_names[node]
            for node in self.nodes
            if isinstance(node, (Input, Sum)) and node.has_parameter
        }

    @cached_property
    def parameter_owners(self) -> dict[str, tuple[Input | Sum, ...]]:
        """Parameter name -> the nodes that share it or have a part of it."""
        owners: dict[str, list[Input | Sum]] = {}
        for node, name in self.parameter_names.items():
            if isinstance(node, (Input, Sum)):
                owners.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in owners.items()}

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape: that of its nodes, or (R, V) or (E,) of a shared larger one."""
        return {name: _shape(name, nodes) for name, nodes in self.parameter_owners.items()}

    @cached_property
    def parameter_rows(self) -> dict[str, tuple[int, ...] | None]:
        """Parameter name -> lengths of the distributions that a vector holds one after the other.

        None where distributions are simply the rows, along the last axis.
        """
        return {name: _rows(nodes) for name, nodes in self.parameter_owners.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # Nodes one after the other: recursion from the root would go deeper than Python's stack.
        place = {node: i for i, node in enumerate(self.nodes)}
        children = [[place[child] for child in node.children] for node in self.nodes]
        own = [{k: v for k, v in vars(node).items() if k != "children"} for node in self.nodes]
        return _restored, ([type(node) for node in self.nodes], own, children)

    def __deepcopy__(self, memo: dict[int, object]) -> Circuit:
        # Immutable, and too deep to copy by recursion.
        return self

    def __repr__(self) -> str:
        return (
            f"Circuit({self.num_variables} variables, {self.num_categories} categories, "
            f"{len(self.nodes)} nodes, {len(self.parameter_shapes)} parameters)"
        )


_KIND = {Input: "input", Product: "product", KroneckerProduct: "kronecker", Sum: "sum"}


def _restored(
    kinds: list[type[AnyNode]], states: list[dict[str, Any]], children: list[list[int]]
) -> Circuit:
    """A circuit from the kinds of its nodes, what they hold, and places of their children."""
    nodes: list[AnyNode] = []
    for kind, state, places in zip(kinds, states, children, strict=True):
        node = object.__new__(kind)
        vars(node).update(state)
        if places:
            vars(node)["children"] = tuple(nodes[i] for i in places)
        nodes.append(node)
    return Circuit(nodes[-1])


def _children_first(root: AnyNode) -> Iterator[AnyNode]:
    """Depth-first order without recursion: circuits may be deeper than Python's stack."""
    done: set[AnyNode] = set()
    stack: list[tuple[AnyNode, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if node in done:
            continue
        if expanded:
            done.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.children))


def _given_name(node: Input | Sum) -> str | None:
    return node.parameter.name if isinstance(node.parameter, Part) else node.parameter


def _shape(name: str, nodes: Sequence[Input | Sum]) -> tuple[int, ...]:
    owner = nodes[0]
    packed = isinstance(owner.parameter, Part)
    for node in nodes:
        same = type(node) is type(owner) and isinstance(node.parameter, Part) == packed
        if not same or (not packed and _tie_key(node) != _tie_key(owner)):
            raise StructureError(
                f"parameter {name!r} is shared by {title_of(owner)} with shape "
                f"{owner.parameter_shape} and by {title_of(node)} with shape "
                f"{node.parameter_shape}; tied nodes need the same kind and shape"
            )
    if not packed:
        return owner.parameter_shape
    size = _check_cover(name, nodes)
    if isinstance(owner, Sum):
        return (size,)
    widths = {node.parameter_shape[-1] for node in nodes}
    if len(widths) > 1:
        raise StructureError(
            f"parameter {name!r} holds rows of inputs with {sorted(widths)} categories; "
            f"expected one number of categories"
        )
    return (size, widths.pop())


def _rows(nodes: Sequence[Input | Sum]) -> tuple[int, ...] | None:
    if not isinstance(nodes[0], Sum) or not isinstance(nodes[0].parameter, Part):
        return None
    parts = {node.parameter.start: node for node in nodes if isinstance(node.parameter, Part)}
    return tuple(
        node.parameter_shape[-1]
        for _, node in sorted(parts.items(), key=lambda item: item[0])
        for _ in range(node.num_units)
    )


def _check_cover(name: str, nodes: Sequence[Input | Sum]) -> int:
    """Checks that parts are the same or apart and leave no gap; the parameter's size."""
    found: dict[int, Input | Sum] = {}
    for node in nodes:
        assert isinstance(node.parameter, Part)
        other = found.setdefault(node.parameter.start, node)
        if _tie_key(other) != _tie_key(node):
            raise StructureError(
                f"parameter {name!r}: {title_of(other)} and {title_of(node)} start at the same "
                f"place with shapes {other.parameter_shape} and {node.parameter_shape}"
            )
    end = 0
    for start, node in sorted(found.items(), key=lambda item: item[0]):
        if start != end:
            what = "overlaps the part before it" if start < end else "leaves a gap"
            raise StructureError(
                f"parameter {name!r}: the part of {title_of(node)} starts at {start} and {what}; "
                f"expected {end}"
            )
        shape = node.parameter_shape
        end += math.prod(shape) if isinstance(node, Sum) else shape[0]
    return end


def _tie_key(node: Input | Sum) -> tuple[object, ...]:
    return (type(node), node.parameter_shape, isinstance(node, Sum) and node.mixing)
