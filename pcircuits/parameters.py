"""Parameters as named tensors of log-weights: initial values, checks, normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import ParameterError
from pcircuits.structure.circuit import Circuit


@dataclass(frozen=True, eq=False)
class WeightedCircuit:
    """A circuit with log-weights, which need not be normalised: what operators take and return.

    Args:
        circuit: The circuit.
        log_weights: Parameter name -> log-weights of the declared shape, shared by all examples.

    Raises:
        ParameterError: If a name is missing or unknown, or a shape is wrong.

    Examples:
        >>> counts = {"input_0": torch.tensor([[3.0, 5.0]]).log()}
        >>> weighted = pc.WeightedCircuit(pc.families.factorized(1, num_categories=2), counts)
        >>> normalised, log_sum = pc.operators.normalise(weighted)
        >>> log_sum.exp()
        tensor(8.)
    """

    circuit: Circuit
    log_weights: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = self.circuit.parameter_shapes
        found = {name: tuple(tensor.shape) for name, tensor in self.log_weights.items()}
        if found != shapes:
            name = min(n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n))
            raise ParameterError(
                f"parameter {name!r} has shape {found.get(name)}; the circuit expects "
                f"{shapes.get(name)}"
            )


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

    Examples:
        >>> plan = pc.compile_circuit(pc.families.mixture(2, num_components=3, num_categories=2))
        >>> weights = pc.random_parameters(plan, seed=0)
        >>> weights["input_0"].exp().sum(-1)  # three distributions
        tensor([1., 1., 1.])
    """
    parameters = {}
    for name, shape in plan.parameter_shapes.items():
        digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
        parameters[name] = normalise_parameter(plan, name, noise).to(dtype)
    return parameters


def normalise_parameter(plan: Plan, name: str, log_weights: Tensor) -> Tensor:
    """Scales the distributions of a parameter to sum to one, in log space.

    Args:
        plan: The compiled circuit.
        name: Name of the parameter.
        log_weights: Log-weights of its shape, or with batch axes in front.

    Returns:
        Normalised log-weights of the same shape.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.factorized(1, num_categories=2))
        >>> counts = torch.tensor([[3.0, 5.0]])
        >>> pc.normalise_parameter(plan, "input_0", counts.log()).exp()
        tensor([[0.3750, 0.6250]])
    """
    rows = plan.parameter_rows[name]
    if isinstance(rows, int):
        return _pieces(log_weights, rows).log_softmax(-1).flatten(-2)
    top = row_maxima(plan, name, log_weights.detach()).clamp_min(torch.finfo(log_weights.dtype).min)
    return log_weights - top - row_totals(plan, name, (log_weights - top).exp()).log()


def row_totals(plan: Plan, name: str, numbers: Tensor) -> Tensor:
    """Sum of each distribution's numbers, repeated for all of its entries.

    Args:
        plan: The compiled circuit.
        name: Name of the parameter.
        numbers: Numbers of its shape, or with batch axes in front.

    Returns:
        Sums of the shape of `numbers`.
    """
    rows = plan.parameter_rows[name]
    if isinstance(rows, int):
        shaped = _pieces(numbers, rows)
        return shaped.sum(-1, keepdim=True).expand_as(shaped).flatten(-2)
    index = torch.as_tensor(rows, device=numbers.device)
    totals = numbers.new_zeros(*numbers.shape[:-1], int(rows[-1]) + 1)
    return totals.index_add(-1, index, numbers)[..., index]


def _largest_of_rows(plan: Plan, name: str, numbers: Tensor) -> Tensor:
    """(rows,) largest number of each distribution of a parameter without batch axes."""
    rows = plan.parameter_rows[name]
    if isinstance(rows, int):
        return numbers.detach().reshape(-1, rows).amax(-1)
    index = torch.as_tensor(rows, device=numbers.device)
    top = numbers.new_full((int(rows[-1]) + 1,), -torch.inf)
    return top.scatter_reduce(0, index, numbers.detach(), "amax")


def row_maxima(plan: Plan, name: str, numbers: Tensor) -> Tensor:
    """Largest of each distribution's numbers, as `row_totals` their sum."""
    rows = plan.parameter_rows[name]
    if isinstance(rows, int):
        shaped = _pieces(numbers, rows)
        return shaped.amax(-1, keepdim=True).expand_as(shaped).flatten(-2)
    index = torch.as_tensor(rows, device=numbers.device)
    top = numbers.new_full((*numbers.shape[:-1], int(rows[-1]) + 1), -torch.inf)
    return top.scatter_reduce(-1, index.expand_as(numbers), numbers, "amax")[..., index]


def _pieces(numbers: Tensor, length: int) -> Tensor:
    """The last axis cut into pieces of one length."""
    return numbers.reshape(*numbers.shape[:-1], -1, length)


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
    sums = row_totals(plan, name, probabilities)
    if not bool(((sums - 1).abs() < 1e-4).all()):
        worst = int((sums - 1).abs().argmax())
        row = _row_of(plan, name, worst)
        raise ParameterError(
            f"row {row} of parameter {name!r} sums to {float(sums.flatten()[worst]):g}; expected 1"
        )
    return normalise_parameter(plan, name, probabilities.log())


def check_log_weights(plan: Plan, parameters: Mapping[str, Tensor]) -> None:
    """Checks that every row of every parameter can be normalised.

    Raises:
        ParameterError: If a log-weight is NaN or +inf, or all of a row are -inf.
    """
    for name in plan.parameter_shapes:
        top = _largest_of_rows(plan, name, parameters[name])  # NaN wherever the row has one
        wrong = ~torch.isfinite(top)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise ParameterError(
                f"row {first} of parameter {name!r} has largest log-weight "
                f"{float(top[first])}; expected a finite number"
            )


def _row_of(plan: Plan, name: str, entry: int) -> int:
    rows = plan.parameter_rows[name]
    return entry // rows if isinstance(rows, int) else int(rows[entry])
