"""Evaluation of dense circuits in linear space, with an exact gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.fused.conditions import sum_weights, why_not
from pcircuits.execute.fused.passes import Evaluation, gradients
from pcircuits.execute.fused.program import Program, program_of
from pcircuits.execute.inputs import Reading, latent_potentials, leaf_readings
from pcircuits.execute.layers import evaluate
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import AnyWeights

__all__ = ["log_value", "why_not"]


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    A gradient of the gradient repeats the pass as ordinary operations. What `why_not` objects to
    gives no right result.

    Raises:
        BackendError: If the plan has no program.
    """
    program = program_of(plan)
    if program is None:
        raise BackendError(
            f"impl='fused' cannot evaluate this: {why_not(plan, prepared, evidence)}"
        )
    latent = latent_potentials(plan, prepared, evidence)
    readings = leaf_readings(plan, prepared, evidence, latent, tables=True)
    weights = sum_weights(plan, prepared)
    tensors = [reading.source for reading in readings.values()]
    tensors += [own.log for own in _distinct(weights)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        value: Tensor = _Evaluation.apply(_Call(plan, program, readings, weights), *tensors)
        return value
    return Evaluation(program, readings, weights, keep=False).run()


@dataclass(frozen=True, eq=False)
class _Call:
    """What an evaluation is of. Its tensors: the sources of the inputs, then the log-weights."""

    plan: Plan
    program: Program
    readings: Mapping[int, Reading]
    weights: Mapping[int, AnyWeights]

    def detached(self) -> dict[int, AnyWeights]:
        """The weights without their graph: what is cached in them must not tie calls together."""
        made = {
            id(w): type(w)(w.log.detach()) if w.log.requires_grad else w
            for w in _distinct(self.weights)
        }
        return {i: made[id(w)] for i, w in self.weights.items()}

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """(B,) log-values by ordinary operations on the tensors."""
        sources = dict(zip(self.readings, tensors, strict=False))
        leaves = {i: reading.log(sources[i]) for i, reading in self.readings.items()}
        logs = zip(_distinct(self.weights), tensors[len(sources) :], strict=True)
        made = {id(w): type(w)(log) for w, log in logs}
        weights = {i: made[id(w)] for i, w in self.weights.items()}
        return evaluate(self.plan, leaves, {}, weights, False)[len(self.plan.layers) - 1][0, :, 0]


class _Evaluation(torch.autograd.Function):
    """All layers as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:
        ctx.call, ctx.weights = call, call.detached()
        evaluation = Evaluation(call.program, call.readings, ctx.weights, keep=True)
        root = evaluation.run()
        ctx.impossible = root == -torch.inf
        kept, ctx.unpack = evaluation.kept.pack()
        # Saved, not stored: what an evaluation keeps is let go with the rest after the backward.
        ctx.save_for_backward(*tensors, *kept)
        return root

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        # A root of -inf has a gradient of zero by convention; below sums it would come out so.
        gradient = incoming[0].masked_fill(ctx.impossible, 0.0)
        distinct = _distinct(call.weights)
        tensors = ctx.saved_tensors[: len(call.readings) + len(distinct)]
        if torch.is_grad_enabled():
            return (None, *_differentiable_gradients(call, tensors, gradient))
        needed = ctx.needs_input_grad[1:]
        kept = frozenset(i for i, asked in zip(call.readings, needed, strict=False) if asked)
        asked_for = zip(distinct, needed[len(call.readings) :], strict=True)
        keys = {id(w) for w, asked in asked_for if asked}
        wanted = frozenset(i for i, w in call.weights.items() if id(w) in keys)
        flows, logs = gradients(
            call.program,
            call.readings,
            ctx.weights,
            ctx.unpack(ctx.saved_tensors[len(tensors) :]),
            gradient,
            kept=kept,
            wanted=wanted,
        )
        of = {id(w): id(ctx.weights[i]) for i, w in call.weights.items()}
        return (
            None,
            *(flows.get(i) for i in call.readings),
            *(logs.get(of[id(w)]) for w in distinct),
        )


def _distinct(weights: Mapping[int, AnyWeights]) -> list[AnyWeights]:
    return list(dict.fromkeys(weights.values()))


def _differentiable_gradients(
    call: _Call, tensors: Sequence[Tensor], gradient: Tensor
) -> list[Tensor | None]:
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    value = call.value(tensors)
    found = iter(torch.autograd.grad(value, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
