"""Parameters by name, checked and laid out for the layers of a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
    WeightReference,
)
from pcircuits.errors import ParameterError
from pcircuits.execute.weights import AnyWeights, EdgeWeights, Weights

WeightedLayer = InputLayer | SumLayer | MixingLayer | SegmentSumLayer


@dataclass(frozen=True, eq=False)
class PreparedParameters:
    """Parameters laid out for a plan, to be used many times in place of the mapping.

    Attributes:
        plan: The plan they were laid out for.
        weights: Layer -> weights, for input, sum, mixing and segment sum layers. Layers with the
            same parameters share one object.
        batch_size: Number of examples if some parameter is given per example, else None.
        dtype: Their floating-point type.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> prepared = model.prepare()  # once, then many queries
        >>> evidence = pc.Evidence(torch.tensor([[0, 1, 1]]))
        >>> log_value = pc.forward(model.plan, prepared, evidence)
        >>> torch.equal(log_value, model.log_evidence(evidence).detach())
        True
    """

    plan: Plan
    weights: Mapping[int, AnyWeights]
    batch_size: int | None
    dtype: torch.dtype

    def detach(self) -> PreparedParameters:
        """The same parameters cut off from any graph; itself where there is none."""
        if not any(w.log.requires_grad for w in self._distinct):
            return self
        return self._with(lambda w: type(w)(w.log.detach()))

    def repeat(self, times: int) -> PreparedParameters:
        """Every example's parameters `times` in a row; itself where all are shared."""
        if self.batch_size in (None, 1):
            return self
        size = self.batch_size * times
        return replace(
            self._with(
                lambda w: w if w.log.shape[1] == 1 else type(w)(w.log.repeat_interleave(times, 1))
            ),
            batch_size=size,
        )

    def by_name(self) -> dict[str, Tensor]:
        """Name -> log-weights, as `prepare` was given them; -inf where no node uses a number.

        Examples:
            >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
            >>> model.prepare().by_name().keys() == model.log_parameters().keys()
            True
        """
        found: dict[str, Tensor] = {}
        tables = _tables_of(self.plan)
        of_table = {table: self.weights[i].log for i, table in tables.of_layers}
        for table, layer in enumerate(tables.distinct):
            if layer.weights.positions is not None:
                _put_back(found, self.plan, layer, of_table[table])
                continue
            for i, name in enumerate(layer.weights.names):  # none where weights are constant
                found[name] = of_table[table][i].reshape(-1, *self.plan.parameter_shapes[name])
        return {name: own[0] if len(own) == 1 else own for name, own in found.items()}

    @cached_property
    def _distinct(self) -> tuple[AnyWeights, ...]:
        """Each table once, however many layers share it."""
        return tuple({id(w): w for w in self.weights.values()}.values())

    def _with(self, change: Callable[[AnyWeights], AnyWeights]) -> PreparedParameters:
        made = {id(w): change(w) for w in self._distinct}
        return replace(self, weights={i: made[id(w)] for i, w in self.weights.items()})


def prepare(
    plan: Plan,
    parameters: Mapping[str, Tensor] | PreparedParameters,
    device: torch.device | None = None,
) -> PreparedParameters:
    """Lays out parameters for a plan.

    Args:
        plan: The plan.
        parameters: Name -> log-weights of the declared shape, or with a leading batch axis where
            every example has its own. They need not be normalised; -inf is a weight of zero.
        device: Where to compute if there is no parameter that says so; default the CPU.

    Returns:
        The laid out parameters; gradients flow through them to `parameters`.

    Raises:
        ParameterError: If a name is missing or unknown, or shapes, batch sizes, devices or types
            do not fit.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> prepared = pc.prepare(model.plan, model.log_parameters())
        >>> rows = torch.tensor([[0, 1, 1]])
        >>> pc.queries.log_likelihood(model.plan, prepared, rows).shape
        torch.Size([1])
    """
    if isinstance(parameters, PreparedParameters):
        if parameters.plan is not plan:
            raise ParameterError("the parameters were prepared for another plan")
        return parameters
    batch_size = _check(plan, parameters)
    like = next(iter(parameters.values()), None)
    if like is None:
        # A circuit without parameters counts, which takes precision and little else.
        like = torch.empty((), dtype=torch.float64, device=device)
    tables = _tables_of(plan)
    made = [_weights(plan, layer, parameters, like) for layer in tables.distinct]
    weights = {i: made[table] for i, table in tables.of_layers}
    return PreparedParameters(plan, weights, batch_size, like.dtype)


