"""The node kinds of a circuit, each a vector of units.

A node is checked when it is made: a product's children must have disjoint scopes (decomposability)
and a sum's children equal scopes (smoothness). Nodes compare by identity; sharing a node in several
places makes a directed acyclic graph, giving the same `parameter` name to several nodes ties them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from pcircuits.errors import StructureError
from pcircuits.structure.scope import Scope

_SURROGATES = re.compile("[\ud800-\udfff]")
_A_NAME = "a non-empty string of Unicode characters"


@dataclass(frozen=True)
class Part:
    """Says that a node's numbers are a part of a larger parameter that many nodes share.

    A circuit of many small nodes then has a few tensors, not one for each node. The rows of inputs
    are rows `start` .. of a table (R, V); the weights of sums, row after row, are the numbers
    `start` .. of a vector (E,). Nodes with the same part are tied.

    Args:
        name: Name of the parameter.
        start: First row (inputs) or number (sums).

    Raises:
        StructureError: If the name is empty or the start negative.

    Examples:
        Two sums of two weights each, kept in one vector:

        >>> x, y = (pc.Input(i, num_units=2, num_categories=2) for i in range(2))
        >>> first = pc.Sum(x, num_units=1, parameter=pc.Part("w", 0))
        >>> second = pc.Sum(y, num_units=1, parameter=pc.Part("w", 2))
        >>> model = pc.CircuitModel(pc.Circuit(pc.Product(first, second)))
        >>> model.probabilities()["w"].reshape(2, 2).sum(1)  # two distributions
        tensor([1., 1.])
    """

    name: str
    start: int

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise StructureError(f"a part's name must be {_A_NAME}; found {self.name!r}")
        if not _is_whole(self.start, 0):
            raise StructureError(
                f"part of {self.name!r}: start must be an integer >= 0, found {self.start!r}"
            )


@dataclass(frozen=True, eq=False)
class Input:
    """A vector of functions of one variable: categorical distributions, or indicators.

    Its parameter has shape (num_units, num_categories); each row is one distribution. With
    `supports` unit k is instead 1 on the categories of `supports[k]` and 0 elsewhere, and there is
    no parameter.

    Args:
        variable: Index of the variable, from 0.
        num_units: Number of units K.
        num_categories: Number of categories V of the variable.
        supports: Categories of each unit's indicator; default: none, a distribution each.
        parameter: Name of the parameter, or the part of one; inputs with the same share it.
            Default: its own.
        name: Name of the node, for latent potentials, messages and pictures.

    Raises:
        StructureError: If a number is out of range, or an indicator is given a parameter.

    Examples:
        Two coins as the two units of one node, and indicators of odd and even dice:

        >>> coins = pc.Input(0, num_units=2, num_categories=2, name="coins")
        >>> coins.parameter_shape
        (2, 2)
        >>> parity = pc.Input(1, num_units=2, num_categories=6, supports=((0, 2, 4), (1, 3, 5)))
        >>> parity.has_parameter
        False
    """

    variable: int
    num_units: int = field(kw_only=True)
    num_categories: int = field(kw_only=True)
    supports: tuple[tuple[int, ...], ...] | None = field(default=None, kw_only=True)
    parameter: str | Part | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not _is_whole(self.variable, 0):
            raise StructureError(
                f"{self!r}: variable must be an integer >= 0, found {self.variable!r}"
            )
        _check_positive(self, "num_units", self.num_units)
        _check_positive(self, "num_categories", self.num_categories)
        _check_string(self, "name", self.name)
        _check_parameter(self, self.parameter, allowed=self.supports is None)
        if self.supports is not None:
            supports = tuple(_ascending(support) for support in self.supports)
            object.__setattr__(self, "supports", supports)
            _check_supports(self, supports)

    @property
    def has_parameter(self) -> bool:
        """Whether its distributions are learned: true unless it is a vector of indicators."""
        return self.supports is None

    @property
    def children(self) -> tuple[AnyNode, ...]:
        """An input has no children."""
        return ()

    @cached_property
    def scope(self) -> Scope:
        """The one variable of this input."""
        return Scope.of((self.variable,))

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """(num_units, num_categories)."""
        return (self.num_units, self.num_categories)

    def __repr__(self) -> str:
        sizes = f"units={self.num_units}, categories={self.num_categories}"
        kind = "" if self.supports is None else ", indicators"
        return f"Input({self.variable}, {sizes}{kind}{_named(self)})"


class _Inner:
    """What all nodes with children share: children as positional arguments, and their scope."""

    children: tuple[AnyNode, ...]
    name: str | None

    @cached_property
    def scope(self) -> Scope:
        """Union of the children's scopes."""
        bits = 0
        for child in self.children:
            bits |= child.scope.bits
        # A sum's children have its scope, which then need not be held twice.
        first = self.children[0].scope
        return first if first.bits == bits else Scope(bits)

    def __repr__(self) -> str:
        # Only the number of children: a repr that descended would be as large as the circuit.
        return (
            f"{type(self).__name__}({len(self.children)} children, units={self.num_units}"  # type: ignore[attr-defined]
            f"{_named(self)})"
        )


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Product(_Inner):
    """Elementwise product: unit k is the product of unit k of every child.

    Args:
        *children: Nodes with the same number of units and pairwise disjoint scopes.
        name: Name of the node.

    Raises:
        StructureError: If there is no child, scopes overlap or numbers of units differ.

    Examples:
        >>> left = pc.Input(0, num_units=2, num_categories=4)
        >>> right = pc.Input(1, num_units=2, num_categories=4)
        >>> pc.Product(left, right).num_units  # unit by unit
        2
    """

    children: tuple[AnyNode, ...]
    name: str | None

    def __init__(self, *children: AnyNode, name: str | None = None) -> None:
        object.__setattr__(self, "name", name)
        _check_string(self, "name", name)
        object.__setattr__(self, "children", _checked_children(self, children))
        _check_disjoint(self)
        sizes = {child.num_units for child in children}
        if len(sizes) > 1:
            raise StructureError(
                f"{title_of(self)} multiplies unit by unit, so all children need the same number "
                f"of units; found {[child.num_units for child in children]} "
                f"(KroneckerProduct multiplies all pairs)"
            )

    @property
    def num_units(self) -> int:
        """Number of units, that of every child."""
        return self.children[0].num_units


