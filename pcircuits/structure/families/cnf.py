"""Conjunctions of clauses, compiled to deterministic circuits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pcircuits.errors import StructureError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.decision_diagram import decision_diagram
from pcircuits.structure.families.logic import And, Formula, Literal, Or, logic

Clause = frozenset[int]
Clauses = frozenset[Clause]

_FALSE: Clauses = frozenset({frozenset()})
_TRUE: Clauses = frozenset()


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
