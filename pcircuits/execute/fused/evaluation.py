"""Evaluation of dense circuits in linear space, with an exact gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.fused.arenas import give_back, lent_products
from pcircuits.execute.fused.backward import Descent
from pcircuits.execute.fused.conditions import SumWeights, in_double, sum_weights, why_not
from pcircuits.execute.fused.down_kernels import FILLS, REPLACES
from pcircuits.execute.fused.forward import Evaluation
from pcircuits.execute.fused.memory import array_of
from pcircuits.execute.fused.program import Program, program_of
from pcircuits.execute.fused.rows import LeafFlows, source_gradients
from pcircuits.execute.fused.tables import Tables
from pcircuits.execute.inputs import Reading, latent_potentials, leaf_readings
from pcircuits.execute.layers import evaluate
from pcircuits.execute.prepare import PreparedParameters, require_numbers
from pcircuits.execute.weights import Weights

__all__ = ["input_posteriors", "log_value", "why_not"]


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    A gradient of the gradient repeats the pass as ordinary operations. What `why_not` objects to
    gives no right result.

    Raises:
        BackendError: If the plan has no program.
        ParameterError: If a value is NaN, for the sake of a weight.
    """
    call = _call(plan, prepared, evidence)
    tensors = call.tensors()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        value: Tensor = _Evaluation.apply(call, *tensors)
        return value.to(prepared.dtype)
    evaluation = call.evaluation(keep=False)
    root = call.run(evaluation)
    give_back(evaluation.kept.arenas)
    return _tensor(root, prepared.dtype)


def input_posteriors(
    plan: Plan,
    prepared: PreparedParameters,
    evidence: Evidence,
    places: Sequence[tuple[int, int]],
) -> tuple[Tensor, bool, list[Tensor]]:
    """Posteriors of inputs, without a graph; for what may be evaluated, see `log_value`.

    They are the gradient of the log-value with respect to the log-values of the inputs; zero where
    the evidence is impossible.

    Args:
        plan: The plan.
        prepared: The parameters.
        evidence: The evidence.
        places: Folds of input layers, (layer, fold).

    Returns:
        (B,) log-values; whether none of them is -inf; of each place (B, K) posteriors of its
        units.
    """
    call = _call(plan, prepared, evidence)
    program = call.program
    evaluation = call.evaluation(keep=True)
    # Where nobody else reads a product, it is overwritten: new memory costs as much as the pass.
    in_place, arenas = program.products_of_inputs, evaluation.kept.arenas
    flows = {
        units: LeafFlows(arenas.products[units], own.rows, REPLACES)
        if units in in_place
        else LeafFlows(
            array_of((len(own.rows), units), own.values.dtype),
            arenas.sizes.leaf_rows[units],
            FILLS,
        )
        for units, own in evaluation.kept.inputs.items()
    }
    descent = Descent(
        program,
        call.linear,
        evaluation.kept,
        flows,
        wanted=(False,) * len(call.tables),
        in_place=not program.rereads,
    )
    # Views are made before what they show: after the passes all code has left the caches.
    products, batch = lent_products(arenas), arenas.sizes.batch
    asked = {plan.layers[layer].num_units for layer, _ in places}
    rows = {units: products[units] if units in in_place else flows[units].values for units in asked}
    folds = {k: torch.from_numpy(own).view(-1, batch, k).unbind() for k, own in rows.items()}
    found = []
    for layer, fold in places:
        units, place = plan.layers[layer].num_units, program.input_starts[layer] + fold
        found.append(folds[units][in_place[units][place] if units in in_place else place])
    log_value, ones = torch.from_numpy(evaluation.value), _ones(batch, evaluation.value.dtype)
    call.run(evaluation)
    descent.gradients(ones)
    if call.weights.dtype != prepared.dtype:
        log_value, found = log_value.to(prepared.dtype), [own.to(prepared.dtype) for own in found]
    return log_value, evaluation.is_possible, found


@lru_cache(maxsize=16)
def _ones(number: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(number, dtype)


def _tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    # Even an operation that does nothing takes its time.
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


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
        tables = [in_double(own) for own in tables]
    return _Call(plan, prepared, program, readings, tables, sums)


def _reading_in_double(reading: Reading) -> Reading:
    if reading.weights is None:
        return replace(reading, source=reading.source.double())
    if not reading.often:
        return reading  # what is read of it is converted, not all of a large table
    weights = in_double(reading.weights)
    return replace(reading, source=weights.log, weights=weights)


@dataclass(frozen=True, eq=False)
class _Call:
    """What an evaluation is of."""

    plan: Plan
    prepared: PreparedParameters
    program: Program
    readings: Mapping[int, Reading]
    tables: Sequence[Weights]
    weights: SumWeights

    @property
    def linear(self) -> Tables:
        """The tables in linear space."""
        assert self.weights.linear is not None, "there is something against these weights"
        return self.weights.linear

    def tensors(self) -> list[Tensor]:
        """The sources of the inputs, then the log-weights."""
        sources = [reading.source for reading in self.readings.values()]
        return sources + [own.log for own in self.tables]

    def evaluation(self, *, keep: bool) -> Evaluation:
        """An evaluation of it, which the gradient may be asked of."""
        return Evaluation(self.program, self.readings, self.weights, keep=keep)

    def run(self, evaluation: Evaluation) -> np.ndarray:
        """(B,) log-values of the root.

        Raises:
            ParameterError: If some are NaN, for the sake of a weight.
        """
        root = evaluation.run()
        if not evaluation.is_possible:
            require_numbers(self.prepared, torch.from_numpy(root))
        return root

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """(B,) log-values by ordinary operations on the tensors."""
        sources = dict(zip(self.readings, tensors, strict=False))
        dtype = self.weights.dtype
        leaves = {i: own.log(sources[i]).to(dtype) for i, own in self.readings.items()}
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
        evaluation = call.evaluation(keep=True)
        root = torch.from_numpy(call.run(evaluation))
        ctx.call = call
        kept, ctx.unpack = evaluation.kept.pack()
        # Saved, not stored: what an evaluation keeps is let go with the rest after the backward.
        ctx.save_for_backward(*tensors, *kept)
        return root

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        saved, number = ctx.saved_tensors, len(call.readings) + len(call.tables)
        tensors = saved[:number]
        if torch.is_grad_enabled():
            return (None, *_differentiable_gradients(call, tensors, incoming[0]))
        needed = ctx.needs_input_grad[1:]
        asked = frozenset(i for i, own in zip(call.readings, needed, strict=False) if own)
        kept = ctx.unpack(saved[number:])
        inputs = call.program.inputs.items()
        units_asked = {units for units, layers in inputs if not asked.isdisjoint(layers)}
        flows = {
            units: LeafFlows.of(own, asked=units in units_asked)
            for units, own in kept.inputs.items()
        }
        wanted = needed[len(call.readings) :]
        descent = Descent(call.program, call.linear, kept, flows, wanted)
        logs = descent.gradients(incoming[0].numpy())
        found = source_gradients(call.program, call.readings, flows, asked)
        return (None, *(found.get(i) for i in call.readings), *logs)


def _differentiable_gradients(
    call: _Call, tensors: Sequence[Tensor], gradient: Tensor
) -> list[Tensor | None]:
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    value = call.value(tensors)
    # A root of -inf has a gradient of zero by convention; below sums it would come out so.
    gradient = gradient.masked_fill(value == -torch.inf, 0.0)
    found = iter(torch.autograd.grad(value, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
