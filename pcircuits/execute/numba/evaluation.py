"""Evaluation of circuits of single nodes by compiled passes, with an exact gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.inputs import (
    Observation,
    input_values,
    joint_batch_size,
    latent_potentials,
    leaf_values,
    observe,
)
from pcircuits.execute.layers import evaluate
from pcircuits.execute.numba.graph import Graph, graph_of, has_single_units
from pcircuits.execute.numba.passes import Gradients, Problem, gradients, root_values
from pcircuits.execute.prepare import PreparedParameters, require_numbers
from pcircuits.execute.weights import AnyWeights, Weights


def why_not(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    """What keeps these passes from evaluating this; None if nothing does."""
    if not has_single_units(plan):
        return "some node has more than one unit"
    if any(w.log.shape[1] > 1 for w in prepared.weights.values()):
        return "parameters are given per example"
    if any(w.log.device.type != "cpu" for w in prepared.weights.values()):
        return "parameters are not on the CPU"
    if evidence.latent_log_potentials:
        return "there are latent potentials"
    return None


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    Where all variables are observed the passes read the inputs' tables themselves. A gradient of
    the gradient repeats the pass as ordinary operations.

    Raises:
        BackendError: If `why_not` says so.
        ParameterError: If a value is NaN, for the sake of a weight.
    """
    reason = why_not(plan, prepared, evidence)
    if reason is not None:
        raise BackendError(f"impl='numba' evaluates circuits of single nodes; {reason}")
    if len(plan.layers) == 1:
        value = leaf_values(plan, prepared, evidence, {})[0][0, :, 0]  # the root is an input
    else:
        call, tensors = lay_out(plan, prepared, evidence)
        value = _Evaluation.apply(call, *tensors)
    require_numbers(prepared, value)
    return value


@dataclass(frozen=True, eq=False)
class Call:
    """What is evaluated, but for the tensors that it is a function of.

    Those are the distinct tables of the inputs where all variables are observed, else the values
    (F, B, 1) of the input layers; and then the distinct log-weights of the other layers.

    Attributes:
        plan: The plan.
        graph: Its graph.
        weights: Layer -> weights.
        observation: The values of the variables; None where some of them are not observed.
        batch_size: Examples B.
    """

    plan: Plan
    graph: Graph
    weights: Mapping[int, AnyWeights]
    observation: Observation | None
    batch_size: int

    def input_keys(self) -> list[int]:
        """Places in the tables, or input layers, that the first tensors belong to."""
        if self.observation is None:
            return list(self.graph.input_layers)
        return sorted(set(self.graph.tables.layer_starts.values()))

    def weight_keys(self) -> list[int]:
        """Places of the first weight of each of the other tensors."""
        return sorted(set(self.graph.weight_starts.values()))

    def problem(self, tensors: tuple[Tensor, ...]) -> Problem:
        """The same in numpy arrays."""
        inputs = [t.detach() for t in tensors[: len(self.input_keys())]]
        logs = _flat([t.detach() for t in tensors[len(inputs) :]], inputs[0])
        if self.observation is None:
            leaves = torch.cat([leaf[..., 0] for leaf in inputs]).contiguous().numpy()
            return Problem(self.graph, logs, self.batch_size, leaves=leaves)
        assert self.observation.values is not None
        values = self.observation.values.to(torch.int32).contiguous().numpy()
        tables = _flat(inputs, inputs[0])
        return Problem(self.graph, logs, self.batch_size, tables=tables, values=values)


def lay_out(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence
) -> tuple[Call, list[Tensor]]:
    """An evaluation and the tensors that it is a function of."""
    graph = graph_of(plan, prepared.weights)
    batch_size = joint_batch_size(prepared, evidence)
    observation = observe(evidence, batch_size, prepared.dtype)
    all_observed = observation.values is not None and observation.observed is None
    call = Call(plan, graph, prepared.weights, observation if all_observed else None, batch_size)
    if all_observed:
        starts = graph.tables.layer_starts
        tables = {start: prepared.weights[i].log for i, start in starts.items()}
        inputs = [tables[start] for start in call.input_keys()]
    else:
        latent = latent_potentials(plan, prepared, evidence)
        leaves = leaf_values(plan, prepared, evidence, latent)
        inputs = [leaves[i] for i in call.input_keys()]
    logs = {start: prepared.weights[i].log for i, start in graph.weight_starts.items()}
    return call, [*inputs, *(logs[start] for start in call.weight_keys())]


class _Evaluation(torch.autograd.Function):
    """The circuit, or its inner nodes, as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> Tensor:
        evaluated = root_values(call.problem(tensors))
        ctx.call, ctx.evaluated = call, evaluated
        ctx.save_for_backward(*tensors)
        return torch.from_numpy(evaluated.roots)

    @staticmethod
    def backward(ctx: Any, *gradients_: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients_
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *_differentiable_gradients(ctx.call, tensors, gradient))
        found = gradients(ctx.call.problem(tensors), ctx.evaluated, gradient.numpy())
        return (None, *_split(found, tensors, len(ctx.call.input_keys())))


def _split(found: Gradients, tensors: tuple[Tensor, ...], num_inputs: int) -> list[Tensor]:
    """Gradients in the shapes of the tensors."""
    inputs = found.leaves if found.tables is None else found.tables
    assert inputs is not None
    shaped = []
    for joined, own in ((inputs, tensors[:num_inputs]), (found.logs, tensors[num_inputs:])):
        parts = torch.from_numpy(joined).view(-1).split([t.numel() for t in own])
        shaped += [part.view(t.shape) for part, t in zip(parts, own, strict=True)]
    return shaped


def _differentiable_gradients(
    call: Call, tensors: tuple[Tensor, ...], gradient: Tensor
) -> list[Tensor | None]:
    keys = call.input_keys()
    given = dict(zip(keys, tensors, strict=False))
    logs = dict(zip(call.weight_keys(), tensors[len(keys) :], strict=True))
    starts = call.graph.weight_starts
    made = {start: type(call.weights[i])(logs[start]) for i, start in starts.items()}
    weights = {i: made[start] for i, start in starts.items()}
    leaves = _leaves(call, given)
    root = evaluate(call.plan, leaves, {}, weights, False)[len(call.plan.layers) - 1][0, :, 0]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    alive = gradient.masked_fill(root.detach() == -torch.inf, 0.0)
    found = iter(torch.autograd.grad(root, wanted, alive, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def _leaves(call: Call, given: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Input layer -> (F, B, 1) log-values, by ordinary operations."""
    if call.observation is None:
        return dict(given)
    leaves = {}
    for i, start in call.graph.tables.layer_starts.items():
        layer = call.plan.layers[i]
        assert isinstance(layer, InputLayer)
        leaves[i] = input_values(call.plan, layer, Weights(given[start]), call.observation)
    return leaves


def _flat(tensors: list[Tensor], like: Tensor) -> np.ndarray:
    parts = [tensor.reshape(-1) for tensor in tensors]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else like.new_zeros(0)
    return joined.contiguous().numpy()
