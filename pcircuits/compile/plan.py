"""The plan: what to compute, layer by layer, as index arrays and parameter names.

A layer holds F nodes of one kind and size (its folds) that are computed as one batched operation.
Values of a layer have shape (F, B, K): folds, batch, units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from pcircuits.structure.circuit import Circuit


@dataclass(frozen=True)
class Source:
    """Some folds of one earlier layer: a slice where they are evenly spaced, else indices."""

    layer: int
    index: slice | np.ndarray
    num_folds: int

    def folds(self) -> np.ndarray:
        """(num_folds,) the folds as indices."""
        if isinstance(self.index, slice):
            return np.arange(self.index.start, self.index.stop, self.index.step)
        return self.index


@dataclass(frozen=True)
class Operand:
    """Where the F values of one child position come from.

    The sources are concatenated along the folds and then, unless `order` is None, permuted by it.
    """

    sources: tuple[Source, ...]
    order: np.ndarray | None


@dataclass(frozen=True, eq=False)
class WeightReference:
    """Where the weights of a layer are. Layers with the same weights share one reference.

    Attributes:
        names: The parameters: one for all folds or one a fold; none where weights are constant.
        positions: None where folds take whole parameters. Else the places of their numbers (of
            inputs: rows) in the flattened parameters, one after the other.
        shape: What the numbers at the positions are: (F, K) rows of inputs, (F, K, C) numbers of
            sums, (E, K) numbers of a segment sum's edges.
        constant: (1 or F, K, C) log-weights that no parameter holds; (E, K) of a segment sum.
    """

    names: tuple[str, ...]
    positions: slice | np.ndarray | None = None
    shape: tuple[int, ...] = ()
    constant: np.ndarray | None = None


@dataclass(frozen=True)
class InputLayer:
    """F input nodes; `variables` (F,) says of which variable each is a function."""

    variables: np.ndarray
    num_units: int
    num_categories: int
    weights: WeightReference

    @cached_property
    def in_order(self) -> bool:
        """Whether node i is a function of variable i."""
        return np.array_equal(self.variables, np.arange(len(self.variables)))


@dataclass(frozen=True)
class ProductLayer:
    """F elementwise products, one operand for each child position."""

    operands: tuple[Operand, ...]
    num_units: int


@dataclass(frozen=True)
class KroneckerLayer:
    """F all-pairs products; `sizes` are the operands' numbers of units."""

    operands: tuple[Operand, ...]
    sizes: tuple[int, ...]
    num_units: int


@dataclass(frozen=True)
class SumLayer:
    """F dense sums over the concatenated units of the operands, whose numbers are `sizes`."""

    operands: tuple[Operand, ...]
    sizes: tuple[int, ...]
    num_units: int
    weights: WeightReference


@dataclass(frozen=True)
class MixingLayer:
    """F sums that mix unit k of every operand, one weight for each unit and operand.

    Attributes:
        operands: One operand for each child position.
        sizes: Their numbers of units, K or 1.
        num_units: Number of units K.
        weights: The weights.
        group_size: Number H of consecutive folds that read the same children, everywhere.
        group_operands: The operands of the F / H groups.
    """

    operands: tuple[Operand, ...]
    sizes: tuple[int, ...]
    num_units: int
    weights: WeightReference
    group_size: int
    group_operands: tuple[Operand, ...]


@dataclass(frozen=True, eq=False)
class SegmentProductLayer:
    """F elementwise products of unequal numbers of children.

    Attributes:
        operands: One operand of E folds, the children of all nodes one after the other.
        nodes: (E,) which of the F nodes each child belongs to, ascending.
        ranks: (E,) place of each child among its node's.
        num_nodes: Number of nodes F.
        num_units: Number of units K.
    """

    operands: tuple[Operand, ...]
    nodes: np.ndarray
    ranks: np.ndarray
    num_nodes: int
    num_units: int


@dataclass(frozen=True, eq=False)
class SegmentSumLayer:
    """F sums that mix, unit by unit, unequal numbers of children; see `SegmentProductLayer`."""

    operands: tuple[Operand, ...]
    nodes: np.ndarray
    ranks: np.ndarray
    num_nodes: int
    num_units: int
    weights: WeightReference


SegmentLayer = SegmentProductLayer | SegmentSumLayer
InnerLayer = ProductLayer | KroneckerLayer | SumLayer | MixingLayer | SegmentLayer
Layer = InputLayer | InnerLayer


