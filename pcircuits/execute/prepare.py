"""Parameters by name, checked and laid out for the layers of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import KroneckerLayer, MixingLayer, Plan, ProductLayer, WeightReference
from pcircuits.errors import ParameterError
from pcircuits.execute.weights import Weights


@dataclass(frozen=True, eq=False)
class PreparedParameters:
    """Parameters laid out for a plan, to be used many times in place of the mapping.

    Attributes:
        plan: The plan they were laid out for.
        weights: Layer -> weights, for input, sum and mixing layers. Layers with the same
            parameters share one object.
        batch_size: Number of examples if some parameter is given per example, else None.
        dtype: Their floating-point type.
    """

    plan: Plan
    weights: Mapping[int, Weights]
    batch_size: int | None
    dtype: torch.dtype

    def detach(self) -> PreparedParameters:
        """The same parameters cut off from any graph; itself where there is none."""
        if not any(w.log.requires_grad for w in self.weights.values()):
            return self
        cut = {id(w): Weights(w.log.detach()) for w in self.weights.values()}
        weights = {i: cut[id(w)] for i, w in self.weights.items()}
        return PreparedParameters(self.plan, weights, self.batch_size, self.dtype)

    def repeat(self, times: int) -> PreparedParameters:
        """Every example's parameters `times` in a row; itself where all are shared."""
        if self.batch_size in (None, 1):
            return self
        made = {
            id(w): w if w.log.shape[1] == 1 else Weights(w.log.repeat_interleave(times, 1))
            for w in self.weights.values()
        }
        weights = {i: made[id(w)] for i, w in self.weights.items()}
        return PreparedParameters(self.plan, weights, self.batch_size * times, self.dtype)


def prepare(
    plan: Plan, parameters: Mapping[str, Tensor] | PreparedParameters
) -> PreparedParameters:
    """Lays out parameters for a plan.

    Args:
        plan: The plan.
        parameters: Name -> log-weights of the declared shape, or with a leading batch axis where
            every example has its own. They need not be normalised; -inf is a weight of zero.

    Returns:
        The laid out parameters; gradients flow through them to `parameters`.

    Raises:
        ParameterError: If a name is missing or unknown, or shapes, batch sizes, devices or types
            do not fit.
    """
    if isinstance(parameters, PreparedParameters):
        if parameters.plan is not plan:
            raise ParameterError("the parameters were prepared for another plan")
        return parameters
    batch_size = _check(plan, parameters)
    made: dict[tuple[str, ...], Weights] = {}
    weights: dict[int, Weights] = {}
    for i, layer in enumerate(plan.layers):
        if isinstance(layer, (ProductLayer, KroneckerLayer)):
            continue
        names = layer.weights.names
        if names not in made:
            columns = _columns(layer)
            made[names] = Weights(_stack(plan, parameters, layer.weights, layer.num_units, columns))
        weights[i] = made[names]
    first = next(iter(parameters.values()))
    return PreparedParameters(plan, weights, batch_size, first.dtype)


def _columns(layer: object) -> int:
    if isinstance(layer, MixingLayer):
        return len(layer.sizes)
    sizes: tuple[int, ...] | None = getattr(layer, "sizes", None)
    return sum(sizes) if sizes is not None else layer.num_categories  # type: ignore[attr-defined]


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
