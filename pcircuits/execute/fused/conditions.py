"""Where evaluation in linear space is possible, and where it is worth its compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.fused.program import Program, program_of
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import AnyWeights, Weights

# Largest part of any sum that underflow may take from it.
_LOST = 1e-9
# Rows of products whose sum is below a floor, which depends on the weights, are computed anew.
# Were the floor above this, they would be many.
_LARGEST_FLOOR = 1e-6
# Values of all layers from which on the import of the compiled kernels, a second, may be worth it.
_MANY_VALUES = 1 << 15


def why_not(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    """What keeps a plan from being evaluated in linear space; None if nothing does."""
    program = program_of(plan)
    if program is None:
        return "some layer is not a sum over products of inputs and sums"
    for name in evidence.latent_log_potentials or {}:
        if not isinstance(plan.layers[plan.places[name][0]], InputLayer):
            return f"there are latent potentials of {name!r}, which is no input"
    return against_weights(program, sum_weights(plan, prepared))


def has_many_values(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> bool:
    """Whether there is enough to compute that the import of the compiled kernels is worth it."""
    program = program_of(plan)
    if program is None:
        return False
    return program.num_values * joint_batch_size(prepared, evidence) >= _MANY_VALUES


def sum_weights(plan: Plan, prepared: PreparedParameters) -> dict[int, AnyWeights]:
    """Layer -> weights, of all but the inputs."""
    layers = plan.layers
    return {i: w for i, w in prepared.weights.items() if not isinstance(layers[i], InputLayer)}


def against_weights(program: Program, weights: Mapping[int, AnyWeights]) -> str | None:
    """What keeps sums with such weights from being computed in linear space."""
    distinct = set(weights.values())
    if any(own.log.device.type != "cpu" for own in distinct):
        return "parameters are not on the CPU"
    if any(own.log.shape[1] > 1 for own in distinct):
        return "weights of sums are given per example"
    if not all(own.bounded for own in distinct):
        return "some weight is zero or nearly so, or very large"
    if max(floors_of(program, weights)) > _LARGEST_FLOOR:
        return "the weights are of very different sizes"
    return None


def floors_of(program: Program, weights: Mapping[int, AnyWeights]) -> list[float]:
    """Of each sum, what the sum of a product's row must reach for underflow not to matter."""
    distinct = [own for own in set(weights.values()) if isinstance(own, Weights)]
    low = min(own.extremes[0] for own in distinct)
    # Products sum to one before they are mixed, so no value is above the largest weight.
    high = max(0.0, *(own.extremes[1] for own in distinct))
    smallest = torch.finfo(distinct[0].log.dtype).tiny / _LOST * math.exp(-low)
    return [
        0.0 if own.pairs else smallest * own.units[0] * math.exp(high * len(own.factors))
        for own in program.sums
    ]