@dataclass(frozen=True)
class Cost:
    """What one evaluation takes.

    Attributes:
        num_layers: Batched operations, one after the other.
        num_units: Units of all nodes.
        num_parameters: Numbers in all parameters.
        operations: Multiply-adds (sums) and adds (products) for one row with observed values.
        soft_operations: The same when every variable has soft evidence.
        value_bytes: Bytes of all layers' values for one row in float32.
        parameter_bytes: Bytes of all parameters in float32.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.hmm(10, num_states=100, num_categories=50))
        >>> cost = plan.cost()
        >>> cost.num_parameters == 100 + 100 * 100 + 100 * 50
        True
        >>> cost.operations, cost.value_bytes  # for one row
        (92900, 11204)
    """

    num_layers: int
    num_units: int
    num_parameters: int
    operations: int
    soft_operations: int
    value_bytes: int
    parameter_bytes: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled circuit.

    Attributes:
        circuit: The circuit that was compiled.
        layers: Layers, each after those it reads; the last one holds the root alone.
        parameter_shapes: Parameter name -> shape without batch dimension.
        parameter_rows: Parameter name -> length of its distributions, which lie one after the
            other along the last axis; where lengths differ, (E,) which of them each number
            belongs to.
        places: Node name -> (layer, fold).

    Examples:
        >>> plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=5))
        >>> plan.num_variables, plan.num_categories
        (3, 5)
        >>> dict(plan.parameter_shapes)
        {'emission': (2, 5), 'transition': (2, 2), 'initial': (2,)}
        >>> plan.places["state_2"]  # its layer, and where in it
        (0, 2)
    """

    circuit: Circuit
    layers: tuple[Layer, ...]
    parameter_shapes: Mapping[str, tuple[int, ...]]
    parameter_rows: Mapping[str, int | np.ndarray]
    places: Mapping[str, tuple[int, int]]

    def __post_init__(self) -> None:
        for name in ("parameter_shapes", "parameter_rows", "places"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __deepcopy__(self, memo: dict[int, object]) -> Plan:
        # Immutable, and as deep as the circuit: copies of a model share its plan.
        return self

    @cached_property
    def num_variables(self) -> int:
        """Number of variables L."""
        return self.circuit.num_variables

    @cached_property
    def num_categories(self) -> int:
        """Largest number of categories V."""
        return self.circuit.num_categories

    @cached_property
    def num_folds(self) -> tuple[int, ...]:
        """Number of folds F of every layer."""
        return tuple(num_folds(layer) for layer in self.layers)

    @cached_property
    def input_layers(self) -> tuple[int, ...]:
        """Places of the input layers among all."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, InputLayer))

    @cached_property
    def num_edges(self) -> int:
        """Number of edges between nodes."""
        return sum(
            source.num_folds
            for layer in self.layers
            if not isinstance(layer, InputLayer)
            for operand in layer.operands
            for source in operand.sources
        )

    def cost(self) -> Cost:
        """Counts layers, units, parameters, operations and bytes."""
        units = sum(num_folds(layer) * layer.num_units for layer in self.layers)
        parameters = sum(int(np.prod(shape)) for shape in self.parameter_shapes.values())
        return Cost(
            num_layers=len(self.layers),
            num_units=units,
            num_parameters=parameters,
            operations=sum(operations(layer, soft=False) for layer in self.layers),
            soft_operations=sum(operations(layer, soft=True) for layer in self.layers),
            value_bytes=4 * units,
            parameter_bytes=4 * parameters,
        )

    def __str__(self) -> str:
        cost = self.cost()
        rows = [
            f"{i:5d}  {type(layer).__name__:19s} {num_folds(layer):6d} folds x "
            f"{layer.num_units:6d} units  {operations(layer, soft=False):14,d} operations"
            for i, layer in enumerate(self.layers)
        ]
        if len(rows) > _PRINTED_LAYERS:
            half = _PRINTED_LAYERS // 2
            rows = [*rows[:half], f"  ...  {len(rows) - 2 * half} more layers", *rows[-half:]]
        total = (
            f"total: {cost.num_layers} layers, {cost.num_units:,} units, "
            f"{cost.num_parameters:,} parameters ({cost.parameter_bytes:,} bytes), "
            f"{cost.operations:,} operations a row ({cost.soft_operations:,} with soft evidence), "
            f"{cost.value_bytes:,} bytes of values a row"
        )
        return "\n".join([f"Plan of {self.circuit!r}", *rows, total])


_PRINTED_LAYERS = 24


def num_folds(layer: Layer) -> int:
    """Number of folds F of a layer."""
    if isinstance(layer, InputLayer):
        return len(layer.variables)
    if isinstance(layer, SegmentLayer):
        return layer.num_nodes
    return sum(source.num_folds for source in layer.operands[0].sources)


def operations(layer: Layer, *, soft: bool) -> int:
    """Operations of a layer for one row of the batch."""
    folds = num_folds(layer)
    match layer:
        case InputLayer():
            return folds * layer.num_units * (layer.num_categories if soft else 1)
        case SumLayer():
            return folds * layer.num_units * sum(layer.sizes)
        case SegmentProductLayer() | SegmentSumLayer():
            return len(layer.nodes) * layer.num_units
        case _:
            return folds * layer.num_units * len(layer.operands)
