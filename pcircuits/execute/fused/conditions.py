"""Where evaluation in linear space is possible, and where it is worth its compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.fused.program import Program, program_of
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import AnyWeights, Weights

# Imported where it is used: numba takes a second to import.
if TYPE_CHECKING:
    from pcircuits.execute.fused.tables import Tables

# Largest part of any sum that underflow may take from it.
_LOST = 1e-9
# Rows of products whose sum is below a floor, which depends on the weights, are computed anew.
# Were the floor above this, they would be many.
_LARGEST_FLOOR = 1e-6
_TINY = {dtype: torch.finfo(dtype).tiny for dtype in (torch.float32, torch.float64)}
_RANGE = "some weight is zero or nearly so, very large, or of a very different size than others"
# Values of all layers from which on the compiled kernels, a quarter of a second to load, are taken.
_MANY_VALUES = 1 << 12


@dataclass(frozen=True, eq=False)
class SumWeights:
    """Weights of a program's sums, and what follows from their sizes.

    Attributes:
        tables: The tables, with their graph.
        linear: The same in linear space, in the precision to compute in; None if there is something
            against it.
        against: What keeps sums with such weights from being computed in linear space.
        dtype: Precision to compute in: that of the tables, or float64 where the range of float32 is
            too small for such weights.
        floors: Of each run, (S,) what the sum of a product's row must reach for underflow not to
            matter; nothing if there is something against it.
    """

    tables: tuple[AnyWeights, ...]
    linear: Tables | None
    against: str | None
    dtype: torch.dtype
    floors: tuple[np.ndarray, ...]


def why_not(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    """What keeps a plan from being evaluated in linear space; None if nothing does."""
    program = program_of(plan)
    if program is None:
        return "some layer is not a sum over products of inputs and sums"
    for name in evidence.latent_log_potentials or {}:
        if not isinstance(plan.layers[plan.places[name][0]], InputLayer):
            return f"there are latent potentials of {name!r}, which is no input"
    return sum_weights(program, prepared).against


def has_many_values(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> bool:
    """Whether there is enough to compute that the import of the compiled kernels is worth it."""
    program = program_of(plan)
    if program is None:
        return False
    return program.num_values * joint_batch_size(prepared, evidence) >= _MANY_VALUES


_FOUND: WeakKeyDictionary[PreparedParameters, SumWeights] = WeakKeyDictionary()


def sum_weights(program: Program, prepared: PreparedParameters) -> SumWeights:
    """Weights of all but the inputs; looked at once for the same parameters."""
    found = _FOUND.get(prepared)
    if found is None:
        tables = tuple(prepared.weights[layer] for layer in program.tables)
        found = _judged(program, tables, prepared.dtype)
        if found.against == _RANGE and prepared.dtype != torch.float64:
            found = _judged(program, tables, torch.float64)
        _FOUND[prepared] = found
    return found


def _judged(program: Program, tables: tuple[AnyWeights, ...], dtype: torch.dtype) -> SumWeights:
    against = _unlike(tables)
    if against is not None:
        return SumWeights(tables, None, against, dtype, ())
    # Imported where it is used: numba takes a second to import.
    from pcircuits.execute.fused.tables import Tables, table_of

    dense = [own for own in tables if isinstance(own, Weights)]
    found = [own for own in (table_of(own, dtype) for own in dense) if own is not None]
    floors = _floors(program, [own.extremes for own in found], dtype) if found else ()
    if len(found) < len(tables) or any(own.max() > _LARGEST_FLOOR for own in floors):
        return SumWeights(tables, None, _RANGE, dtype, ())
    return SumWeights(tables, Tables(tuple(found)), None, dtype, floors)


def _unlike(tables: tuple[AnyWeights, ...]) -> str | None:
    if any(own.log.device.type != "cpu" for own in tables):
        return "parameters are not on the CPU"
    if any(own.log.shape[1] > 1 for own in tables):
        return "weights of sums are given per example"
    return None if all(isinstance(own, Weights) for own in tables) else _RANGE


def _floors(
    program: Program, extremes: Sequence[tuple[float, float]], dtype: torch.dtype
) -> tuple[np.ndarray, ...]:
    low = min(low for low, _ in extremes)
    # Products sum to one before they are mixed, so no value is above the largest weight.
    high = max(0.0, *(high for _, high in extremes))
    smallest = _TINY[dtype] / _LOST * math.exp(-low)
    return tuple(
        np.zeros(1)
        if len(run.units) > 1
        else smallest * run.units[0] * np.exp(high * run.shapes[:, 0])
        for run in program.runs
    )


_IN_DOUBLE: WeakKeyDictionary[Weights, Weights] = WeakKeyDictionary()


def in_double(weights: Weights) -> Weights:
    """The same weights in float64; made once of those without a graph."""
    if weights.log.requires_grad:
        return Weights(weights.log.double())
    if weights not in _IN_DOUBLE:
        _IN_DOUBLE[weights] = Weights(weights.log.double())
    return _IN_DOUBLE[weights]
