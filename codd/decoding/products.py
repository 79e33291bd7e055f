"""A circuit times a constraint, for weights of the circuit that are given later, per window too.

`pcircuits.operators.multiply` takes one set of weights. A constraint has none, so every number of
the product's is one of the circuit's, or zero or minus infinity. Which one is found by multiplying
once with numbers that tell in place of the weights; then any weights are put into place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.errors import DecodingError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the numbers of one parameter of the product come from.

    Attributes:
        names: The circuit's parameters that are read; empty if none is.
        index: int32, of the parameter's shape: places in -inf, 0 and these parameters, laid end to
            end.
    """

    names: tuple[str, ...]
    index: Tensor


@dataclass(frozen=True, eq=False)
class _Pair:
    """A node of the product and the two it was made of; its units are all pairs of theirs.

    Attributes:
        name: Of the product's node.
        left: Of the circuit's.
        right: Of the constraint's.
        left_units: Units of the circuit's.
        right_units: Units of the constraint's.
        inputs: Whether both are inputs.
    """

    name: str
    left: str
    right: str
    left_units: int
    right_units: int
    inputs: bool


@dataclass(frozen=True, eq=False)
class OpenProduct:
    """A circuit times a constraint.

    Attributes:
        plan: Of the product.
        factor: The circuit.
        constraint: The constraint, a circuit without parameters.
        sources: Where each parameter of the product comes from.
    """

    plan: pc.Plan
    factor: pc.Circuit
    constraint: pc.Circuit
    sources: Mapping[str, _Source]

    @classmethod
    def of(cls, circuit: pc.Circuit, constraint: pc.Circuit) -> OpenProduct:
        """Multiplies a circuit and a constraint.

        Raises:
            DecodingError: If they cannot be multiplied so.
        """
        shapes = circuit.parameter_shapes
        try:
            both = pc.operators.multiply(
                pc.WeightedCircuit(circuit, _telling(shapes)), pc.WeightedCircuit(constraint, {})
            )
        except pc.errors.CircuitError as error:
            raise DecodingError(f"constraint: cannot be multiplied in: {error}") from error
        sources = {name: _source(name, shapes, n) for name, n in both.log_weights.items()}
        return cls(pc.compile_circuit(both.circuit), circuit, constraint, sources)

    def parameters(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> log-weights of the product, shared or (B, ...) as the circuit's are.

        Args:
            weights: Name -> log-weights of the circuit.
        """
        like = next(iter(weights.values()))
        neither = like.new_tensor([-torch.inf, 0.0])
        found = {}
        for name, source in self.sources.items():
            read = ((weights[own], len(self.factor.parameter_shapes[own])) for own in source.names)
            flat = [w.reshape(*w.shape[: w.dim() - dims], -1) for w, dims in read]
            batch = max((w.shape[:-1] for w in flat), key=len, default=torch.Size())
            whole = torch.cat([w.expand(*batch, -1) for w in (neither, *flat)], dim=-1)
            taken = whole.index_select(-1, source.index.flatten().to(like.device))
            found[name] = taken.reshape(*batch, *source.index.shape)
        return found

    def latent(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Potentials over units of the factors as potentials over units of the product.

        Args:
            left: Name of an input or sum over one token of the circuit -> (B, K) log-potentials.
            right: Name of an input of the constraint -> (B, K) log-potentials.

        Raises:
            DecodingError: If potentials of the circuit are of other nodes.
        """
        other = sorted(left.keys() - self._weighable)
        if other:
            raise DecodingError(
                "constraint: expected latent potentials of inputs and of sums over one token, "
                f"found some of {other[0]!r}"
            )
        found = {}
        for pair in self._pairs:
            own, its = left.get(pair.left), right.get(pair.right) if pair.inputs else None
            # Of the pairs of units the constraint's run fastest.
            spread = [] if own is None else [own.repeat_interleave(pair.right_units, 1)]
            spread += [] if its is None else [its.repeat(1, pair.left_units)]
            if spread:
                found[pair.name] = torch.stack(spread).sum(0)
        return found

    @cached_property
    def _weighable(self) -> frozenset[str]:
        names = self.factor.node_names.items()
        return frozenset(name for node, name in names if _is_weighable(node))

    @cached_property
    def _pairs(self) -> tuple[_Pair, ...]:
        return tuple(_paired(self.plan.circuit, self.factor, self.constraint))


def _paired(product: pc.Circuit, left: pc.Circuit, right: pc.Circuit) -> Iterator[_Pair]:
    """The product's nodes whose units may carry potentials of the left circuit's.

    Nodes over one variable are named after their pairs. Those of a sum of the left circuit are not
    met again below, whatever it is paired with; those of an input are below its pairs with sums.
    """
    named = set(product.node_names.values())
    of_scope = defaultdict(list)
    for node, name in right.node_names.items():
        of_scope[node.scope.bits].append((node, name))
    for node, own in left.node_names.items():
        for other, its in of_scope[node.scope.bits] if _is_weighable(node) else ():
            inputs = isinstance(node, pc.Input) and isinstance(other, pc.Input)
            name = f"{own} * {its}"
            if (inputs or isinstance(node, pc.Sum)) and name in named:
                yield _Pair(name, own, its, node.num_units, other.num_units, inputs)


def _is_weighable(node: Any) -> bool:
    return len(node.scope) == 1 and isinstance(node, pc.Input | pc.Sum)


def _telling(shapes: Shapes) -> dict[str, Tensor]:
    """All numbers of the parameters in order, from 1 up to 2 in equal steps, exact in float64.

    So a sum of two of them is outside, and the log of a sum of exponentials between two steps.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    numbers = 1 + torch.arange(sum(sizes), dtype=torch.float64) / _steps(shapes)
    parts = zip(shapes.items(), numbers.split(sizes), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def _steps(shapes: Shapes) -> int:
    total: int = sum(math.prod(shape) for shape in shapes.values())
    return 1 << total.bit_length()


def _source(name: str, shapes: Shapes, found: Tensor) -> _Source:
    """Where the numbers of a parameter of the product come from, by what became of those above.

    Raises:
        DecodingError: If some are not one weight each.
    """
    weight = (found != 0) & ~found.isneginf()
    number = (found.masked_fill(~weight, 1.0) - 1) * _steps(shapes)
    total = sum(math.prod(shape) for shape in shapes.values())
    if not bool(((number == number.round()) & (number >= 0) & (number < total)).all()):
        raise DecodingError(
            f"constraint: parameter {name!r} of the product has numbers that are not one weight "
            "of the circuit each"
        )
    names, index, first, filled = [], (found == 0).int(), 0, 2
    for own, shape in shapes.items():
        size = math.prod(shape)
        inside = weight & (number >= first) & (number < first + size)
        if bool(inside.any()):
            names.append(own)
            index = torch.where(inside, (number - first + filled).int(), index)
            filled += size
        first += size
    return _Source(tuple(names), index)
