"""Logic circuits: Boolean formulas as circuits that are 1 on the models, else 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.decision_diagram import decision_diagram
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

Clause = frozenset[int]
Clauses = frozenset[Clause]


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


def logic_from_cnf(
    clauses: Iterable[Iterable[int]],
    num_variables: int,
    *,
    order: Sequence[int] | None = None,
    structured: bool = False,
) -> Circuit:
    """Compiles a conjunction of clauses to a deterministic circuit, its sum the number of models.

    Exhaustive search with caching: a variable is decided, what is left of the clauses is compiled
    once and shared (Huang and Darwiche, "The language of search", JAIR 2007). Clauses without
    common variables are compiled apart. With `structured` the variables are instead decided in one
    order all over, as in an ordered binary decision diagram; the circuit then has the variable tree
    of `hmm` (for the order 0, 1, ...) and can be multiplied. Time and size are exponential in the
    worst case: meant for formulas of moderate size; larger ones are compiled by other programs,
    whose files can be read.

    Args:
        clauses: Clauses of literals as in DIMACS files: +v or -v for variable v - 1, from 1.
        num_variables: Number of variables L.
        order: Order in which the variables 0 .. L-1 are decided; default the one that occurs most
            in what is left, or 0, 1, ... if structured.
        structured: Whether all branches decide the variables in the same order.

    Returns:
        The circuit.

    Raises:
        StructureError: If a literal or the order does not fit, or there is no model.

    Examples:
        (a or b) and (not a or c) has four models:

        >>> circuit = pc.families.logic_from_cnf([[1, 2], [-1, 3]], num_variables=3)
        >>> model = pc.CircuitModel(circuit)
        >>> model.log_evidence(pc.Evidence()).exp().round()
        tensor([4.], dtype=torch.float64)
        >>> pc.validate(circuit).deterministic
        True
    """
    checked = frozenset(_checked_clauses(clauses, num_variables))
    if frozenset() in checked:
        checked = _FALSE
    if order is not None and sorted(order) != list(range(num_variables)):
        raise StructureError(
            f"order must hold each of the variables 0 .. {num_variables - 1} once; found "
            f"{list(order)}"
        )
    if structured:
        return _ordered(checked, list(order or range(num_variables)))
    return logic(_compiled(checked, order), num_variables)


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


_FALSE: Clauses = frozenset({frozenset()})
_TRUE: Clauses = frozenset()


def _checked_clauses(clauses: Iterable[Iterable[int]], num_variables: int) -> Iterator[Clause]:
    for given in clauses:
        clause = frozenset(given)
        for literal in clause:
            if not isinstance(literal, int) or not 1 <= abs(literal) <= num_variables:
                raise StructureError(
                    f"clause {sorted(clause)}: literal {literal!r} is not one of +-1 .. "
                    f"+-{num_variables}"
                )
        if not any(-literal in clause for literal in clause):
            yield clause


def _assigned(clauses: Clauses, literal: int) -> Clauses:
    """What is left of the clauses once a literal is true."""
    left = frozenset(clause - {-literal} for clause in clauses if literal not in clause)
    return _FALSE if frozenset() in left else left


def _ordered(clauses: Clauses, order: Sequence[int]) -> Circuit:
    """An ordered decision diagram: a state is what is left of the clauses."""
    layers: list[dict[Clauses, dict[Clauses, int]]] = []
    states: set[Clauses] = {clauses}
    for variable in order:
        layer: dict[Clauses, dict[Clauses, int]] = {}
        for state in states:
            moves = layer.setdefault(state, {})
            for category, literal in enumerate((-variable - 1, variable + 1)):
                left = _assigned(state, literal)
                if left != _FALSE:
                    moves[left] = moves.get(left, 0) | 1 << category
        layers.append(layer)
        states = {left for moves in layer.values() for left in moves}
    root = decision_diagram(
        layers,
        order,
        2,
        start=clauses,
        accepting=(_TRUE,),
        support=lambda mask: tuple(category for category in (0, 1) if mask >> category & 1),
    )
    if root is None:
        raise StructureError("the clauses have no model; a circuit needs at least one")
    return Circuit(root)


def _compiled(clauses: Clauses, order: Sequence[int] | None) -> Formula:
    """A deterministic formula of the models; without recursion, for it may be deep."""
    ranks = None if order is None else {variable: place for place, variable in enumerate(order)}
    done: dict[Clauses, Formula] = {_TRUE: And(), _FALSE: Or()}
    plans: dict[Clauses, _Split | _Decision] = {}
    stack = [clauses]
    while stack:
        if stack[-1] in done:
            stack.pop()
            continue
        if stack[-1] not in plans:
            plans[stack[-1]] = _plan(stack[-1], ranks)
        plan = plans[stack[-1]]
        missing = [part for part in plan.parts if part not in done]
        if missing:
            stack.extend(missing)
        else:
            done[stack.pop()] = plan.formula([done[part] for part in plan.parts])
    return done[clauses]


@dataclass(frozen=True)
class _Split:
    """Clauses in parts without common variables."""

    parts: tuple[Clauses, ...]

    def formula(self, operands: Sequence[Formula]) -> Formula:
        return And(*operands)


@dataclass(frozen=True)
class _Decision:
    """Clauses by the value of one variable: what is left if it is true, and if false."""

    variable: int
    parts: tuple[Clauses, Clauses]

    def formula(self, operands: Sequence[Formula]) -> Formula:
        signs = (True, False)
        return Or(
            *(
                And(Literal(self.variable, sign), operand)
                for sign, operand in zip(signs, operands, strict=True)
            )
        )


def _plan(clauses: Clauses, ranks: dict[int, int] | None) -> _Split | _Decision:
    components = _components(clauses)
    if len(components) > 1:
        return _Split(tuple(components))
    variable = _chosen(clauses, ranks)
    parts = (_assigned(clauses, variable + 1), _assigned(clauses, -variable - 1))
    return _Decision(variable, parts)


def _components(clauses: Clauses) -> list[Clauses]:
    """The clauses in groups without common variables."""
    holders: dict[int, list[Clause]] = {}
    for clause in clauses:
        for literal in clause:
            holders.setdefault(abs(literal), []).append(clause)
    groups, seen = [], set[int]()
    for variable in sorted(holders):
        if variable in seen:
            continue
        seen.add(variable)
        front, members = [variable], set[Clause]()
        for near in front:  # grows on the way
            new = [clause for clause in holders[near] if clause not in members]
            members.update(new)
            found = {abs(literal) for clause in new for literal in clause} - seen
            seen |= found
            front.extend(sorted(found))
        groups.append(frozenset(members))
    return groups


def _chosen(clauses: Clauses, ranks: dict[int, int] | None) -> int:
    """The variable to decide next: the first in order, or the one in most clauses."""
    counts: dict[int, int] = {}
    for clause in clauses:
        for literal in clause:
            counts[abs(literal) - 1] = counts.get(abs(literal) - 1, 0) + 1
    if ranks is not None:
        return min(counts, key=lambda variable: ranks[variable])
    return min(counts, key=lambda variable: (-counts[variable], variable))
