"""Evidence made part of a circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcircuits.errors import EvidenceError
from pcircuits.operators.assembly import Assembler
from pcircuits.operators.rewriting import copied, rewritten
from pcircuits.operators.tables import Weight, dtype_of, table_of, weight_of
from pcircuits.operators.units import Units, constants, gathered, input_weight
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import Input


def condition(
    weighted: WeightedCircuit,
    values: Mapping[int, int] | None = None,
    *,
    log_potentials: Mapping[int, Tensor | Sequence[float]] | None = None,
    keep: bool = True,
) -> WeightedCircuit:
    """Fixes variables, or weighs their categories, for good.

    The result is the circuit times the evidence and is not normalised: its sum over all worlds is
    the probability of the evidence, and `normalise` of it gives the conditional distribution and
    that probability. Every smooth and decomposable circuit can be conditioned, at the cost of
    copying it; the weights of sums stay as they are, and tied, with `keep`.

    Args:
        weighted: The circuit.
        values: Variable -> category that it has.
        log_potentials: Variable -> (V,) logarithms of factors of its categories (soft evidence).
        keep: Whether the result is a function of all L variables, zero where one of `values` is
            different. Otherwise these variables are gone and the rest is numbered 0, 1, ... in the
            same order.

    Returns:
        The circuit times the evidence.

    Raises:
        EvidenceError: If a variable or category does not exist, a variable is given both ways, or
            all variables would be gone.

    Examples:
        Rain and wet grass on four days; what is left of them when the grass is wet:

        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> wet = pc.operators.condition(pc.chow_liu(days, pseudocount=0), {1: 1})
        >>> given_wet, log_probability = pc.operators.normalise(wet)
        >>> log_probability.exp()
        tensor(0.5000, dtype=torch.float64)
        >>> pc.CircuitModel.of(given_wet).marginals(pc.Evidence()).detach()[0, 0]  # rain
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    fixed = dict(values or {})
    soft = _checked_potentials(weighted, log_potentials or {})
    _check_values(weighted.circuit, fixed)
    if both := sorted(fixed.keys() & soft.keys()):
        raise EvidenceError(
            f"variables {both} have a value and potentials; expected one of the two"
        )
    dropped = set() if keep else set(fixed)
    check_some_left(weighted.circuit, dropped)
    places = kept_places(weighted.circuit, dropped)
    assembler = Assembler(dtype_of(weighted))

    def leaf(node: Input) -> Units:
        place = places.get(node.variable, 0)
        if node.variable in soft:
            return _weighed(assembler, weighted, node, place, soft[node.variable])
        if node.variable not in fixed:
            return copied(assembler, weighted, node, variable=place)
        if not keep:
            return constants(table_of(weighted, node)[:, fixed[node.variable]])
        return _observed(assembler, weighted, node, fixed[node.variable])

    root = rewritten(assembler, weighted, leaf)
    return assembler.build(gathered_root(assembler, root))


def gathered_root(assembler: Assembler, root: Units) -> int:
    """The number of a root that is a node as it is."""
    node = gathered(assembler, root).node
    assert node is not None, "some variable is left"
    return node


def kept_places(circuit: Circuit, dropped: set[int]) -> dict[int, int]:
    """Variable -> its number among those that are not dropped."""
    kept = (variable for variable in range(circuit.num_variables) if variable not in dropped)
    return {variable: place for place, variable in enumerate(kept)}


def check_some_left(circuit: Circuit, dropped: set[int]) -> None:
    """Checks that a circuit still has a variable.

    Raises:
        EvidenceError: If all are dropped.
    """
    if len(dropped) == circuit.num_variables:
        raise EvidenceError(
            f"all {circuit.num_variables} variables would be gone; a circuit needs at least one "
            "(a query gives the number that is left)"
        )


def check_variable(circuit: Circuit, variable: object) -> None:
    """Checks that a variable exists.

    Raises:
        EvidenceError: If not.
    """
    if not isinstance(variable, int) or not 0 <= variable < circuit.num_variables:
        raise EvidenceError(
            f"variable {variable!r} does not exist; expected one of 0 .. "
            f"{circuit.num_variables - 1}"
        )


def _check_values(circuit: Circuit, values: Mapping[int, int]) -> None:
    for variable, category in values.items():
        check_variable(circuit, variable)
        size = circuit.categories[variable]
        if not isinstance(category, int) or not 0 <= category < size:
            raise EvidenceError(
                f"variable {variable} is to have category {category!r}; expected one of 0 .. "
                f"{size - 1}"
            )


def _checked_potentials(
    weighted: WeightedCircuit, given: Mapping[int, Tensor | Sequence[float]]
) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for variable, potentials in given.items():
        check_variable(weighted.circuit, variable)
        tensor = torch.as_tensor(potentials, dtype=dtype_of(weighted))
        expected = (weighted.circuit.categories[variable],)
        if tuple(tensor.shape) != expected:
            raise EvidenceError(
                f"log_potentials of variable {variable} have shape {tuple(tensor.shape)}; "
                f"expected {expected}"
            )
        if bool(torch.isnan(tensor).any() | tensor.isposinf().any()):
            raise EvidenceError(f"log_potentials of variable {variable} hold NaN or +inf")
        found[variable] = tensor
    return found


def _observed(assembler: Assembler, weighted: WeightedCircuit, node: Input, category: int) -> Units:
    """The input, zero except at one category."""
    weight = weight_of(weighted, node)
    content: Weight | tuple[tuple[int, ...], ...]
    if weight is None:
        assert node.supports is not None, "an input has weights or supports"
        content = tuple((category,) if category in s else () for s in node.supports)
    else:
        table = torch.full_like(weight.table, -torch.inf)
        table[:, category] = weight.table[:, category]
        content = Weight(table, weight.name, (weight.key, "value", category))
    number = assembler.input(node.variable, node.num_categories, content, name=node.name)
    return Units(node.num_units, number)


def _weighed(
    assembler: Assembler,
    weighted: WeightedCircuit,
    node: Input,
    place: int,
    potentials: Tensor,
) -> Units:
    """The input times factors of its categories."""
    weight = weight_of(weighted, node)
    table = table_of(weighted, node) + potentials
    if weight is None:
        content = input_weight(table, (node.supports, "potentials", node.variable))
    else:
        content = Weight(table, weight.name, (weight.key, "potentials", node.variable))
    number = assembler.input(place, node.num_categories, content, name=node.name)
    return Units(node.num_units, number)