def require_numbers(prepared: PreparedParameters, log_value: Tensor) -> None:
    """Checks that log-values are no NaN for the sake of a weight; on a device nobody waits for it.

    Args:
        prepared: The parameters.
        log_value: (B,) what they gave.

    Raises:
        ParameterError: If some value is NaN, and a log-weight is NaN or +inf.
    """
    if log_value.device.type == "cpu" and math.isnan(float(log_value.detach().sum())):
        for name, log in prepared.by_name().items():
            require_below_infinity(name, log)


def require_below_infinity(name: str, log: Tensor) -> None:
    """Checks the log-weights of a parameter.

    Raises:
        ParameterError: If one is NaN or +inf.
    """
    wrong = ~(log.detach() < math.inf)
    if bool(wrong.any()):
        where = wrong.nonzero()[0].tolist()
        raise ParameterError(
            f"parameter {name!r}{where} is {float(log.detach()[tuple(where)])}; expected "
            f"log-weights below +inf"
        )


@dataclass(frozen=True, eq=False)
class _Tables:
    """The weights of a plan.

    Attributes:
        distinct: Layers, each with weights of its own.
        of_layers: Layers with weights, and to which of these they are equal.
    """

    distinct: tuple[WeightedLayer, ...]
    of_layers: tuple[tuple[int, int], ...]


_TABLES: WeakKeyDictionary[Plan, _Tables] = WeakKeyDictionary()


def _tables_of(plan: Plan) -> _Tables:
    """Found once for each plan: of a long chain most layers have the same."""
    if plan not in _TABLES:
        distinct: dict[WeightReference, WeightedLayer] = {}
        numbers: dict[WeightReference, int] = {}
        of_layers = []
        for i, layer in enumerate(plan.layers):
            if not isinstance(layer, (ProductLayer, KroneckerLayer, SegmentProductLayer)):
                distinct.setdefault(layer.weights, layer)
                of_layers.append((i, numbers.setdefault(layer.weights, len(numbers))))
        _TABLES[plan] = _Tables(tuple(distinct.values()), tuple(of_layers))
    return _TABLES[plan]


def _weights(
    plan: Plan, layer: WeightedLayer, parameters: Mapping[str, Tensor], like: Tensor
) -> AnyWeights:
    reference = layer.weights
    if reference.constant is not None:
        constant = torch.as_tensor(reference.constant, dtype=like.dtype, device=like.device)
        segment = isinstance(layer, SegmentSumLayer)
        return EdgeWeights(constant[:, None]) if segment else Weights(constant[:, None])
    if reference.positions is None:
        rows, columns = _table_shape(layer)
        return Weights(_stack(plan, parameters, reference, rows, columns))
    batched = _flattened(plan, parameters, reference.names, table=isinstance(layer, InputLayer))
    if isinstance(reference.positions, slice):
        picked = batched[:, reference.positions]
    else:
        positions = torch.as_tensor(reference.positions, device=like.device)
        picked = batched.index_select(1, positions)
    # (E, A, K) of edges; (F, A, K, C) of sums and (F, A, K, V) of inputs.
    shaped = picked.reshape(len(batched), *reference.shape, *batched.shape[2:]).movedim(0, 1)
    return EdgeWeights(shaped) if isinstance(layer, SegmentSumLayer) else Weights(shaped)


def _flattened(
    plan: Plan, parameters: Mapping[str, Tensor], names: Sequence[str], *, table: bool
) -> Tensor:
    """(A, numbers), or (A, R, V) for a table, of the named parameters one after the other."""
    parts = []
    for name in names:
        shape = plan.parameter_shapes[name]
        own = parameters[name]
        parts.append(own.reshape(-1, *shape) if table else own.reshape(-1, math.prod(shape)))
    if len(parts) == 1:
        return parts[0]
    examples = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(examples, -1) for part in parts], dim=1)


