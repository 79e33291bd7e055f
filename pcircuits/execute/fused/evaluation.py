"""Evaluation of dense circuits in linear space, with an exact gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.fused.arenas import tensor_of
from pcircuits.execute.fused.backward import LeafFlows, gradients
from pcircuits.execute.fused.conditions import sum_weights, why_not
from pcircuits.execute.fused.forward import Evaluation, Kept
from pcircuits.execute.fused.kernels import ADD, SET, SKIP
from pcircuits.execute.fused.program import Program, program_of
from pcircuits.execute.fused.rows import source_gradients
from pcircuits.execute.inputs import Reading, latent_potentials, leaf_readings
from pcircuits.execute.layers import evaluate
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import AnyWeights, Weights

__all__ = ["input_posteriors", "log_value", "why_not"]


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    A gradient of the gradient repeats the pass as ordinary operations. What `why_not` objects to
    gives no right result.

    Raises:
        BackendError: If the plan has no program.
    """
    call = _call(plan, prepared, evidence)
    tensors = call.tensors()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        value: Tensor = _Evaluation.apply(call, *tensors)
        return value.to(prepared.dtype)
    return call.evaluation(call.tables, keep=False).run().to(prepared.dtype)


def input_posteriors(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence
) -> tuple[Tensor, dict[int, Tensor]]:
    """(B,) log-values, and input layer -> (F, B, K) posteriors of its units; no gradient.

    They are the gradient of the log-value with respect to the log-values of the inputs; zero where
    the evidence is impossible. For what may be evaluated, see `log_value`.
    """
    call = _call(plan, prepared, evidence)
    weights, program = call.detached(), call.program
    evaluation = call.evaluation(weights, keep=True)
    root = evaluation.run()
    kept = evaluation.kept()
    flows: dict[int, LeafFlows] = {}
    for units, own in kept.inputs.items():
        room = tensor_of((len(own.rows), units), root.dtype)
        flows[units] = LeafFlows(room, np.arange(len(own.rows)), SET)
    possible = (root > -torch.inf).to(root.dtype)
    gradients(program, weights, kept, possible, flows, [False] * len(weights))
    found: dict[int, Tensor] = {}
    for units, layers in program.inputs.items():
        sizes = [call.readings[i].num_rows for i in layers]
        for i, own in zip(layers, flows[units].values.split(sizes), strict=True):
            found[i] = own.view(-1, len(root), units).to(prepared.dtype)
    return root.to(prepared.dtype), found


def _call(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> _Call:
    program = program_of(plan)
    if program is None:
        raise BackendError(
            f"impl='fused' cannot evaluate this: {why_not(plan, prepared, evidence)}"
        )
    latent = latent_potentials(plan, prepared, evidence)
    readings = leaf_readings(plan, prepared, evidence, latent, tables=True)
    sums = sum_weights(program, prepared)
    tables = [own for own in sums.tables if isinstance(own, Weights)]
    if sums.dtype != prepared.dtype:
        readings = {i: _reading_in_double(own) for i, own in readings.items()}
        tables = [_in_double(own) for own in tables]
    return _Call(plan, program, readings, tables, sums.floors)


_IN_DOUBLE: WeakKeyDictionary[Weights, Weights] = WeakKeyDictionary()


def _in_double(weights: Weights) -> Weights:
    """The same weights in float64; made once of those without a graph."""
    if weights.log.requires_grad:
        return Weights(weights.log.double())
    if weights not in _IN_DOUBLE:
        _IN_DOUBLE[weights] = Weights(weights.log.double())
    return _IN_DOUBLE[weights]


def _reading_in_double(reading: Reading) -> Reading:
    if reading.weights is None:
        return replace(reading, source=reading.source.double())
    weights = _in_double(reading.weights)
    return replace(reading, source=weights.log, weights=weights)


@dataclass(frozen=True, eq=False)
class _Call:
    """What an evaluation is of."""

    plan: Plan
    program: Program
    readings: Mapping[int, Reading]
    tables: Sequence[Weights]
    floors: Sequence[np.ndarray]

    def tensors(self) -> list[Tensor]:
        """The sources of the inputs, then the log-weights."""
        sources = [reading.source for reading in self.readings.values()]
        return sources + [own.log for own in self.tables]

    def evaluation(self, weights: Sequence[AnyWeights], *, keep: bool) -> Evaluation:
        """An evaluation with some form of the weights."""
        return Evaluation(self.program, self.readings, weights, self.floors, keep=keep)

    def detached(self) -> list[AnyWeights]:
        """The tables without their graph: what is cached in them must not tie calls together."""
        return [own.detached() for own in self.tables]

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """(B,) log-values by ordinary operations on the tensors."""
        sources = dict(zip(self.readings, tensors, strict=False))
        leaves = {i: reading.log(sources[i]) for i, reading in self.readings.items()}
        logs = zip(self.tables, tensors[len(sources) :], strict=True)
        made = [type(own)(log) for own, log in logs]
        weights = {
            own.layer: made[table]
            for run in self.program.runs
            for own, table in zip(run.sums, run.tables, strict=True)
        }
        return evaluate(self.plan, leaves, {}, weights, False)[len(self.plan.layers) - 1][0, :, 0]


class _Evaluation(torch.autograd.Function):
    """All layers as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:
        ctx.call, ctx.weights = call, call.detached()
        evaluation = call.evaluation(ctx.weights, keep=True)
        root = evaluation.run()
        ctx.impossible = root == -torch.inf
        kept, ctx.unpack = evaluation.kept().pack()
        # Saved, not stored: what an evaluation keeps is let go with the rest after the backward.
        ctx.save_for_backward(*tensors, *kept)
        return root

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        # A root of -inf has a gradient of zero by convention; below sums it would come out so.
        gradient = incoming[0].masked_fill(ctx.impossible, 0.0)
        tensors = ctx.saved_tensors[: len(call.readings) + len(ctx.weights)]
        if torch.is_grad_enabled():
            return (None, *_differentiable_gradients(call, tensors, gradient))
        needed = ctx.needs_input_grad[1:]
        asked = frozenset(i for i, own in zip(call.readings, needed, strict=False) if own)
        kept = ctx.unpack(ctx.saved_tensors[len(tensors) :])
        flows = _leaf_flows(call.program, kept, asked)
        wanted = needed[len(call.readings) :]
        logs = gradients(call.program, ctx.weights, kept, gradient, flows, wanted)
        found = source_gradients(
            call.program,
            call.readings,
            kept.inputs,
            {units: own.values for units, own in flows.items()},
            asked,
        )
        return (None, *(found.get(i) for i in call.readings), *logs)


def _leaf_flows(program: Program, kept: Kept, asked: frozenset[int]) -> dict[int, LeafFlows]:
    """Units -> room for the gradients of the inputs' rows, and what becomes of them."""
    found = {}
    for units, own in kept.inputs.items():
        if asked.isdisjoint(program.inputs.get(units, ())):
            found[units] = LeafFlows(own.values[:0], own.rows, SKIP)
            continue
        # Many examples may read the same row of a table.
        room = tensor_of(tuple(own.values.shape), own.values.dtype)
        if own.in_table:
            room.zero_()
        found[units] = LeafFlows(room, own.rows, ADD if own.in_table else SET)
    return found


def _differentiable_gradients(
    call: _Call, tensors: Sequence[Tensor], gradient: Tensor
) -> list[Tensor | None]:
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    value = call.value(tensors)
    found = iter(torch.autograd.grad(value, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
