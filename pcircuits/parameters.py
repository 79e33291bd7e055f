"""Parameters as named tensors of log-weights: initial values, checks, normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import ParameterError


def random_parameters(
    plan: Plan, *, seed: int = 0, spread: float = 0.5, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Draws a normalised starting point for learning.

    Every parameter has its own random stream, derived from the seed and its name, so adding a
    parameter to a circuit does not change the others.

    Args:
        plan: The compiled circuit.
        seed: Seed.
        spread: Standard deviation of the log-weights before they are normalised: small enough
            that no branch starts out dead, large enough to break the symmetry between units.
        dtype: Floating-point type.

    Returns:
        Name -> log-weights whose rows are distributions.
    """
    parameters = {}
    for name, shape in plan.parameter_shapes.items():
        digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
        parameters[name] = noise.log_softmax(-1).to(dtype)
    return parameters


def normalise(log_weights: Tensor) -> Tensor:
    """Scales rows (the last axis) to sum to one, in log space."""
    return log_weights.log_softmax(-1)


def log_of_probabilities(plan: Plan, name: str, probabilities: Tensor) -> Tensor:
    """Checks given probabilities of one parameter and takes their logarithm.

    Args:
        plan: The compiled circuit.
        name: Name of the parameter.
        probabilities: Non-negative numbers of the declared shape, rows summing to 1 within 1e-4.

    Returns:
        Log-probabilities, rows normalised exactly.

    Raises:
        ParameterError: If the name is unknown, the shape is wrong, or a row is not a distribution.
    """
    expected = plan.parameter_shapes.get(name)
    if expected is None:
        raise ParameterError(f"no parameter {name!r}; found {sorted(plan.parameter_shapes)[:8]}")
    if tuple(probabilities.shape) != expected:
        raise ParameterError(
            f"parameter {name!r} has shape {tuple(probabilities.shape)}; expected {expected}"
        )
    if not bool((probabilities >= 0).all()):
        where = (~(probabilities >= 0)).nonzero()[0].tolist()
        found = float(probabilities[tuple(where)])
        raise ParameterError(f"parameter {name!r}{where} is {found}; expected a probability >= 0")
    sums = probabilities.sum(-1)
    if not bool(((sums - 1).abs() < 1e-4).all()):
        row = int((sums - 1).abs().argmax())
        raise ParameterError(
            f"row {row} of parameter {name!r} sums to {float(sums.reshape(-1)[row])}; expected 1"
        )
    return normalise(probabilities.log())


def check_log_weights(plan: Plan, parameters: Mapping[str, Tensor]) -> None:
    """Checks that every row of every parameter can be normalised.

    Raises:
        ParameterError: If a log-weight is NaN or +inf, or all of a row are -inf.
    """
    for name in plan.parameter_shapes:
        tensor = parameters[name]
        top = tensor.amax(-1)  # NaN wherever the row has one
        wrong = ~torch.isfinite(top)
        if bool(wrong.any()):
            row = int(wrong.reshape(-1).nonzero()[0])
            raise ParameterError(
                f"row {row} of parameter {name!r} has largest log-weight "
                f"{float(top.reshape(-1)[row])}; expected a finite number"
            )
