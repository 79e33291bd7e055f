"""A circuit times a constraint whose weights are given later, per window too.

`pcircuits.operators.multiply` takes one set of weights. Every weight of its result is a sum of one
log-weight of each factor, so where each comes from is found by multiplying once with numbers in
place of the weights; then any weights, shared or one set a window, are gathered into place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import pcircuits as pc
from codd.errors import DecodingError


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the entries of one parameter of the product come from in one factor.

    Attributes:
        names: The factor's parameters that are read; empty if none is.
        index: (n,) places in these parameters laid end to end, after one zero.
    """

    names: tuple[str, ...]
    index: Tensor

    def gather(
        self, weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
    ) -> Tensor:
        """(n,) or (B, n) log-weights."""
        read = ((weights[name], len(shapes[name])) for name in self.names)
        flat = [w.reshape(*w.shape[: w.dim() - dims], -1) for w, dims in read]
        batch = max((w.shape[:-1] for w in flat), key=len, default=torch.Size())
        zero = flat[0].new_zeros(1) if flat else torch.zeros(1)
        parts = [part.expand(*batch, -1) for part in (zero, *flat)]
        return torch.cat(parts, dim=-1)[..., self.index.to(zero.device)]


@dataclass(frozen=True, eq=False)
class OpenProduct:
    """The product's plan, and how its weights are made of the factors'.

    Attributes:
        plan: Of the product.
        factors: Of each factor its parameters' shapes.
        tables: Name -> (entries that are not zero, the source in each factor).
    """

    plan: pc.Plan
    factors: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]
    tables: Mapping[str, tuple[Tensor, _Source, _Source]]

    @classmethod
    def of(cls, circuit: pc.Circuit, constraint: pc.Circuit) -> OpenProduct:
        """Multiplies two circuits.

        Raises:
            DecodingError: If they cannot be multiplied so.
        """
        factors = circuit.parameter_shapes, constraint.parameter_shapes
        sizes = [sum(math.prod(shape) for shape in shapes.values()) for shapes in factors]
        left = _numbered(factors[0], sizes[1] + 1)
        right = _numbered(factors[1], 1)
        try:
            both = pc.operators.multiply(
                pc.WeightedCircuit(circuit, left), pc.WeightedCircuit(constraint, right)
            )
        except pc.errors.CircuitError as error:
            raise DecodingError(f"constraint: cannot be multiplied in: {error}") from error
        tables = {}
        for name, codes in both.log_weights.items():
            alive = ~codes.isneginf()
            code = codes.masked_fill(~alive, 0.0).flatten()
            whole = code.round().long()
            if not torch.equal(code, whole.to(code.dtype)) or int(whole.max()) >= (
                (sizes[0] + 1) * (sizes[1] + 1)
            ):
                raise DecodingError(
                    f"constraint: parameter {name!r} of the product has entries that are not "
                    "sums of one weight each; multiply weights that all windows share instead"
                )
            first, second = whole // (sizes[1] + 1), whole % (sizes[1] + 1)
            tables[name] = alive, _source(factors[0], first), _source(factors[1], second)
        return cls(pc.compile_circuit(both.circuit), factors, tables)

    def parameters(
        self, circuit: Mapping[str, Tensor], constraint: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Name -> log-weights of the product, with a batch dimension where a factor's have one.

        Args:
            circuit: Name -> log-weights of the circuit, shared or (B, ...).
            constraint: The same of the constraint.
        """
        found = {}
        for name, (alive, left, right) in self.tables.items():
            own, other = (
                source.gather(weights, shapes)
                for source, weights, shapes in zip(
                    (left, right), (circuit, constraint), self.factors, strict=True
                )
            )
            total = own + other.to(own) if left.names else other
            table = total.reshape(*total.shape[:-1], *alive.shape)
            found[name] = table.masked_fill(~alive.to(table.device), -torch.inf)
        return found


def carried(plan: pc.Plan, product: pc.Plan, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Potentials over a circuit's units as potentials over those of its product.

    Args:
        plan: Of the circuit, one input for each variable.
        product: Of the circuit times a constraint.
        latent: Name of an input -> (B, K) log-potentials.

    Raises:
        DecodingError: If potentials are of other nodes than inputs, or of one of several inputs.
    """
    inputs = [node for node in plan.circuit.nodes if isinstance(node, pc.Input)]
    names = {plan.circuit.node_names[node]: node.variable for node in inputs}
    other = [name for name in latent if name not in names]
    if other or len(inputs) != plan.num_variables:
        raise DecodingError(
            "constraint: expected latent potentials of inputs, one for each token, found some of "
            f"{other[0] if other else len(inputs)!r}"
        )
    own = {names[name]: potentials for name, potentials in latent.items()}
    found = {}
    for node, name in product.circuit.node_names.items():
        if isinstance(node, pc.Input) and node.variable in own:
            potentials = own[node.variable]
            # Units of a product are all pairs, those of the constraint fastest.
            found[name] = potentials.repeat_interleave(node.num_units // potentials.shape[1], 1)
    return found


def _numbered(shapes: Mapping[str, tuple[int, ...]], step: int) -> dict[str, Tensor]:
    """Each entry of all parameters its number from 1, times `step`, in float64: exact to 2**53."""
    found, first = {}, 1
    for name, shape in shapes.items():
        size = math.prod(shape)
        numbers = torch.arange(first, first + size, dtype=torch.float64) * step
        found[name], first = numbers.reshape(shape), first + size
    return found


def _source(shapes: Mapping[str, tuple[int, ...]], numbers: Tensor) -> _Source:
    """The parameters that some numbers are of, and the places in these."""
    names, index, first, filled = [], torch.zeros_like(numbers), 1, 1
    for name, shape in shapes.items():
        size = math.prod(shape)
        inside = (numbers >= first) & (numbers < first + size)
        if bool(inside.any()):
            names.append(name)
            index = torch.where(inside, numbers - first + filled, index)
            filled += size
        first += size
    return _Source(tuple(names), index)
