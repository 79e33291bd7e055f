"""How much a query lays out at once, what it keeps of a graph, and what it says of wrong input."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import re
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import BackendError, EvidenceError, StructureError
from pcircuits.queries.posterior import Posterior, posterior

Given = tuple[pc.Plan, dict[str, Tensor]]


def module(name: str) -> ModuleType:
    """By import: a function of the same name hides the module in its package."""
    return import_module(f"pcircuits.queries.{name}")


@pytest.fixture(scope="module")
def long() -> Given:
    """A chain of 10 variables, 50 categories and 100 states: 11,204 bytes of values a row."""
    plan = pc.compile_circuit(pc.families.hmm(10, num_states=100, num_categories=50))
    assert plan.cost().value_bytes == 11_204
    return plan, pc.random_parameters(plan, seed=0)


def small(seed: int = 0) -> Given:
    plan = pc.compile_circuit(pc.families.hmm(4, num_states=2, num_categories=3))
    return plan, pc.random_parameters(plan, seed=seed, dtype=torch.float64)


# 256 MiB hold so many rows:


def test_assignments_come_in_batches_of_256_mebibytes(long: Given) -> None:
    parts = module("conditional").assignments(long[0], [0, 1, 2], torch.device("cpu"))

    # Four times a row of values and of potentials: 4 x (11,204 + 4 x 10 x 50) bytes.
    sizes = [len(part) for part in parts]
    assert sizes[:-1] == [5082] * 24
    assert sum(sizes) == 50**3


def test_passes_come_in_batches_of_256_mebibytes(long: Given) -> None:
    # Values up and flows down; potentials, gradient and result: 2 x 11,204 + 4 x 4 x 10 x 50.
    assert module("pairwise")._rows_at_once(posterior(*long, None)) == 8827


def test_worlds_are_weighed_in_batches_of_256_mebibytes(
    long: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def counted(self: Posterior, index: Tensor, values: Tensor) -> Tensor:
        rows.append(len(values))
        return values[:, 0] + 100.0 * index

    monkeypatch.setattr(Posterior, "_log_weight_at", counted)
    given = posterior(*long, pc.Evidence(log_potentials=torch.zeros(2, 10, 50)))
    values = torch.arange(40_000).view(2, 20_000, 1).expand(-1, -1, 10)
    found = given.log_weights(values)

    # Two examples of 11,204 bytes of values and 8 x 10 of categories.
    assert rows == [2 * 11_894, 2 * 8106]
    assert torch.equal(found, values[..., 0] + torch.tensor([[0.0], [100.0]]))


def test_chains_are_swept_in_parts_of_2_to_the_26_numbers(
    long: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def counted(given: Posterior) -> Tensor:
        rows.append(given.batch_size)
        return torch.zeros(given.batch_size, 10, 10)

    monkeypatch.setattr(module("chain_information"), "_swept", counted)
    evidence = pc.Evidence(log_potentials=torch.zeros(1200, 10, 50))
    assert pc.queries.mutual_information(*long, evidence).shape == (1200, 10, 10)

    # 100 states x (100 next states + 10 variables x 50 categories) an example.
    assert rows == [1118, 82]


@pytest.mark.parametrize("name", ["max_product", "decomposition"])
def test_terms_are_laid_out_2_to_the_24_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pc.compile_circuit(pc.families.mixture(1, num_components=10, num_categories=4))
    potentials = torch.zeros(1, 1, 4).expand(2**20, 1, 4)
    given = posterior(
        plan, pc.random_parameters(plan, seed=0), pc.Evidence(log_potentials=potentials)
    )
    terms: list[int] = []
    split = Tensor.split

    def counted(tensor: Tensor, size: int, dim: int) -> tuple[Tensor, ...]:
        assert dim == 2
        terms.append(size)
        return split(tensor[:, :, :2], size, dim)

    monkeypatch.setattr(Tensor, "split", counted)
    if name == "decomposition":
        module(name)._input_entropies(given)
    else:
        module(name).input_maxima(given)
    assert terms == [4]  # units, of 2^20 examples and 4 categories each
    terms.clear()
    monkeypatch.setattr(module(name), "_TERMS", 5)
    if name == "decomposition":
        module(name)._input_entropies(given.take(torch.arange(3)))
    else:
        module(name).input_maxima(given.take(torch.arange(3)))
    assert terms == [1]  # of 12 numbers 5 hold none: one unit at least


def test_tables_of_pairs_are_laid_out_2_to_the_25_entries_at_once() -> None:
    rows: list[list[int]] = []

    def joint(first: int, others: list[int]) -> Tensor:
        rows.append(others)
        return torch.full((2, 1, len(others), 1), float(first))

    separation = SimpleNamespace(marginals=torch.zeros(1).expand(2, 1, 1, 64), joint=joint)
    found = module("information")._joint_entropies(separation, 1, list(range(5000)))

    # Two examples of 64 x 64 entries a pair.
    assert rows == [list(range(4096)), list(range(4096, 5000))]
    assert found.shape == (2, 5000)


def test_branch_and_bound_visits_64_nodes_at_once_and_no_more_than_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = pc.compile_circuit(pc.families.mixture(14, num_components=20, num_categories=3))
    parameters = pc.random_parameters(plan, seed=0, spread=0.3, dtype=torch.float64)
    search = module("branch_and_bound")
    visited: list[int] = []
    expand = search._expand

    def counted(state: object, nodes: list[object]) -> None:
        visited.append(len(nodes))
        expand(state, nodes)

    monkeypatch.setattr(search, "_expand", counted)
    for limit in (300, 301):
        visited.clear()
        found = pc.queries.map(plan, parameters, method="branch_and_bound", node_limit=limit)
        assert not found.exact.item()
        assert visited[0] == 1 and max(visited) == 64 and sum(visited) == limit


def test_a_table_has_at_most_2_to_the_22_entries() -> None:
    """Four million, as its documentation says."""
    check = module("conditional").check_variables
    plan = pc.compile_circuit(pc.families.factorized(23, 2))
    assert check(plan, range(22)) == list(range(22))
    expected = r"a table of variables \[.*22\] has 8,388,608 entries an example; expected at most "
    with pytest.raises(EvidenceError, match=expected + "4,194,304"):
        check(plan, range(23))


# Graphs:


GRAPHLESS: dict[str, Callable[[pc.Plan, dict[str, Tensor], pc.Evidence], Tensor]] = {
    "sample": lambda p, w, e: pc.queries.sample(p, w, 2, e),
    "map": lambda p, w, e: pc.queries.map(p, w, e, method="branch_and_bound").upper_bound,
    "latent_marginals": lambda p, w, e: pc.queries.latent_marginals(p, w, e, ["state_1"])[
        "state_1"
    ],
    "Conditioner.marginals": lambda p, w, e: pc.queries.Conditioner(p, w, e).marginals(),
    "Conditioner.marginal": lambda p, w, e: pc.queries.Conditioner(p, w, e).marginal(
        torch.tensor([1, 2])
    ),
    "Conditioner.log_value": lambda p, w, e: pc.queries.Conditioner(p, w, e).log_value(),
    "gradients": lambda p, w, e: pc.queries.gradients(p, w, e).log_evidence,
    "category_bounds": lambda p, w, e: module("bounds").category_bounds(posterior(p, w, e)),
    "input_maxima": lambda p, w, e: module("max_product").input_maxima(posterior(p, w, e))[0][0],
    "entropy estimate": lambda p, w, e: pc.queries.entropy(p, w, e, num_samples=2).standard_error,
    "divergence estimate": lambda p, w, e: (
        pc.queries.cross_entropy(p, w, p, w, e, num_samples=2).value
    ),
}


@pytest.mark.parametrize("name", GRAPHLESS)
def test_what_cannot_be_differentiated_keeps_no_graph(name: str) -> None:
    plan, parameters = small()
    learned = {key: tensor.requires_grad_() for key, tensor in parameters.items()}
    soft = torch.zeros(2, 4, 3, dtype=torch.float64, requires_grad=True)

    found = GRAPHLESS[name](plan, learned, pc.Evidence(log_potentials=soft))

    assert not found.requires_grad
    assert all(tensor.grad is None for tensor in (soft, *learned.values()))


def test_a_conditioner_holds_no_graph() -> None:
    plan = pc.compile_circuit(pc.families.binary_tree(4, num_units=2, num_categories=3))
    learned = pc.random_parameters(plan, seed=0)
    soft = torch.zeros(2, 4, 3, requires_grad=True)
    evidence = pc.Evidence(log_potentials=soft)
    for tensor in learned.values():
        tensor.requires_grad_()
    found = pc.queries.Conditioner(plan, learned, evidence)
    lazy = found._lazy
    assert not any(kept.requires_grad for kept in (*lazy.values, *lazy.messages))
    found.fix(torch.tensor([1, 2]), torch.tensor([2, 0]))
    found.marginals()
    assert not any(kept.requires_grad for kept in (*lazy.values, *lazy.messages))


def test_a_conditioner_asks_for_one_variable_of_all_examples_as_for_a_view() -> None:
    plan, parameters = small()
    begin = pc.Evidence(torch.zeros(3, 4).long(), torch.zeros(3, 4).bool())
    found = pc.queries.Conditioner(plan, parameters, begin)
    same, rows = torch.tensor([1, 1, 1]), torch.tensor([True, True, False])
    assert found._one_each(same, None).batch == 3
    assert found._one_each(same, rows).batch is None
    assert found._one_each(torch.tensor([1, 1, 2]), None).batch is None

    asked: list[object] = []
    answered = found._posteriors
    found._posteriors = lambda one: asked.append(one) or answered(one)
    every = found.marginals()
    columns = torch.tensor([[False, True, True, False]]).expand(3, 4)
    found.marginals(columns)
    found.marginals(columns & rows[:, None])
    assert [one.batch for one in asked] == [3, 3, None]
    assert asked[1].variables.tolist() == [1, 1, 1, 2, 2, 2]
    assert asked[2].examples.tolist() == [0, 1, 0, 1]

    table = torch.arange(24.0).view(4, 3, 2)
    taken = asked[1].take(table, asked[1].variables)
    assert torch.equal(taken, table[1:3].flatten(0, 1))
    assert taken.data_ptr() == table[1].data_ptr()
    host = asked[1].rows(table.numpy(), asked[1].variables)
    assert torch.equal(torch.as_tensor(host), taken)
    one = found._one_each(same, None)
    assert one.rows(table.numpy(), one.variables).base is not None
    assert one.only(one.examples >= 0) is one
    assert one.only(one.examples > 0).batch is None
    assert every.shape == (3, 4, 3)


# Words:


def refused(message: str) -> object:
    return pytest.raises(EvidenceError, match=f"^{message}$")


def test_a_conditioner_says_what_is_wrong() -> None:
    plan, parameters = small()
    found = pc.queries.Conditioner(
        plan, parameters, pc.Evidence(torch.zeros(3, 4).long(), torch.zeros(3, 4).bool())
    )
    at, rows = torch.tensor([0, 4, -1]), torch.tensor([False, True, True])
    words = r"variables\[1\] is 4; the circuit has variables 0 \.\. 3"
    with refused(words):
        found.marginal(at)
    with refused(words):
        found.marginal(at, rows)
    with refused(words.replace("1", "2", 1).replace("is 4", "is -1")):
        found.marginal(at, torch.tensor([True, False, True]))
    three = torch.tensor([0, 1, 2])
    words = r"values\[2\] is 3; variable 2 has categories 0 \.\. 2"
    with refused(words):
        found.fix(three, torch.tensor([0, 2, 3]))
    with refused(words):
        found.fix(three, torch.tensor([-5, 2, 3]), rows)
    with refused(words.replace("is 3", "is -1")):
        found.fix(three, torch.tensor([0, 2, -1]))
    assert not found.observed.any()
    mixed = [pc.Input(i, num_units=1, num_categories=size) for i, size in enumerate((2, 3, 4))]
    other = pc.compile_circuit(pc.Circuit(pc.Product(*mixed)))
    uneven = pc.queries.Conditioner(other, pc.random_parameters(other), pc.Evidence())
    for variable, size in enumerate((2, 3, 4)):
        last = str(size - 1)
        with refused(rf"values\[0\] is {size}; variable {variable} has categories 0 \.\. {last}"):
            uneven.fix(three[variable : variable + 1], torch.tensor([size]))
        uneven.fix(three[variable : variable + 1], torch.tensor([size - 1]))
    with refused(r"variables\[0\] is 3; the circuit has variables 0 \.\. 2"):
        uneven.marginal(torch.tensor([3]))
    for name, arguments in (
        ("variables", (three[:2], three)),
        ("values", (three, three[:2])),
        ("rows", (three, three, rows[:2])),
    ):
        with refused(rf"{name} has shape \(2,\); expected \(3,\), one for each example"):
            found.fix(*arguments)
    for wanted, kind in ((rows, "bool"), (torch.zeros(3, 4), "float32")):
        shape = str(tuple(wanted.shape)).replace("(", r"\(").replace(")", r"\)")
        with refused(rf"wanted must be bool of shape \(3, 4\); found {kind} of {shape}"):
            found.marginals(wanted)


def test_a_conditioner_names_the_impossible() -> None:
    plan, parameters = small()
    potentials = torch.zeros(2, 4, 3, dtype=torch.float64)
    potentials[1, 0] = -torch.inf
    found = pc.queries.Conditioner(plan, parameters, pc.Evidence(log_potentials=potentials))
    words = "the evidence of example 1 has probability zero; nothing can be said of variable "
    with refused(words + "0"):
        found.marginals()
    with refused(words + "3"):
        found.marginal(torch.tensor([2, 3]))
    assert found.marginal(torch.tensor([2, 3]), torch.tensor([True, False])).sum() == 1


def test_other_queries_say_what_is_wrong() -> None:
    plan, parameters = small()
    three = torch.zeros(3, 4).long()
    given = pc.Evidence(three, three.bool())
    with refused(r"pair \(3, 4\) names a variable outside 0 \.\. 3"):
        pc.queries.pairwise_marginals(plan, parameters, None, [(3, 3), (3, 4)])
    with refused(r"expected different variables of 0 \.\. 3; found \[0, -1\]"):
        pc.queries.joint_marginal(plan, parameters, None, [0, -1])
    with refused("values are about 2 examples, the evidence about 3"):
        pc.queries.log_conditional(plan, parameters, three[:2], three[:2].bool(), given)
    with refused("the circuits are given for 3 and 2 examples"):
        two = pc.Evidence(three[:2], three[:2].bool())
        pc.queries.cross_entropy(plan, parameters, plan, parameters, given, two)
    functions = torch.zeros(2, 4, 3)
    functions[1, 3, 2] = torch.inf
    with refused(r"functions hold inf at \[1, 3, 2\]"):
        pc.queries.expectation(plan, parameters, functions)
    for shape in ((4, 2), (3, 3), (2, 3, 3), (1, 2, 4, 3), (0, 4, 3), (3,)):
        told = str(shape).replace("(", r"\(").replace(")", r"\)")
        with refused(rf"functions must have shape \(4, 3\) or \(F, \*\(4, 3\)\); found {told}"):
            pc.queries.covariance(plan, parameters, torch.zeros(shape))
    potentials = torch.zeros(4, 4, 3, dtype=torch.float64)
    potentials[1, 2] = potentials[3, 0] = -torch.inf
    dead = pc.Evidence(log_potentials=potentials)
    words = r"the evidence of example 1 \(of 2 such\) has probability zero, so nothing can be said "
    with refused(words + "given it"):
        pc.queries.marginals(plan, parameters, dead)
    words = (
        "the evidence of example 1 about the variables other than 0 has probability zero, so "
        "nothing can be said of variable 0 given it"
    )
    with refused(words):
        pc.queries.leave_one_out(plan, parameters, dead)


def test_queries_about_examples_of_one_side_are_broadcast() -> None:
    plan, parameters = small()
    two = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    asked = torch.tensor([[True, True, False, False]])
    known = pc.Evidence(two, ~asked.expand(2, 4))
    both = pc.queries.log_conditional(plan, parameters, two[:1], asked, known)
    for row, found in enumerate(both):
        own = pc.Evidence(two[row : row + 1], ~asked)
        expected = pc.queries.log_conditional(plan, parameters, two[:1], asked, own)
        torch.testing.assert_close(found, expected[0])
    prior = pc.queries.log_conditional(plan, parameters, two, asked.expand(2, 4))
    assert prior.shape == (2,)


def test_evidence_of_every_kind_is_laid_out_in_one_form() -> None:
    x = pc.Input(0, num_units=1, num_categories=2)
    y, z, w = (pc.Input(i, num_units=1, num_categories=3) for i in (1, 2, 3))
    plan = pc.compile_circuit(pc.Circuit(pc.Product(x, y, z, w)))
    parameters = pc.random_parameters(plan, seed=0)
    off = -torch.inf
    values = torch.tensor([[1, 2, 7, 7]])
    seen = values < 7
    soft = torch.tensor([[[5.0, 6.0, 7.0], [off, off, off], [1.0, 2.0, 3.0], [off, 0.0, -1.0]]])
    own, hard = [[0.0, 0.0, off], [0.0] * 3], [[off, 0.0, off], [off, off, 0.0]]

    def laid_out(evidence: pc.Evidence | None) -> list[list[float]]:
        return posterior(plan, parameters, evidence).log_potentials[0].tolist()

    assert laid_out(None) == [*own, [0.0] * 3, [0.0] * 3]
    assert laid_out(pc.Evidence(values, seen)) == [*hard, [0.0] * 3, [0.0] * 3]
    assert laid_out(pc.Evidence(values, seen, soft)) == [*hard, *soft[0, 2:].tolist()]
    assert laid_out(pc.Evidence(log_potentials=soft))[0] == [5.0, 6.0, off]
    listed = torch.tensor([[[0, 0], [0, 0], [2, 0], [1, 1]]])
    weights = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.0, 2.0], [3.0, 3.0]]])
    found = laid_out(pc.Evidence(values, seen, weights, None, listed))
    assert found[:3] == [*hard, [2.0, off, 1.0]]
    assert found[3] == pytest.approx([off, 3.0 + math.log(2), off])


def test_numbers_at_the_edge_are_allowed() -> None:
    plan, parameters = small()
    assert pc.queries.sample(plan, parameters, 1, temperature=0.0).shape == (1, 4)
    assert pc.queries.entropy(plan, parameters, num_samples=2).estimate is not None
    with refused("num_samples must be 0, or 2 and more; found -1"):
        pc.queries.cross_entropy(plan, parameters, plan, parameters, num_samples=-1)
    found = pc.queries.map(plan, parameters, method="branch_and_bound", max_steps=0, node_limit=1)
    assert found.values.shape == (1, 4)


DEFAULTS = {
    "map": {"method": "local_search", "restarts": 0, "max_steps": 1000, "node_limit": 10_000},
    "sample": {"temperature": 1.0},
    "entropy": {"num_samples": 0, "pairwise": False},
    "cross_entropy": {"num_samples": 0},
    "kl_divergence": {"num_samples": 0},
    "chain_passes": {"impl": "auto", "precision": "tf32x3"},
    "log_likelihood": {"impl": "auto"},
    "log_evidence": {"impl": "auto"},
    "conditional": {"given": ()},
    "conditional_mutual_information": {"given": ()},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_not_said_is_as_documented(name: str) -> None:
    signature = inspect.signature(getattr(pc.queries, name)).parameters.values()
    said = {own.name: own.default for own in signature if own.default not in (own.empty, None)}
    assert said == DEFAULTS[name]


@pytest.mark.parametrize(("outside", "value"), [(1e-9, math.inf), (2e-12, math.inf), (1e-14, 0.0)])
def test_mass_outside_of_the_support_counts_from_1e_12_on(outside: float, value: float) -> None:
    plan = pc.compile_circuit(pc.families.factorized(1, 2))
    p, q = (
        {"input_0": torch.tensor([[1 - share, share]], dtype=torch.float64).log()}
        for share in (outside, 0.0)
    )
    found = pc.queries.cross_entropy(plan, p, plan, q)
    assert found.exact and found.value.item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_that_meet_are_the_entropy(dtype: torch.dtype) -> None:
    """Of one variable alone they do; of two that share a component they are apart."""
    for length, exact in ((1, True), (2, False)):
        circuit = pc.families.mixture(length, num_components=2, num_categories=3)
        plan = pc.compile_circuit(circuit)
        found = pc.queries.entropy(plan, pc.random_parameters(plan, seed=1, dtype=dtype))
        assert found.exact.tolist() == [exact]
        assert (found.estimate is not None) is exact


def test_of_examples_that_are_exact_nothing_is_estimated() -> None:
    """The first example leaves one variable open, the second two."""
    plan = pc.compile_circuit(pc.families.mixture(2, num_components=2, num_categories=3))
    parameters = pc.random_parameters(plan, seed=1, spread=2.0, dtype=torch.float64)
    seen = torch.tensor([[False, True], [False, False]])
    evidence = pc.Evidence(torch.tensor([[0, 1], [0, 0]]), seen)
    single = pc.queries.marginals(plan, parameters, evidence)[0, 0]
    expected = -(single * single.log()).sum()

    bounds = pc.queries.entropy(plan, parameters, evidence)
    found = pc.queries.entropy(
        plan, parameters, evidence, num_samples=20, generator=torch.Generator().manual_seed(0)
    )

    assert bounds.estimate is None and bounds.standard_error is None
    for own in (bounds, found):
        assert own.exact.tolist() == [True, False]
        torch.testing.assert_close(own.lower_bound[0], expected)
        assert own.lower_bound[0] == own.upper_bound[0]
        assert own.lower_bound[1] < own.upper_bound[1]
    torch.testing.assert_close(found.estimate[0], expected)
    assert found.standard_error[0] == 0 < found.standard_error[1] < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lead", [1e-2, -1e-2])
def test_small_gains_are_climbed(dtype: torch.dtype, lead: float) -> None:
    """Two components of 0.3 for category 1 against one of about 0.6 for category 0."""
    plan = pc.compile_circuit(pc.families.mixture(1, num_components=3, num_categories=2))
    weights = torch.tensor([0.6 + lead, 0.3, 0.3], dtype=dtype).log()
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=dtype).log()
    given = {"weights": weights, "input_0": rows}
    found = pc.queries.map(plan, given)
    assert found.values.tolist() == [[0 if lead > 0 else 1]] and found.exact.item()
    climb = module("local_search").climb
    start = torch.tensor([[1], [0]])
    two = pc.Evidence(log_potentials=torch.zeros(2, 1, 2, dtype=dtype))
    ends = climb(posterior(plan, given, two), start, max_steps=5)
    assert ends.tolist() == [[0 if lead > 0 else 1]] * 2
    assert start.tolist() == [[1], [0]]
    assert climb(posterior(plan, given, two), start, max_steps=0).tolist() == [[1], [0]]


def test_answers_are_frozen_and_compare_by_identity() -> None:
    plan, parameters = small()
    answers = [
        pc.queries.gradients(plan, parameters),
        pc.queries.map(plan, parameters),
        pc.queries.entropy(plan, parameters),
        pc.queries.most_informative(plan, parameters, 0),
        pc.queries.cross_entropy(plan, parameters, plan, parameters, num_samples=2),
        posterior(plan, parameters, None),
        pc.prepare(plan, parameters),
    ]
    for answer in answers:
        field = dataclasses.fields(answer)[0]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(answer, field.name, None)
        assert answer != dataclasses.replace(answer) and answer == answer
        assert len({answer, dataclasses.replace(answer)}) == 2


# Parts, by hand:


def test_the_heaviest_tree_is_that_of_all_trees() -> None:
    random = torch.Generator().manual_seed(0)
    table = torch.rand(3, 4, 4, generator=random)
    table = table + table.transpose(1, 2)
    edges = list(itertools.combinations(range(4), 2))
    trees = [
        tree
        for tree in itertools.combinations(edges, 3)
        if len(set(itertools.chain(*tree))) == 4  # three edges over all four nodes have no circle
    ]
    assert len(trees) == 16
    weights = torch.stack([sum(table[:, i, j] for i, j in tree) for tree in trees])
    torch.testing.assert_close(module("entropy")._heaviest_tree(table), weights.amax(0))
    assert module("entropy")._heaviest_tree(torch.ones(2, 1, 1)).tolist() == [0.0, 0.0]


def test_the_error_of_an_estimate_is_that_of_a_mean() -> None:
    terms = torch.tensor([[1.0, 2.0, 3.0, 6.0], [1.0, math.inf, 1.0, 1.0]])
    found = module("divergence")._estimate(terms)
    assert found.value.tolist() == [3.0, math.inf] and not found.exact
    # The variance is (4 + 1 + 0 + 9) / 3, and there are four terms.
    assert found.standard_error[0].item() == pytest.approx(math.sqrt(14 / 3) / 2)
    plan, parameters = small()
    own = [torch.Generator().manual_seed(4) for _ in range(2)]
    entropy = pc.queries.entropy(plan, parameters, num_samples=7, generator=own[0])
    drawn = pc.queries.sample(plan, parameters, 7, pc.Evidence(), generator=own[1])
    surprise = -pc.queries.log_likelihood(plan, parameters, drawn[0])
    torch.testing.assert_close(entropy.estimate, surprise.mean()[None])
    torch.testing.assert_close(entropy.standard_error, surprise.std()[None] / math.sqrt(7))


def test_variables_are_grouped_until_a_batch_is_full() -> None:
    groups = module("pairwise")._groups
    counts = {4: 2, 0: 3, 2: 1}
    for most, expected in ((5, [[4], [0], [2]]), (8, [[4], [0, 2]]), (10, [[4, 0], [2]])):
        assert list(groups(counts, 2, most)) == expected
    assert list(groups(counts, 2, 12)) == [[4, 0, 2]]
    assert list(groups(counts, 2, 1)) == [[4], [0], [2]]
    assert list(groups({}, 2, 1)) == []


def test_progress_counts_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, parameters = small()  # two states are fewer passes than three categories
    calls: list[tuple[int, int]] = []

    def told(done: int, total: int) -> None:
        calls.append((done, total))

    pairs = [(0, 1), (2, 3), (3, 3)]
    pc.queries.pairwise_marginals(plan, parameters, None, pairs, progress=told)
    assert calls == [(6, 6)]
    calls.clear()
    monkeypatch.setattr(module("pairwise"), "BATCH_BYTES", 1)
    pc.queries.pairwise_marginals(plan, parameters, None, pairs, progress=told)
    assert calls == [(2, 6), (4, 6), (6, 6)]


def test_chains_are_passed_over_in_torch_where_there_is_no_device() -> None:
    plan, double = small()
    single = {name: tensor.float() for name, tensor in double.items()}
    for parameters in (double, single):
        for impl in ("auto", "torch"):
            if not torch.cuda.is_available():
                found = pc.queries.chain_passes(plan, parameters, impl=impl)
                assert type(found).__name__ == "TorchChain"
    with pytest.raises(BackendError, match=r"impl must be one of \('auto', 'torch', 'triton'\)"):
        pc.queries.chain_passes(plan, double, impl="fast")


def test_long_lists_of_names_are_cut() -> None:
    plan = pc.compile_circuit(pc.families.factorized(9, 2))
    parameters = pc.random_parameters(plan)
    names = [f"input_{i}" for i in range(8)]
    known = list(plan.places)[:8]
    with refused(re.escape(f"the circuit has no node 'x'; it has {known}")):
        pc.queries.latent_marginals(plan, parameters, pc.Evidence(), [*names, "x"])
    other = pc.compile_circuit(pc.families.factorized(10, 3))
    two, three = "(2, 2, 2, 2, 2, 2, 2, 2)", "(3, 3, 3, 3, 3, 3, 3, 3)"
    words = f"the circuits must have the same variables; found categories {two} and {three}"
    with pytest.raises(StructureError, match=f"^{re.escape(words)}$"):
        pc.queries.kl_divergence(plan, parameters, other, pc.random_parameters(other))


def test_nothing_is_found_for_no_nodes_and_no_pairs() -> None:
    plan, parameters = small()
    two = pc.Evidence(torch.zeros(2, 4).long())
    assert pc.queries.latent_marginals(plan, parameters, two, []) == {}
    assert pc.queries.pairwise_marginals(plan, parameters, two, []).shape == (2, 0, 3, 3)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    conditioner = pc.queries.Conditioner(plan, parameters, two)
    assert not conditioner.marginals(nothing).any()
    assert conditioner.marginals(nothing).shape == (2, 4, 3)
    rows = torch.tensor([False, False])
    found = conditioner.marginal(torch.tensor([0, 0]), rows)
    assert found.shape == (2, 3) and not found.any()
    listed = pc.Evidence(
        log_potentials=torch.zeros(2, 4, 5).double(), categories=torch.zeros(2, 4, 5).long()
    )
    few = pc.queries.Conditioner(plan, parameters, listed)
    assert few.marginals(nothing).shape == (2, 4, 5)


def test_what_is_observed_already_is_not_asked_next() -> None:
    plan, parameters = small()
    seen = torch.tensor([[False, True, True, True], [False, False, True, True]])
    evidence = pc.Evidence(torch.zeros(2, 4).long(), seen)
    found = pc.queries.most_informative(plan, parameters, 0, evidence)
    assert found.candidates == (1, 2, 3)
    assert found.variable.tolist() == [-1, 1]
    assert found.information[0].max() < 1e-12 < found.information[1, 0]
    with refused(r"expected candidates among \[1, 2, 3\], which are no targets; found \[0\]"):
        pc.queries.most_informative(plan, parameters, 0, None, [0])


def test_examples_are_taken_with_all_that_is_theirs() -> None:
    plan, shared = small()
    own = {name: torch.stack([tensor, tensor - 1]) for name, tensor in shared.items()}
    evidence = pc.Evidence(
        log_potentials=torch.arange(24.0).view(2, 4, 3),
        latent_log_potentials={"state_1": torch.tensor([[1.0, 2.0], [3.0, 4.0]])},
    )
    given = posterior(plan, own, evidence).take(torch.tensor([1, 0, 1]))
    assert given.batch_size == 3 == given.prepared.batch_size
    assert given.log_potentials[:, 0, 0].tolist() == [12.0, 0.0, 12.0]
    assert given.latent["state_1"][:, 0].tolist() == [3.0, 1.0, 3.0]
    weights = given.prepared.weights[len(plan.layers) - 1].log[0, :, 0]
    assert torch.equal(weights, own["initial"][[1, 0, 1]])
    double = posterior(plan, {n: t.float() for n, t in shared.items()}, evidence).double()
    assert double.prepared.dtype == torch.float64 == double.log_potentials.dtype
    assert double.latent["state_1"].dtype == torch.float64
    one = posterior(plan, {name: tensor[:1] for name, tensor in own.items()}, None)
    assert one.take(torch.tensor([0, 0])).prepared is one.prepared


@pytest.mark.parametrize("listed", [[0, 3, 1], [3, 2, 0], [0, 1, 2]])
@pytest.mark.parametrize("tied", [True, False])
def test_listed_categories_that_a_variable_lacks_are_none(listed: list[int], tied: bool) -> None:
    """Of variables of 2 and of 4 categories."""
    inputs = [
        pc.Input(i, num_units=2, num_categories=size, parameter=f"of_{size}" if tied else None)
        for i, size in enumerate((2, 4, 2, 4))
    ]
    plan = pc.compile_circuit(pc.Circuit(pc.Sum(pc.Product(*inputs), num_units=1)))
    parameters = pc.random_parameters(plan, seed=0, dtype=torch.float64)
    names = torch.tensor(listed).expand(1, 4, 3)

    found = pc.queries.log_leave_one_out(plan, parameters, pc.Evidence(), names)[0]
    single = pc.queries.marginals(plan, parameters, pc.Evidence())[0]
    torch.testing.assert_close(found.exp(), single[:, listed])
    evidence = pc.Evidence(log_potentials=torch.zeros(1, 4, 3).double(), categories=names)
    dense = pc.queries.marginals(plan, parameters, evidence)[0]
    given = pc.queries.Conditioner(plan, parameters, evidence).marginals()[0]
    torch.testing.assert_close(given, dense[:, listed])


def test_lists_of_nodes_are_one_after_the_other() -> None:
    links = module("routes").Links(np.array([0, 2, 2, 5, 6]), np.array([4, 5, 6, 7, 8, 9]))
    lists = [[4, 5], [], [6, 7, 8], [9]]
    for nodes in ([], [0], [1], [2], [3], [0, 1], [2, 0], [3, 1, 2], [2, 2]):
        index = np.array(nodes, dtype=np.int64)
        assert links.of(index).tolist() == [own for node in nodes for own in lists[node]]
        assert links.counts(index).tolist() == [len(lists[node]) for node in nodes]


def test_lists_are_read_in_compiled_passes_where_one_table_serves_all() -> None:
    def compiled(circuit: pc.Circuit, lists: bool = True, scale: float = 1.0) -> bool:
        plan = pc.compile_circuit(circuit)
        parameters = {
            name: scale * tensor for name, tensor in pc.random_parameters(plan, seed=0).items()
        }
        potentials = torch.zeros(1, plan.num_variables, plan.num_categories)
        names = torch.arange(plan.num_categories).expand_as(potentials) if lists else None
        evidence = pc.Evidence(log_potentials=potentials, categories=names)
        return pc.queries.Conditioner(plan, parameters, evidence)._listed is not None

    assert compiled(pc.families.hmm(3, 2, 3))
    assert not compiled(pc.families.hmm(3, 2, 3), lists=False)
    assert not compiled(pc.families.hmm(3, 2, 3, homogeneous=False))
    assert not compiled(pc.families.hmm(3, 2, 3), scale=1000.0)  # the table is shifted
    twice = [pc.Input(0, num_units=1, num_categories=2, parameter="x") for _ in range(2)]
    assert not compiled(pc.Circuit(pc.Sum(*twice, num_units=1)))
