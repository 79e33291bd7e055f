"""Powers of deterministic circuits."""

from __future__ import annotations

import math

import torch

from pcircuits.errors import ParameterError, StructureError
from pcircuits.operators.tables import zeros_of
from pcircuits.parameters import WeightedCircuit
from pcircuits.validate import determinism


def power(weighted: WeightedCircuit, exponent: float) -> WeightedCircuit:
    """The circuit's value in every world, raised to a power.

    In a deterministic circuit at most one term of a sum is positive, so the power of a sum is the
    sum of powers and every weight is raised by itself (Vergari et al., NeurIPS 2021, theorem
    3.2). Zero stays zero for every exponent. Weights that are zero count for determinism. The
    result is not normalised.

    Args:
        weighted: A deterministic circuit.
        exponent: Any finite number.

    Returns:
        The same circuit with other weights.

    Raises:
        StructureError: If the circuit is not deterministic, with a world that shows it, or if that
            could not be decided.
        ParameterError: If the exponent is not finite.

    Examples:
        >>> tree = pc.chow_liu(torch.tensor([[0, 0], [0, 0], [1, 1]]), pseudocount=0)
        >>> squared, log_sum = pc.operators.normalise(pc.operators.power(tree, 2.0))
        >>> log_sum.exp()  # (2/3)^2 + (1/3)^2
        tensor(0.5556, dtype=torch.float64)
        >>> model = pc.CircuitModel.of(squared)
        >>> model.log_likelihood(torch.tensor([[0, 0]])).exp().detach()  # 4/5
        tensor([0.8000], dtype=torch.float64)
    """
    if not math.isfinite(exponent):
        raise ParameterError(f"exponent must be finite; found {exponent}")
    found = determinism(weighted.circuit, zeros_of(weighted))
    if found.holds is None:
        raise StructureError(
            "power needs a deterministic circuit; whether this one is was not decided within the "
            "limit of the search"
        )
    if not found.holds:
        raise StructureError(
            f"power needs a deterministic circuit, and this one is not: {found.overlap} (`square` "
            "and `multiply` need no determinism)"
        )
    raised = {
        name: torch.where(tensor == -torch.inf, tensor, tensor * exponent)
        for name, tensor in weighted.log_weights.items()
    }
    return WeightedCircuit(weighted.circuit, raised)
