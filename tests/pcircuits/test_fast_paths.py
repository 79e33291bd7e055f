"""Every implementation equals the float64 reference: values, gradients, and what is made of them.

Sizes are odd, evidence goes to its extremes, unwritten memory holds NaN, inputs lie between NaNs,
and the tolerance is what plain arithmetic of the same precision needs. An implementation that is
added to `IMPLEMENTATIONS` is held to all of it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from benchmarks.scalar_graph import GraphSizes, random_graph
from pcircuits.errors import BackendError, EvidenceError
from pcircuits.execute.choice import IMPLEMENTATIONS
from tests.support.circuits import SEEDS
from tests.support.evidence import Case
from tests.support.fast_paths import (
    Results,
    check,
    converted,
    exact,
    gradients,
    importance_of,
    results,
    second_results,
    strided,
    value_and_gradients,
    with_gradients,
)
from tests.support.low_precision import FLOAT32, FLOAT64, VALUE, Allowed, Precision
from tests.support.odd_cases import (
    ALL_FAMILIES,
    FAMILIES,
    ORDINARY,
    SINGLE_NODES,
    TINY,
    many_edges,
    odd_cases,
    random_case,
)
from tests.support.poison import embedded, poisoned_memory
from tests.support.posteriors import posteriors

# Triton is not on every platform.
MISSING = () if importlib.util.find_spec("triton") else ("triton",)
FAST = tuple(name for name in IMPLEMENTATIONS if name not in ("auto", "reference", *MISSING))
# A minute without a GPU.
INTERPRETED = pytest.param("triton", marks=pytest.mark.slow)
PRECISIONS = {"float64": FLOAT64, "float32": FLOAT32}
# Compiled passes are for circuits of single nodes, those in linear space for sums over products of
# inputs and sums; all others take any circuit.
FUSED = ("chain", "tree", "tree of all pairs", "hidden tree", "uneven tree", "mixture")
FAMILIES_OF = {"numba": (SINGLE_NODES,), "fused": FUSED}
PATHS = [(impl, family) for impl in FAST for family in FAMILIES_OF.get(impl, ALL_FAMILIES)]
# Interpreted kernels take their time.
SIZES_OF = {"triton": TINY}
EXAMPLES_OF = {"triton": 3, "numba": 60}
SOME_OF = {**FAMILIES_OF, "triton": ("chain", "tree of all pairs", "grid")}
PLACES = st.sampled_from([embedded, strided])
Place = Callable[[Tensor], Tensor]


def test_there_are_fast_paths_to_test() -> None:
    assert {"eager", "numba"} <= set(FAST)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("impl", "family"), PATHS)
def test_values_and_gradients_equal_the_reference(impl: str, family: str, precision: str) -> None:
    compare_cases(impl, family, PRECISIONS[precision], EXAMPLES_OF.get(impl, 12))


@pytest.mark.parametrize("family", ["gated chain", "monarch chain", "grid"])
def test_linear_space_is_refused_where_layers_are_of_other_kinds(family: str) -> None:
    circuit = FAMILIES[family](random.Random(0), ORDINARY)
    case = random_case(circuit, 3, "hard", random.Random(0), simple=True)
    assert "not a sum over products of inputs and sums" in str(why_not(case, "fused", FLOAT32))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("impl", "family"), PATHS)
def test_values_and_gradients_of_many_cases(impl: str, family: str, precision: str) -> None:
    compare_cases(impl, family, PRECISIONS[precision], 10 * EXAMPLES_OF.get(impl, 12))


@pytest.mark.parametrize(("impl", "family"), PATHS)
def test_second_gradients_equal_the_reference(impl: str, family: str) -> None:
    compare_cases(impl, family, FLOAT64, 3, evaluate=second_results)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_posteriors_equal_the_reference(family: str, precision: str) -> None:
    """Marginals, leave-one-out predictions and posteriors of latent units."""
    compare_cases("auto", family, PRECISIONS[precision], 5, evaluate=posteriors)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "impl", [INTERPRETED if name == "triton" else name for name in FAST if name != "fused"]
)
def test_an_irregular_circuit_of_many_edges(impl: str, precision: str) -> None:
    case, limits = many_edges_case(precision)
    check(case, impl, PRECISIONS[precision], 0, place=embedded, limits=limits)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("impl", [name for name in FAST if name != "triton"])
def test_any_number_of_threads_gives_the_same(impl: str, threads: int) -> None:
    for case in some_cases(impl, batch=33):
        with number_of_threads(threads):
            check(case, impl, FLOAT32, 0, place=embedded)


@pytest.mark.parametrize("impl", FAST)
def test_two_forwards_come_before_the_backwards(impl: str) -> None:
    """Nothing that a call keeps for its gradient is the next call's."""
    for first, second in zip(some_cases(impl, seed=1), some_cases(impl, seed=2), strict=True):
        # The same circuit and parameters, other evidence: what could be shared is.
        pair = [first, Case(first.circuit, first.parameters, second.evidence)]
        plan = pc.compile_circuit(first.circuit)
        owns = [with_gradients(converted(case, Tensor.float)) for case in pair]
        with poisoned_memory():
            values = [pc.forward(plan, o.parameters, o.evidence, impl=impl) for o in owns]
            found = [
                gradients(value, own, importance_of(value, 0))
                for value, own in zip(values, owns, strict=True)
            ]
        for case, value, flows in zip(pair, values, found, strict=True):
            limits = exact(case, FLOAT32, value_and_gradients, 0)
            limits.check({VALUE: value.detach(), **flows}, impl)


