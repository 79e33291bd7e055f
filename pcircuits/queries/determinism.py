"""Whether a circuit is deterministic under its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch

from pcircuits.compile.plan import Plan
from pcircuits.execute.api import Parameters
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.structure.circuit import Circuit
from pcircuits.validate import Determinism, determinism

_STRUCTURAL: WeakKeyDictionary[Circuit, Determinism] = WeakKeyDictionary()
# States that are searched when weights are zero: the answer is not kept, so it has to be quick.
_LIMIT = 20_000


def determinism_of(plan: Plan, parameters: Parameters) -> Determinism:
    """Whether at most one term of every sum is positive in any world, and a world if not.

    Weights of zero (-inf in all examples) count where parameters are given by name; of prepared
    parameters only the structure is looked at.
    """
    known = _STRUCTURAL.get(plan.circuit)
    if known is None:
        known = _STRUCTURAL[plan.circuit] = determinism(plan.circuit)
    if known.holds or isinstance(parameters, PreparedParameters):
        return known
    zeros = _zeros(plan, parameters)
    return determinism(plan.circuit, zeros, limit=_LIMIT) if zeros else known


def _zeros(plan: Plan, parameters: Mapping[str, torch.Tensor]) -> dict[str, list[object]]:
    """Parameter name -> nested lists of its shape, true where every example's weight is zero."""
    zeros = {}
    for name, shape in plan.parameter_shapes.items():
        zero = parameters[name].detach().reshape(-1, *shape).eq(-torch.inf).all(0)
        if bool(zero.any()):
            zeros[name] = zero.tolist()
    return zeros
