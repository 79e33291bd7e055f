"""Evaluation of whole plans by kernels on a CUDA device, with an exact gradient.

Neither way asks the device for anything, so that both can be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.inputs import latent_potentials
from pcircuits.execute.layers import evaluate
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.triton.backward import inner_gradients
from pcircuits.execute.triton.forward import Kept, root_value
from pcircuits.execute.triton.launch import against_device, on_device
from pcircuits.execute.triton.leaves import leaf_values
from pcircuits.execute.weights import AnyWeights


def why_not(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    """What keeps these kernels from evaluating this; None if nothing does."""
    return against_device(_device(prepared))


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    A gradient of the gradient repeats the pass as ordinary operations.

    Raises:
        BackendError: If `why_not` says so.
    """
    reason = why_not(plan, prepared, evidence)
    if reason is not None:
        raise BackendError(f"impl='triton' runs on CUDA devices; {reason}")
    with on_device(_device(prepared)):
        latent = latent_potentials(plan, prepared, evidence)
        leaves = leaf_values(plan, prepared, evidence, latent)
        offsets = {i: value for i, value in latent.items() if i not in leaves}
        weights = {i: w for i, w in prepared.weights.items() if i not in leaves}
        call = _Call(plan, tuple(leaves), tuple(offsets), weights)
        tensors = [*leaves.values(), *offsets.values(), *call.logs]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            value: Tensor = _Evaluation.apply(call, *tensors)
            return value
        return root_value(plan, weights, leaves, offsets)


def _device(prepared: PreparedParameters) -> torch.device:
    # Every circuit has inputs, and so some weights, be they constant.
    return next(iter(prepared.weights.values())).log.device


@dataclass(frozen=True, eq=False)
class _Call:
    """What an evaluation is of, besides the tensors that gradients are taken for.

    These are, in order, the values of the input layers, the offsets and the distinct log-weights.
    """

    plan: Plan
    leaves: tuple[int, ...]
    offsets: tuple[int, ...]
    weights: Mapping[int, AnyWeights]

    @property
    def keys(self) -> tuple[int, ...]:
        """Identities of the distinct weights."""
        return tuple(dict.fromkeys(id(w) for w in self.weights.values()))

    @property
    def logs(self) -> tuple[Tensor, ...]:
        """Their log-weights."""
        return tuple({id(w): w.log for w in self.weights.values()}.values())

    def split(self, tensors: Sequence[Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Values of the input layers and offsets among the tensors."""
        leaves = dict(zip(self.leaves, tensors, strict=False))
        offsets = dict(zip(self.offsets, tensors[len(leaves) :], strict=False))
        return leaves, offsets

    def rebound(self, tensors: Sequence[Tensor]) -> dict[int, AnyWeights]:
        """The weights as functions of the tensors."""
        logs = dict(zip(self.keys, tensors[-len(self.keys) :], strict=True)) if self.keys else {}
        kinds = {id(w): type(w) for w in self.weights.values()}
        made = {key: kinds[key](log) for key, log in logs.items()}
        return {i: made[id(w)] for i, w in self.weights.items()}


class _Evaluation(torch.autograd.Function):
    """The inner layers as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:
        kept: dict[int, Kept] = {}
        leaves, offsets = call.split(tensors)
        root = root_value(call.plan, call.weights, leaves, offsets, kept).clone()
        ctx.call, ctx.impossible = call, root == -torch.inf
        ctx.layouts = {i: own.layout for i, own in kept.items()}
        # Saved, not stored: what is kept is let go with the rest after the backward pass.
        saved = chain.from_iterable(own.tensors for own in kept.values())
        ctx.save_for_backward(*tensors, *saved)
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        given, keys = (*call.leaves, *call.offsets), call.keys
        count = len(given) + len(keys)
        tensors, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        # A root of -inf has a gradient of zero by convention; below sums it would come out so.
        gradient = gradients[0].masked_fill(ctx.impossible, 0.0)
        if torch.is_grad_enabled():
            return (None, *_differentiable_gradients(call, tensors, gradient))
        needed = dict(zip((*given, *keys), ctx.needs_input_grad[1:], strict=True))
        wanted = frozenset(i for i, w in call.weights.items() if needed[id(w)])
        left = iter(saved)
        kept = {i: Kept.of(layout, left) for i, layout in ctx.layouts.items()}
        with on_device(gradient.device):
            flows, logs = inner_gradients(
                call.plan,
                call.weights,
                kept,
                gradient,
                given=frozenset(i for i in given if needed[i]),
                wanted=wanted,
                offsets=call.split(tensors)[1],
            )
        return (None, *(flows.get(i) for i in given), *(logs.get(key) for key in keys))


def _differentiable_gradients(
    call: _Call, tensors: Sequence[Tensor], gradient: Tensor
) -> list[Tensor | None]:
    leaves, offsets = call.split(tensors)
    values = evaluate(call.plan, leaves, offsets, call.rebound(tensors), keep_all=False)
    value = values[len(call.plan.layers) - 1][0, :, 0]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(value, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