def _put_back(found: dict[str, Tensor], plan: Plan, layer: WeightedLayer, log: Tensor) -> None:
    """Writes a layer's weights to their positions in the named parameters (A, ...)."""
    reference, is_table = layer.weights, isinstance(layer, InputLayer)
    shapes = [plan.parameter_shapes[name] for name in reference.names]
    sizes = [shape[0] if is_table else math.prod(shape) for shape in shapes]
    rows = log.movedim(1, 0).reshape(log.shape[1], -1, *(shapes[0][1:] if is_table else ()))
    whole = rows.new_full((len(rows), sum(sizes), *rows.shape[2:]), -torch.inf)
    if isinstance(reference.positions, slice):
        whole[:, reference.positions] = rows
    else:
        whole[:, torch.as_tensor(reference.positions, device=log.device)] = rows
    for name, shape, part in zip(reference.names, shapes, whole.split(sizes, 1), strict=True):
        own = part.reshape(-1, *shape)
        found[name] = torch.maximum(found[name], own) if name in found else own


def _table_shape(layer: WeightedLayer) -> tuple[int, int]:
    match layer:
        case InputLayer():
            return layer.num_units, layer.num_categories
        case MixingLayer():
            return layer.num_units, len(layer.sizes)
        case SumLayer():
            return layer.num_units, sum(layer.sizes)
        case SegmentSumLayer():
            raise AssertionError("the edges of a segment sum always have positions")


def _stack(
    plan: Plan,
    parameters: Mapping[str, Tensor],
    reference: WeightReference,
    rows: int,
    columns: int,
) -> Tensor:
    """(G, A, rows, columns) log-weights of a layer."""
    tensors = [parameters[name] for name in reference.names]
    num_axes = len(plan.parameter_shapes[reference.names[0]])
    if all(tensor.ndim == num_axes for tensor in tensors):
        # One operation in all, not one a parameter: autograd pays for each of them.
        joined = tensors[0] if len(tensors) == 1 else torch.stack(tensors)
        return joined.reshape(len(tensors), 1, rows, columns)
    batched = [
        tensor.reshape(tensor.shape[0] if tensor.ndim > num_axes else 1, rows, columns)
        for tensor in tensors
    ]
    if len(batched) == 1:
        return batched[0][None]
    examples = max(tensor.shape[0] for tensor in batched)
    return torch.stack([tensor.expand(examples, -1, -1) for tensor in batched])


def _check(plan: Plan, parameters: Mapping[str, Tensor]) -> int | None:
    missing = plan.parameter_shapes.keys() - parameters.keys()
    unknown = parameters.keys() - plan.parameter_shapes.keys()
    if missing or unknown:
        raise ParameterError(
            f"parameters must be named {sorted(plan.parameter_shapes)[:8]}; "
            f"missing {sorted(missing)[:8]}, unknown {sorted(unknown)[:8]}"
        )
    batch_size = None
    if not parameters:
        return None
    first_name, first = next(iter(parameters.items()))
    for name, shape in plan.parameter_shapes.items():
        tensor = parameters[name]
        if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.float32, torch.float64):
            found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ParameterError(f"parameter {name!r} must be float32 or float64; found {found}")
        if (tensor.dtype, tensor.device) != (first.dtype, first.device):
            raise ParameterError(
                f"parameter {name!r} is {tensor.dtype} on {tensor.device}; "
                f"{first_name!r} is {first.dtype} on {first.device}; expected the same"
            )
        if tuple(tensor.shape) == shape:
            continue
        if tuple(tensor.shape[1:]) != shape or tensor.shape[0] == 0:
            raise ParameterError(
                f"parameter {name!r} has shape {tuple(tensor.shape)}; expected {shape}, "
                f"or (B, ...) of it"
            )
        if batch_size not in (None, tensor.shape[0]):
            raise ParameterError(
                f"parameter {name!r} is given for {tensor.shape[0]} examples, others for "
                f"{batch_size}; expected one batch size"
            )
        batch_size = tensor.shape[0]
    return batch_size
