"""Input layers on a device: kernels, and second gradients by ordinary operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute import inputs as ordinary
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.triton import inputs
from pcircuits.execute.weights import AnyWeights


def leaf_values(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence, latent: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """Input layer -> (F, B, K) log-values with latent potentials, differentiable twice.

    The kernels of input layers compute in float32; in float64 these are ordinary operations.
    """
    if prepared.dtype != torch.float32:
        return ordinary.leaf_values(plan, prepared, evidence, latent)
    call = _Call.of(plan, prepared, evidence)
    tensors = call.tensors
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        found = _Leaves.apply(call, *tensors)
    else:
        found = inputs.leaf_values(plan, prepared, evidence, {}).values()
    leaves = dict(zip(call.layers, found, strict=True))
    return {i: leaf + latent[i] if i in latent else leaf for i, leaf in leaves.items()}


@dataclass(frozen=True, eq=False)
class _Call:
    """What input layers are evaluated for, besides the tensors that gradients are taken for.

    These are the distinct log-weights that have a gradient and, where there are some, potentials.
    """

    plan: Plan
    prepared: PreparedParameters
    evidence: Evidence
    layers: tuple[int, ...]
    learned: tuple[AnyWeights, ...]

    @classmethod
    def of(cls, plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> _Call:
        layers = tuple(i for i, layer in enumerate(plan.layers) if isinstance(layer, InputLayer))
        distinct = dict.fromkeys(prepared.weights[i] for i in layers)
        learned = tuple(own for own in distinct if own.log.requires_grad)
        return cls(plan, prepared, evidence, layers, learned)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors."""
        potentials = self.evidence.log_potentials
        return (*(own.log for own in self.learned), *(() if potentials is None else (potentials,)))

    def rebound(self, tensors: Sequence[Tensor]) -> tuple[PreparedParameters, Evidence]:
        """Parameters and evidence as functions of other tensors."""
        made = {id(own): type(own)(log) for own, log in zip(self.learned, tensors, strict=False)}
        # What needs no gradient stays the same object, with all that is cached for it.
        weights = {i: made.get(id(own), own) for i, own in self.prepared.weights.items()}
        evidence = self.evidence
        if evidence.log_potentials is not None:
            evidence = evidence.rebound(tensors[-1])
        return replace(self.prepared, weights=weights), evidence


class _Leaves(torch.autograd.Function):
    """All input layers as one node of the graph, whose backward pass may be differentiated."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        own = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad():
            values = inputs.leaf_values(call.plan, *call.rebound(own), {})
        ctx.call, ctx.own, ctx.values = call, own, tuple(values.values())
        ctx.save_for_backward(*tensors)
        return tuple(value.detach() for value in ctx.values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (None, *_found(ctx.values, ctx.own, gradients, differentiable=False))
        call: _Call = ctx.call
        values = ordinary.leaf_values(call.plan, *call.rebound(tensors), {})
        return (None, *_found(tuple(values.values()), tensors, gradients, differentiable=True))


def _found(
    values: Sequence[Tensor],
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    differentiable: bool,
) -> list[Tensor | None]:
    pairs = [(v, g) for v, g in zip(values, gradients, strict=True) if v.requires_grad]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(
        torch.autograd.grad(
            [value for value, _ in pairs],
            wanted,
            [gradient for _, gradient in pairs],
            retain_graph=True,
            create_graph=differentiable,
            allow_unused=True,
        )
    )
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