@dataclass(frozen=True, eq=False, init=False, repr=False)
class KroneckerProduct(_Inner):
    """Product of all combinations of the children's units, the last child's index fastest.

    Args:
        *children: Nodes with pairwise disjoint scopes.
        name: Name of the node.

    Raises:
        StructureError: If there is no child or scopes overlap.

    Examples:
        >>> left = pc.Input(0, num_units=2, num_categories=4)
        >>> right = pc.Input(1, num_units=3, num_categories=4)
        >>> pairs = pc.KroneckerProduct(left, right)
        >>> pairs.num_units, sorted(pairs.scope)
        (6, [0, 1])
    """

    children: tuple[AnyNode, ...]
    name: str | None

    def __init__(self, *children: AnyNode, name: str | None = None) -> None:
        object.__setattr__(self, "name", name)
        _check_string(self, "name", name)
        object.__setattr__(self, "children", _checked_children(self, children))
        _check_disjoint(self)

    @property
    def num_units(self) -> int:
        """Product of the children's numbers of units."""
        return math.prod(child.num_units for child in self.children)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Sum(_Inner):
    """Weighted sums of the children's units.

    Dense (the default): every unit is a mixture of all units of all children; the parameter has
    shape (num_units, total units of the children), or (total,) for a sum of one unit.
    With `mixing=True` unit k mixes unit k of every child; the parameter has shape
    (num_units, number of children) and a child of one unit serves every k.
    With `weighted=False` all weights are 1 and there is no parameter, as for the "or" of a
    logic circuit.

    Args:
        *children: Nodes with equal scopes.
        num_units: Number of units K.
        mixing: Whether unit k mixes only the children's units k.
        weighted: Whether there are weights.
        parameter: Name of the parameter, or the part of one; sums with the same share it.
            Default: its own.
        name: Name of the node.

    Raises:
        StructureError: If there is no child, scopes differ, numbers of units do not fit, or a sum
            without weights is given a parameter.

    Examples:
        >>> coins = pc.Input(0, num_units=2, num_categories=2, name="coins")
        >>> pc.Sum(coins, num_units=3).parameter_shape  # three mixtures of two coins
        (3, 2)
        >>> pc.Sum(coins, num_units=1).parameter_shape
        (2,)
    """

    children: tuple[AnyNode, ...]
    num_units: int
    mixing: bool
    weighted: bool
    parameter: str | Part | None
    name: str | None

    def __init__(
        self,
        *children: AnyNode,
        num_units: int,
        mixing: bool = False,
        weighted: bool = True,
        parameter: str | Part | None = None,
        name: str | None = None,
    ) -> None:
        object.__setattr__(self, "num_units", num_units)
        object.__setattr__(self, "mixing", mixing)
        object.__setattr__(self, "weighted", weighted)
        object.__setattr__(self, "parameter", parameter)
        object.__setattr__(self, "name", name)
        _check_string(self, "name", name)
        object.__setattr__(self, "children", _checked_children(self, children))
        _check_parameter(self, parameter, allowed=weighted)
        _check_positive(self, "num_units", num_units)
        _check_equal_scopes(self)
        sizes = [child.num_units for child in children]
        if mixing and any(size not in (1, num_units) for size in sizes):
            raise StructureError(
                f"{title_of(self)} mixes unit by unit, so children need {num_units} units or one; "
                f"found {sizes}"
            )

    @property
    def has_parameter(self) -> bool:
        """Whether it has weights."""
        return self.weighted

    @property
    def num_inputs(self) -> int:
        """Number of weights of one unit."""
        if self.mixing:
            return len(self.children)
        return sum(child.num_units for child in self.children)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """(num_units, num_inputs); (num_inputs,) for one unit."""
        return (self.num_inputs,) if self.num_units == 1 else (self.num_units, self.num_inputs)