@pytest.mark.parametrize("impl", FAST)
def test_a_graph_that_is_kept_gives_its_gradients_again(impl: str) -> None:
    for case in some_cases(impl):
        own = with_gradients(converted(case, Tensor.float))
        plan = pc.compile_circuit(case.circuit)
        with poisoned_memory():
            value = pc.forward(plan, own.parameters, own.evidence, impl=impl)
            leaves = list(own.parameters.values())
            total = value.sum()
            first = torch.autograd.grad(total, leaves, retain_graph=True)
            again = torch.autograd.grad(total, leaves, retain_graph=True)
            doubled = torch.autograd.grad(total * -4.0, leaves)
        for one, two, four in zip(first, again, doubled, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-12)
            torch.testing.assert_close(-4.0 * one, four, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("impl", FAST)
def test_one_example_alone_is_what_it_is_among_others(impl: str) -> None:
    for case in some_cases(impl, batch=5):
        check(case.rows([3]), impl, FLOAT32, 0, place=embedded)


@pytest.mark.parametrize("impl", FAST)
def test_no_example_at_all_is_refused(impl: str) -> None:
    for case in some_cases(impl):
        plan = pc.compile_circuit(case.circuit)
        with pytest.raises(EvidenceError, match="about no example"):
            nobody = pc.Evidence(torch.zeros(0, case.circuit.num_variables, dtype=torch.long))
            pc.forward(plan, case.parameters, nobody, impl=impl)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a switch of the GNU C library")
@pytest.mark.parametrize("impl", FAST)
def test_small_blocks_of_memory_are_poisoned_too(impl: str) -> None:
    """What compiled code takes and frees again and again is only filled without the cache."""
    chosen = "test_values_and_gradients_equal_the_reference"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    run = subprocess.run(
        [*command, "-k", f"{chosen} and {impl}"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


# Helpers of this file.


def compare_cases(
    impl: str,
    family: str,
    precision: Precision,
    examples: int,
    *,
    evaluate: Callable[[pc.Plan, Case, str, int], Results] = results,
) -> None:
    """Compares random cases of a family with the reference."""

    @settings(max_examples=examples)
    @given(st.data(), SEEDS, PLACES)
    def compare(data: st.DataObject, seed: int, place: Place) -> None:
        case = drawn_case(data, impl, family, precision)
        check(case, impl, precision, seed, place=place, evaluate=evaluate)

    compare()


def drawn_case(data: st.DataObject, impl: str, family: str, precision: Precision) -> Case:
    """A case that the implementation says it can evaluate, simpler if need be."""
    case = data.draw(odd_cases(family, SIZES_OF.get(impl, ORDINARY)))
    if why_not(case, impl, precision) is not None:
        case = data.draw(odd_cases(family, SIZES_OF.get(impl, ORDINARY), simple=True))
        assume(why_not(case, impl, precision) is None)
    return case


def why_not(case: Case, impl: str, precision: Precision) -> str | None:
    """Why an implementation does not evaluate a case; None if it does."""
    own = converted(case, lambda tensor: tensor.to(precision.result))
    plan = pc.compile_circuit(case.circuit)
    try:
        pc.choose_implementation(plan, own.parameters, own.evidence, impl=impl)
    except BackendError as error:
        return str(error)
    return None


@cache
def many_edges_case(precision: str) -> tuple[Case, Allowed]:
    """One case of more than 10,000 edges, and what the reference says, which takes seconds."""
    circuit = many_edges(0)
    assert pc.compile_circuit(circuit).num_edges > 10_000
    case = random_case(circuit, 17, "mixed", random.Random(0), simple=True)
    return case, exact(case, PRECISIONS[precision], results, 0)


def some_cases(impl: str, *, batch: int = 3, seed: int = 0) -> list[Case]:
    """One case of every family in `SOME_OF`, or of all."""
    sizes, found = SIZES_OF.get(impl, ORDINARY), []
    makers = {
        name: (lambda make=make: make(random.Random(3), sizes)) for name, make in FAMILIES.items()
    }
    makers[SINGLE_NODES] = lambda: pc.from_networkx(random_graph(GraphSizes(300, 900, 6), seed=0))
    for name in makers:
        if name in SOME_OF.get(impl, ALL_FAMILIES):
            circuit, chance = makers[name](), random.Random(seed)
            drawn = (random_case(circuit, batch, "mixed", chance, simple=True) for _ in range(20))
            found.append(next(case for case in drawn if why_not(case, impl, FLOAT32) is None))
    return found


@contextmanager
def number_of_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
