"""Logic circuits: Boolean formulas as circuits that are 1 on the models, else 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Product, Sum
from pcircuits.structure.scope import Scope


@dataclass(frozen=True)
class Literal:
    """A Boolean variable or its negation.

    Args:
        variable: Index of the variable, from 0.
        positive: Whether it must be true (category 1), else false (category 0).

    Examples:
        >>> not_first = pc.families.Literal(0, positive=False)
        >>> circuit = pc.families.logic(not_first, num_variables=2)
        >>> pc.CircuitModel(circuit).log_likelihood(torch.tensor([[0, 1], [1, 1]])).exp()
        tensor([1., 0.], dtype=torch.float64)
    """

    variable: int
    positive: bool = True


@dataclass(frozen=True, eq=False, init=False)
class And:
    """All of the operands; without operands always true.

    Args:
        *operands: Formulas; one formula object may be an operand of many.

    Examples:
        >>> both = pc.families.And(pc.families.Literal(0), pc.families.Literal(1, positive=False))
        >>> circuit = pc.families.logic(both)
        >>> pc.CircuitModel(circuit).log_likelihood(torch.tensor([[1, 0], [1, 1]])).exp()
        tensor([1., 0.], dtype=torch.float64)
    """

    operands: tuple[Formula, ...]

    def __init__(self, *operands: Formula) -> None:
        object.__setattr__(self, "operands", operands)

    def __repr__(self) -> str:
        return f"And({len(self.operands)} operands)"


@dataclass(frozen=True, eq=False, init=False)
class Or:
    """One of the operands; without operands never true.

    Args:
        *operands: Formulas; one formula object may be an operand of many.

    Examples:
        >>> rain, sprinkler = pc.families.Literal(0), pc.families.Literal(1)
        >>> dry = pc.families.Literal(0, positive=False)
        >>> either = pc.families.Or(rain, pc.families.And(dry, sprinkler))  # never both at once
        >>> wet = pc.CircuitModel(pc.families.logic(either))
        >>> wet.log_evidence(pc.Evidence()).exp().round()  # worlds in which the grass is wet
        tensor([3.], dtype=torch.float64)
    """

    operands: tuple[Formula, ...]

    def __init__(self, *operands: Formula) -> None:
        object.__setattr__(self, "operands", operands)

    def __repr__(self) -> str:
        return f"Or({len(self.operands)} operands)"


Formula = Literal | And | Or


def logic(formula: Formula, num_variables: int | None = None) -> Circuit:
    """Boolean formula in decomposable negation normal form over binary variables.

    Every "and" is a product, every "or" a sum without weights, every literal an indicator;
    variables that a branch leaves open are added to it, so that all branches have the same scope.
    There are no parameters. If the formula is deterministic (no two operands of an "or" can be true
    at once, which `validate` checks) the value is 1 on the models and 0 elsewhere, and its sum is
    their number; otherwise it counts how often a world is derived (Darwiche and Marquis, "A
    knowledge compilation map", JAIR 2002). Cost: O(edges), plus one edge for every variable left
    open.

    Args:
        formula: The formula, a directed acyclic graph of `Literal`, `And` and `Or`.
        num_variables: Number of variables L; default one more than the largest in the formula.

    Returns:
        The circuit.

    Raises:
        StructureError: If operands of an "and" share variables, a variable is not one of the L, or
            the formula is always false.

    Examples:
        If it rains the grass is wet: two implications of three variables.

        >>> Literal, And, Or = pc.families.Literal, pc.families.And, pc.families.Or
        >>> no_rain, rain, wet = Literal(0, positive=False), Literal(0), Literal(1)
        >>> circuit = pc.families.logic(Or(no_rain, And(rain, wet)), num_variables=3)
        >>> pc.CircuitModel(circuit).log_evidence(pc.Evidence()).exp().round()  # models: 3 times 2
        tensor([6.], dtype=torch.float64)
    """
    builder = _FormulaBuilder()
    for part in _operands_first(formula):
        builder.add(part)
    root = builder.nodes[formula]
    if root is False:
        raise StructureError("the formula is always false; a circuit needs at least one model")
    found = _scope_bits(root)
    length = max(1, found.bit_length()) if num_variables is None else num_variables
    if found >> length:
        raise StructureError(
            f"the formula has the variables {Scope(found)}; expected variables 0 .. {length - 1}"
        )
    return Circuit(builder.widened(root, (1 << length) - 1))


Value = AnyNode | bool
"""What a formula became: a node, or a constant."""


class _FormulaBuilder:
    """Makes the nodes of formulas, operands first."""

    def __init__(self) -> None:
        self.nodes: dict[Formula, Value] = {}
        self._open: dict[int, Input] = {}

    def add(self, formula: Formula) -> None:
        """Adds a formula whose operands have been added."""
        match formula:
            case Literal():
                support = (int(formula.positive),)
                self.nodes[formula] = _indicator(formula.variable, support)
            case And():
                self.nodes[formula] = self._and([self.nodes[part] for part in formula.operands])
            case Or():
                self.nodes[formula] = self._or([self.nodes[part] for part in formula.operands])

    def widened(self, value: Value, bits: int) -> AnyNode:
        """The node times the variables of the given scope that it leaves open."""
        missing = Scope(bits & ~_scope_bits(value))
        factors: list[AnyNode] = [] if isinstance(value, bool) else [value]
        for variable in missing:
            if variable not in self._open:
                self._open[variable] = _indicator(variable, (0, 1))
            factors.append(self._open[variable])
        return factors[0] if len(factors) == 1 else Product(*factors)

    def _and(self, operands: Sequence[Value]) -> Value:
        nodes = [value for value in operands if not isinstance(value, bool)]
        if any(value is False for value in operands):
            return False
        if len(nodes) < 2:
            return nodes[0] if nodes else True
        return Product(*nodes)

    def _or(self, operands: Sequence[Value]) -> Value:
        possible = [value for value in operands if value is not False]
        bits = 0
        for value in possible:
            bits |= _scope_bits(value)
        if len(possible) < 2 or not bits:
            return possible[0] if possible else False
        return Sum(*(self.widened(value, bits) for value in possible), num_units=1, weighted=False)


def _indicator(variable: int, support: tuple[int, ...]) -> Input:
    return Input(variable, num_units=1, num_categories=2, supports=(support,))


def _scope_bits(value: Value) -> int:
    return 0 if isinstance(value, bool) else value.scope.bits


def _operands_first(formula: Formula) -> Iterator[Formula]:
    """All parts of a formula once, each after its operands; formulas may be deep."""
    done: set[Formula] = set()
    stack: list[tuple[Formula, bool]] = [(formula, False)]
    while stack:
        part, expanded = stack.pop()
        if part in done:
            continue
        if expanded or isinstance(part, Literal):
            done.add(part)
            yield part
            continue
        if not isinstance(part, (And, Or)):
            raise StructureError(
                f"a formula is made of Literal, And and Or; found {type(part).__name__}"
            )
        stack.append((part, True))
        stack.extend((operand, False) for operand in part.operands)