AnyNode = Input | Product | KroneckerProduct | Sum


def _named(node: object) -> str:
    name = getattr(node, "name", None)
    return f", name={name!r}" if name else ""


def title_of(node: AnyNode) -> str:
    """A node and its scope, for messages."""
    return f"{node!r} with scope {node.scope}"


def _is_whole(value: object, least: int) -> bool:
    """Whether it is an integer that is not smaller; True is none, though it counts as 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_name(value: object) -> bool:
    """Whether it is a text that can be written to files: not half of a surrogate pair."""
    return isinstance(value, str) and value != "" and not _SURROGATES.search(value)


def _check_positive(node: object, what: str, value: object) -> None:
    if not _is_whole(value, 1):
        kind, name = type(node).__name__, _named(node)
        raise StructureError(f"{kind}{name}: {what} must be an integer >= 1, found {value!r}")


def _check_string(node: object, what: str, value: object) -> None:
    if value is not None and not _is_name(value):
        kind = type(node).__name__
        raise StructureError(f"{kind}: {what} must be {_A_NAME} or None, found {value!r}")


def _check_parameter(node: object, value: object, *, allowed: bool) -> None:
    if not isinstance(value, Part):
        _check_string(node, "parameter", value)
    if value is not None and not allowed:
        raise StructureError(
            f"{type(node).__name__}{_named(node)}: it has no weights of its own, so it cannot have "
            f"the parameter {value!r}"
        )


def _ascending(support: Iterable[int]) -> tuple[int, ...]:
    """Sorted without repetition; a tuple that is already so is kept, and so may be shared."""
    given = support if isinstance(support, tuple) else tuple(support)
    if all(a < b for a, b in itertools.pairwise(given)):
        return given
    return tuple(sorted(set(given)))


def _check_supports(node: Input, supports: tuple[tuple[int, ...], ...]) -> None:
    if len(supports) != node.num_units:
        raise StructureError(
            f"{node!r}: expected one support for each of {node.num_units} units; "
            f"found {len(supports)}"
        )
    for unit, support in enumerate(supports):
        for category in support:
            if not _is_whole(category, 0) or category >= node.num_categories:
                raise StructureError(
                    f"{node!r}: support of unit {unit} holds {category!r}; expected categories "
                    f"0 .. {node.num_categories - 1}"
                )


def _checked_children(node: object, children: tuple[AnyNode, ...]) -> tuple[AnyNode, ...]:
    kind = type(node).__name__ + _named(node)
    if not children:
        raise StructureError(f"{kind}: expected at least one child, found none")
    for child in children:
        if not isinstance(child, (Input, Product, KroneckerProduct, Sum)):
            raise StructureError(f"{kind}: children must be nodes, found {type(child).__name__}")
    return children


def _check_disjoint(node: Product | KroneckerProduct) -> None:
    seen = 0
    for child in node.children:
        own = child.scope.bits
        if seen & own:
            raise StructureError(
                f"{title_of(node)} is not decomposable: its child {title_of(child)} shares "
                f"variables {Scope(seen & own)} with the children before it; expected disjoint "
                f"scopes"
            )
        seen |= own


def _check_equal_scopes(node: Sum) -> None:
    first = node.children[0]
    _ = node.scope  # made bottom up: computed lazily, it would recurse through a deep circuit
    bits = first.scope.bits
    for child in node.children[1:]:
        if child.scope.bits != bits:
            raise StructureError(
                f"{title_of(node)} is not smooth: its children {title_of(first)} and "
                f"{title_of(child)} differ in variables {first.scope ^ child.scope}; expected "
                f"equal scopes"
            )
