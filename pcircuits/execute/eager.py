"""The fast executor in PyTorch: one differentiable function for a whole plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.backward import inner_gradients
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.inputs import latent_potentials, leaf_values
from pcircuits.execute.layers import evaluate
from pcircuits.execute.prepare import PreparedParameters, require_numbers
from pcircuits.execute.weights import AnyWeights, Step


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    The first gradient is computed by hand from what the forward pass keeps; a gradient of that
    (training through marginals) repeats the forward pass as ordinary operations.

    Raises:
        ParameterError: If a value is NaN, for the sake of a weight.
    """
    latent = latent_potentials(plan, prepared, evidence)
    leaves = leaf_values(plan, prepared, evidence, latent)
    offsets = {i: value for i, value in latent.items() if i not in leaves}
    weights = {i: w for i, w in prepared.weights.items() if i not in leaves}
    tensors = [*leaves.values(), *offsets.values(), *_distinct_logs(weights).values()]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        value: Tensor = _Evaluation.apply(plan, weights, tuple(leaves), tuple(offsets), *tensors)
    else:
        value = _root_value(plan, leaves, offsets, weights)
    require_numbers(prepared, value)
    return value


def all_values(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Log-values (F, B, K) and latent potentials of all layers, by ordinary operations."""
    latent = latent_potentials(plan, prepared, evidence)
    leaves = leaf_values(plan, prepared, evidence, latent)
    values = evaluate(plan, leaves, latent, prepared.weights, keep_all=True)
    require_numbers(prepared, values[len(plan.layers) - 1])
    return [values[i] for i in range(len(plan.layers))], latent


def _root_value(
    plan: Plan,
    leaves: Mapping[int, Tensor],
    offsets: Mapping[int, Tensor],
    weights: Mapping[int, AnyWeights],
    steps: dict[int, Step] | None = None,
) -> Tensor:
    """(B,) log-values; `steps`, if given, is filled with what the gradient needs."""
    last = len(plan.layers) - 1
    if all(own.bounded for own in set(weights.values())):
        values = evaluate(plan, leaves, offsets, weights, False, steps, bounded=True)
        root = values[last][0, :, 0]
        if math.isfinite(float(root.detach().sum())):
            return root
    return evaluate(plan, leaves, offsets, weights, False, steps)[last][0, :, 0]


def _distinct_logs(weights: Mapping[int, AnyWeights]) -> dict[int, Tensor]:
    return {id(w): w.log for w in weights.values()}


class _Evaluation(torch.autograd.Function):
    """Inner layers as one node of the autograd graph, with the backward of `backward.py`."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        weights: dict[int, AnyWeights],
        leaf_layers: tuple[int, ...],
        offset_layers: tuple[int, ...],
        *tensors: Tensor,
    ) -> Tensor:
        leaves, offsets, _ = _unpack(leaf_layers, offset_layers, tensors)
        detached = _detached(weights)
        steps: dict[int, Step] = {}
        root = _root_value(plan, leaves, offsets, detached, steps).clone()
        ctx.plan, ctx.original, ctx.weights = plan, weights, detached
        ctx.leaf_layers, ctx.offset_layers = leaf_layers, offset_layers
        ctx.impossible = root == -torch.inf
        ctx.num_tensors = len(tensors)
        # Saved, not stored: what the steps hold is let go with the rest after the backward pass.
        kept = {i: step if step.low is not None else step[:2] for i, step in steps.items()}
        ctx.steps = {i: len(step) for i, step in kept.items()}
        ctx.save_for_backward(*tensors, *chain.from_iterable(kept.values()))
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        # A root of -inf has a gradient of zero by convention; below sums it would come out so.
        gradient = gradient.masked_fill(ctx.impossible, 0.0)
        if torch.is_grad_enabled():
            return (None, None, None, None, *_differentiable_gradients(ctx, gradient))
        given = (*ctx.leaf_layers, *ctx.offset_layers)
        keys = list(_distinct_logs(ctx.original))
        wanted_keys = {
            key
            for key, needed in zip(keys, ctx.needs_input_grad[4 + len(given) :], strict=True)
            if needed
        }
        wanted = frozenset(i for i, w in ctx.original.items() if id(w) in wanted_keys)
        flows, logs = inner_gradients(
            ctx.plan,
            _saved_steps(ctx),
            ctx.weights,
            gradient,
            kept=frozenset(given),
            wanted=wanted,
        )
        detached = {id(w): id(ctx.weights[i]) for i, w in ctx.original.items()}
        return (
            *(None, None, None, None),
            *(flows[i] for i in given),
            *(logs.get(detached[key]) for key in keys),
        )


def _saved_steps(ctx: Any) -> dict[int, Step]:
    saved = iter(ctx.saved_tensors[ctx.num_tensors :])
    return {layer: Step(*islice(saved, size)) for layer, size in ctx.steps.items()}


def _unpack(
    leaf_layers: tuple[int, ...], offset_layers: tuple[int, ...], tensors: tuple[Tensor, ...]
) -> tuple[dict[int, Tensor], dict[int, Tensor], tuple[Tensor, ...]]:
    first, second = len(leaf_layers), len(leaf_layers) + len(offset_layers)
    leaves = dict(zip(leaf_layers, tensors[:first], strict=True))
    offsets = dict(zip(offset_layers, tensors[first:second], strict=True))
    return leaves, offsets, tensors[second:]


def _detached(weights: Mapping[int, AnyWeights]) -> dict[int, AnyWeights]:
    made = {id(w): w.detached() for w in set(weights.values())}
    return {i: made[id(w)] for i, w in weights.items()}


def _rebind(weights: Mapping[int, AnyWeights], logs: Mapping[int, Tensor]) -> dict[int, AnyWeights]:
    kinds = {id(w): type(w) for w in weights.values()}
    made = {key: kinds[key](log) for key, log in logs.items()}
    return {i: made[id(w)] for i, w in weights.items()}


def _differentiable_gradients(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    tensors = ctx.saved_tensors[: ctx.num_tensors]
    leaves, offsets, logs = _unpack(ctx.leaf_layers, ctx.offset_layers, tensors)
    keys = list(_distinct_logs(ctx.original))
    weights = _rebind(ctx.original, dict(zip(keys, logs, strict=True)))
    value = evaluate(ctx.plan, leaves, offsets, weights, False)[len(ctx.plan.layers) - 1][0, :, 0]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(value, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
