"""Every query of every kind of circuit against the list of all worlds, in float64.

Random circuits, irregular graphs, deterministic circuits and small instances of every family, with
evidence of every kind. The run of every day takes 200 circuits; a longer one takes as many as it
is told, and prints how many there were and the largest error of each query:

    PCIRCUITS_CIRCUITS=1000 python -m pytest tests/pcircuits/test_every_query.py -k enumeration
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import pcircuits as pc
from tests.support.circuits import SEEDS, Draw, circuits, parameters_of
from tests.support.deterministic import decision_circuits
from tests.support.evidence import Case, evidence_of, possible_part
from tests.support.oracle import Tally, oracle_of
from tests.support.ordered import ordered_circuits
from tests.support.query_checks import CHECKS, Trial
from tests.support.scalars import scalar_circuits, scalar_parameters

TOLERANCE = 1e-9
CIRCUITS = int(os.environ.get("PCIRCUITS_CIRCUITS", "0"))
MOST_WORLDS = {2: 2**12, 3: 3**7}

# Compared with another query in a test of its own, or no query of any circuit.
ELSEWHERE = {
    "log_leave_one_out",
    "log_input_values",
    "captured_step",
    "chain_latents",
    "chain_passes",
    "is_chain",
}

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
# Not circuits: formulas, and plans of regions that the families above are made from.
OTHER_NAMES = {"And", "Literal", "Or"}


def test_every_family_is_asked() -> None:
    names = {name for name in families.__all__ if not name.endswith("_regions")}
    assert names - OTHER_NAMES == set(FAMILIES)


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
def vector_cases(draw: Draw, make: Callable[[Draw], pc.Circuit]) -> Case:
    """A circuit of vectors of units, or without parameters."""
    circuit = make(draw)
    batch, zeros = draw(st.integers(1, 2)), draw(st.booleans())
    parameters = draw(parameters_of(circuit, batch_size=batch, zeros=zeros))
    return Case(circuit, parameters, draw(evidence_of(circuit, batch_size=batch, zeros=zeros)))


@st.composite
def scalar_cases(draw: Draw, *, graphs: bool) -> Case:
    """Single nodes with unequal numbers of children, or what a networkx graph of them gives."""
    circuit = draw(scalar_circuits(max_variables=7))
    zeros = draw(st.booleans())
    parameters = scalar_parameters(circuit, draw(SEEDS), zeros=zeros)
    if graphs:
        try:
            graph = pc.to_networkx(pc.WeightedCircuit(circuit, parameters))
        except pc.errors.FormatError:
            reject()  # a node takes the same child twice, which a graph cannot say
        weighted = pc.weighted_from_networkx(graph)
        circuit, parameters = weighted.circuit, dict(weighted.log_weights)
    batch = draw(st.integers(1, 2))
    return Case(circuit, parameters, draw(evidence_of(circuit, batch_size=batch, zeros=zeros)))


def _kinds(wanted: int) -> Iterator[tuple[str, int, st.SearchStrategy[Case]]]:
    """Kinds of circuits, how many of each, and how they are drawn."""
    each, more = divmod(wanted - wanted // 2, len(FAMILIES))
    for place, (name, make) in enumerate(FAMILIES.items()):
        yield f"{name}", each + (place < more), vector_cases(make)
    left = wanted // 2
    total = sum(share for share, _ in BUILT.values()) + sum(SCALAR.values())
    for name, (share, make) in BUILT.items():
        yield name, left * share // total, vector_cases(make)
    for name, share in SCALAR.items():
        yield name, -(-left * share // total), scalar_cases(graphs=name != "single nodes")


def test_every_query_of_every_circuit_equals_enumeration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = CIRCUITS or 200
    tally = Tally()
    for kind, count, strategy in _kinds(wanted):
        _run(kind, count, strategy, tally)
    if CIRCUITS:
        with capsys.disabled():
            print(f"\n{tally}")
    assert tally.circuits >= wanted
    asked = {name for name in pc.queries.__all__ if name[0].islower()} - ELSEWHERE
    assert asked == set(tally.errors)
    assert max(tally.errors.values()) <= TOLERANCE, str(tally)


def _run(kind: str, count: int, strategy: st.SearchStrategy[Case], tally: Tally) -> None:
    """Checks so many circuits of a kind; cases with impossible evidence have tests of their own."""

    @settings(max_examples=5 * count + 5)
    @given(strategy, SEEDS)
    def check(drawn: Case, seed: int) -> None:
        case = possible_part(drawn) if tally.sources.get(kind, 0) < count else None
        if case is None:
            return
        worlds = oracle_of(case)
        assert len(worlds.worlds) <= MOST_WORLDS[case.circuit.num_categories]
        trial = Trial(case, worlds, np.random.default_rng(seed), tally)
        for query in CHECKS:
            query(trial)
        tally.circuits += 1
        tally.sources[kind] = tally.sources.get(kind, 0) + 1

    check()
