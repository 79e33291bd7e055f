"""Every kind of circuit there is, small: what properties are tried on, and how many of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from hypothesis import reject
from hypothesis import strategies as st

import pcircuits as pc
from tests.support.circuits import SEEDS, Draw, circuits, parameters_of
from tests.support.deterministic import decision_circuits
from tests.support.evidence import Case, evidence_of
from tests.support.ordered import ordered_circuits
from tests.support.scalars import scalar_circuits, scalar_parameters

families = pc.families
Make = Callable[..., pc.Circuit]


def _length(draw: Draw, categories: int, *, least: int = 2) -> int:
    """A number of variables, small ones more often, up to 12 binary or 7 ternary ones."""
    most = 12 if categories == 2 else 7
    return draw(st.one_of(st.integers(least, max(least, 5)), st.integers(least, most)))


def _chain(make: Make) -> Callable[[Draw], pc.Circuit]:
    """A family of (length, a small size, categories)."""

    def drawn(draw: Draw) -> pc.Circuit:
        categories = draw(st.integers(2, 3))
        return make(_length(draw, categories), draw(st.integers(2, 3)), categories)

    return drawn


def _grid(make: Make) -> Callable[[Draw], pc.Circuit]:
    """A family of (height, width, units, categories)."""

    def drawn(draw: Draw) -> pc.Circuit:
        height, width = draw(st.sampled_from([(1, 3), (2, 2), (2, 3), (3, 2), (3, 3)]))
        categories = 2 if height * width > 7 else draw(st.integers(2, 3))
        return make(height, width, draw(st.integers(1, 2)), categories)

    return drawn


def _parents(draw: Draw) -> tuple[list[int], int]:
    """A tree of variables as `hidden_chow_liu` takes it, and a number of categories."""
    categories = draw(st.integers(2, 3))
    length = _length(draw, categories)
    return [-1, *(draw(st.integers(0, i - 1)) for i in range(1, length))], categories


def _automaton(draw: Draw) -> pc.Circuit:
    """No two ones in a row, or an even number of them."""
    none_in_a_row = [{(0,): 0, (1,): 1}, {(0,): 0}]
    even = [{(0,): 0, (1,): 1}, {(0,): 1, (1,): 0}]
    machine, accepting = draw(st.sampled_from([(none_in_a_row, [0, 1]), (even, [0])]))
    return families.automaton(machine, accepting, _length(draw, 2), 2)


def _regular_expression(draw: Draw) -> pc.Circuit:
    pattern = draw(st.sampled_from(["(ab?|c)+", "[ab]*c?[ab]*", "a*b*c*", "(a|bc|b)*"]))
    return families.regular_expression(pattern, draw(st.integers(2, 6)), ["a", "b", "c"])


def _logic(draw: Draw) -> pc.Circuit:
    """(x0 and x1) or (not x0 and x2), which leaves a variable open; or an overlapping "or"."""
    literal, both, either = families.Literal, families.And, families.Or
    first = both(literal(0), literal(1))
    second = both(literal(0, False) if draw(st.booleans()) else literal(1), literal(2))
    return families.logic(either(first, second), draw(st.integers(3, 5)))


def _cnf(draw: Draw) -> pc.Circuit:
    length = draw(st.integers(3, 8))
    signs = [draw(st.sampled_from([-1, 1])) for _ in range(length)]
    clauses = [[signs[i] * (i + 1), signs[i + 1] * (i + 2)] for i in range(length - 1)]
    return families.logic_from_cnf(clauses, length, structured=draw(st.booleans()))


def _rat(draw: Draw) -> pc.Circuit:
    return families.rat(
        draw(st.integers(4, 7)),
        2,
        depth=draw(st.integers(1, 2)),
        repetitions=draw(st.integers(1, 2)),
        num_sums=2,
        num_input_units=2,
        seed=draw(SEEDS),
    )


FAMILIES: Mapping[str, Callable[[Draw], pc.Circuit]] = {
    "automaton": _automaton,
    "binary_tree": _chain(families.binary_tree),
    "block_hmm": _chain(lambda n, k, v: families.block_hmm(n, 2 * k, v, num_blocks=2, rank=1)),
    "chow_liu": lambda draw: families.chow_liu(*_parents(draw)),
    "factorized": _chain(lambda n, k, v: families.factorized(n, v)),
    "gated_hmm": _chain(families.gated_hmm),
    "hidden_chow_liu": lambda draw: families.hidden_chow_liu(
        *(lambda parents, v: (parents, 2, v))(*_parents(draw))
    ),
    "higher_order_hmm": _chain(lambda n, k, v: families.higher_order_hmm(n, 2, k, v)),
    "hmm": _chain(families.hmm),
    "linear_tree": _chain(families.linear_tree),
    "logic": _logic,
    "logic_from_cnf": _cnf,
    "mixture": _chain(families.mixture),
    "monarch_hmm": _chain(lambda n, k, v: families.monarch_hmm(n, k * k, v, factors=(k, k))),
    "poon_domingos": _grid(lambda *sizes: families.poon_domingos(*sizes, step=1)),
    "quad_graph": _grid(families.quad_graph),
    "quad_tree": _grid(families.quad_tree),
    "random_binary_tree": _chain(
        lambda n, k, v: families.random_binary_tree(n, k, v, seed=n, repetitions=2)
    ),
    "rat": _rat,
    "regular_expression": _regular_expression,
}


def _ordered(deterministic: bool) -> Callable[[Draw], pc.Circuit]:
    def drawn(draw: Draw) -> pc.Circuit:
        sizes = [draw(st.integers(2, 3)) for _ in range(draw(st.integers(2, 5)))]
        return draw(ordered_circuits(sizes, deterministic=deterministic))

    return drawn


# Half of all circuits are instances of families; of the others so many of a hundred.
BUILT: Mapping[str, tuple[int, Callable[[Draw], pc.Circuit]]] = {
    "random vectors": (16, lambda draw: draw(circuits())),
    "decisions": (8, lambda draw: draw(decision_circuits())),
    "ordered decisions": (8, _ordered(True)),
    "ordered mixtures": (4, _ordered(False)),
}
SCALAR = {"single nodes": 6, "networkx graphs": 8}


@st.composite
def vector_cases(
    draw: Draw, make: Callable[[Draw], pc.Circuit], *, most: int = 2, **weights: bool
) -> Case:
    """A circuit of vectors of units, or without parameters.

    Args:
        draw: Given by hypothesis.
        make: Draws the circuit.
        most: Largest batch size B.
        **weights: What `parameters_of` may be told.
    """
    circuit = make(draw)
    batch, zeros = draw(st.integers(1, most)), weights.pop("zeros", None)
    zeros = draw(st.booleans()) if zeros is None else zeros
    parameters = draw(parameters_of(circuit, batch_size=batch, zeros=zeros, **weights))
    return Case(circuit, parameters, draw(evidence_of(circuit, batch_size=batch, zeros=zeros)))


@st.composite
def scalar_cases(draw: Draw, *, graphs: bool, most: int = 2, zeros: bool | None = None) -> Case:
    """Single nodes with unequal numbers of children, or what a networkx graph of them gives."""
    circuit = draw(scalar_circuits(max_variables=7))
    zeros = draw(st.booleans()) if zeros is None else zeros
    parameters = scalar_parameters(circuit, draw(SEEDS), zeros=zeros)
    if graphs:
        try:
            graph = pc.to_networkx(pc.WeightedCircuit(circuit, parameters))
        except pc.errors.FormatError:
            reject()  # a node takes the same child twice, which a graph cannot say
        weighted = pc.weighted_from_networkx(graph)
        circuit, parameters = weighted.circuit, dict(weighted.log_weights)
    batch = draw(st.integers(1, most))
    return Case(circuit, parameters, draw(evidence_of(circuit, batch_size=batch, zeros=zeros)))


def kinds(
    wanted: int, *, most: int = 2, zeros: bool | None = None, **weights: bool
) -> Iterator[tuple[str, int, st.SearchStrategy[Case]]]:
    """Kinds of circuits, how many of each, and how they are drawn.

    Args:
        wanted: Circuits in all, at least.
        most: Largest batch size B.
        zeros: Whether weights and potentials may be exactly zero; None draws it.
        **weights: What else `parameters_of` may be told; single nodes always have normalised
            weights that all examples share.
    """
    each, more = divmod(wanted - wanted // 2, len(FAMILIES))
    own = {"most": most, "zeros": zeros}
    for place, (name, make) in enumerate(FAMILIES.items()):
        yield name, each + (place < more), vector_cases(make, **own, **weights)
    left = wanted // 2
    total = sum(share for share, _ in BUILT.values()) + sum(SCALAR.values())
    for name, (share, make) in BUILT.items():
        yield name, left * share // total, vector_cases(make, **own, **weights)
    for name, share in SCALAR.items():
        graphs = name != "single nodes"
        yield name, -(-left * share // total), scalar_cases(graphs=graphs, **own)
