"""Structures that go wrong without a word elsewhere: cut sizes, written nodes, deep recursion."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits.errors import StructureError

STEPS = 10_000


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: pc.families.block_hmm(4, 96, 5, num_blocks=64, rank=1), "num_blocks must divide"),
        (lambda: pc.families.block_hmm(4, 96, 5, num_blocks=7, rank=1), "num_blocks must divide"),
        (lambda: pc.families.monarch_hmm(4, 96, 5, factors=(64, 2)), "factors"),
        (lambda: pc.families.hmm(4, 0, 5), "num_units"),
        (lambda: pc.families.hmm(4, 2, -3), "num_categories"),
        (lambda: pc.Input(0, num_units=2, num_categories=-3), "num_categories"),
        (lambda: pc.Input(-1, num_units=2, num_categories=3), "variable"),
        (lambda: pc.Input(0, num_units=0, num_categories=3), "num_units"),
        (lambda: pc.Input(0, num_units=2.0, num_categories=3), "num_units"),
    ],
)
def test_sizes_that_do_not_fit(make: object, match: str) -> None:
    """96 states in blocks of 64 that become 64 states; numbers below one; variable -1."""
    with pytest.raises(StructureError, match=match):
        make()  # type: ignore[operator]


def test_compiling_writes_nothing_into_nodes() -> None:
    """A compiler that writes into the user's nodes: the second compilation differs."""
    circuit = pc.families.binary_tree(5, 3, 4)
    before = [_contents(node) for node in circuit.nodes]
    plans = [pc.compile_circuit(circuit) for _ in range(2)]
    pc.CircuitModel(circuit).sample(2)
    pc.operators.grow(pc.CircuitModel(circuit).weighted())
    assert [_contents(node) for node in circuit.nodes] == before
    assert plans[0].parameter_shapes == plans[1].parameter_shapes
    assert plans[0].places == plans[1].places
    again = pc.Circuit(circuit.root)
    assert again.parameter_shapes == circuit.parameter_shapes


def _contents(node: object) -> dict[str, object]:
    return {field.name: getattr(node, field.name) for field in fields(node)}  # type: ignore[arg-type]


def test_errors_are_no_assertions() -> None:
    """Users' errors found by bare asserts, which python -O leaves out."""
    code = """
import torch, pcircuits as pc
model = pc.CircuitModel(pc.families.hmm(3, 2, 4))
wrong = torch.zeros(1, 3, dtype=torch.long) - 1
calls = [
    lambda: pc.Input(-1, num_units=1, num_categories=2),
    lambda: model.log_likelihood(wrong),
    lambda: model.log_likelihood(wrong[:, :2]),
    lambda: model.set_probabilities({"emission": torch.zeros(2, 4)}),
    lambda: model.sample(0),
    lambda: pc.Product(pc.Input(0, num_units=1, num_categories=2),
                       pc.Input(0, num_units=1, num_categories=2)),
]
for call in calls:
    try:
        call()
    except pc.errors.CircuitError:
        print("refused")
"""
    root = Path(pc.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert ran.stdout.split() == ["refused"] * 6, ran.stdout


@pytest.fixture(scope="module")
def deep() -> pc.CircuitModel:
    """A chain of ten thousand steps."""
    return pc.CircuitModel(pc.families.hmm(STEPS, 2, 3), seed=0)


def test_ten_thousand_steps_compile_and_answer(deep: pc.CircuitModel) -> None:
    """A chain of 600 steps that does not compile, for recursion."""
    values = torch.arange(STEPS).remainder(3)[None]
    value = deep.log_likelihood(values)
    assert -STEPS * 2 < value.item() < -STEPS * 0.5
    value.sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in deep.parameters())
    assert deep.sample(1).shape == (1, STEPS)


def test_ten_thousand_steps_are_copied_and_printed(deep: pc.CircuitModel) -> None:
    """A copy, a text or a file that descends node by node."""
    assert len(repr(deep.circuit)) < 200 and len(repr(deep)) < 10_000
    twin = copy.deepcopy(deep)
    values = torch.zeros(1, STEPS, dtype=torch.long)
    assert torch.equal(twin.log_likelihood(values), deep.log_likelihood(values))


def test_ten_thousand_steps_are_stored(deep: pc.CircuitModel, tmp_path: Path) -> None:
    deep.save(tmp_path / "deep")
    again = pc.load(tmp_path / "deep")
    values = torch.zeros(1, STEPS, dtype=torch.long)
    torch.testing.assert_close(again.log_likelihood(values), deep.log_likelihood(values))


@pytest.mark.parametrize("operator", ["condition", "prune", "normalise", "marginalise"])
def test_ten_thousand_steps_are_operated_on(operator: str, deep: pc.CircuitModel) -> None:
    """Operators that descend node by node."""
    weighted = deep.weighted()
    made = {
        "condition": lambda: pc.operators.condition(weighted, {0: 1}),
        "prune": lambda: pc.operators.prune(weighted)[0],
        "normalise": lambda: pc.operators.normalise(weighted)[0],
        "marginalise": lambda: pc.operators.marginalise(weighted, [STEPS - 1]),
    }[operator]()
    assert made.circuit.num_variables == STEPS - (operator == "marginalise")


def test_training_runs_on_the_cpu() -> None:
    """A compiler that needs a GPU."""
    model = pc.CircuitModel(pc.families.hmm(3, 2, 4))
    pc.fit_em(model, torch.zeros(4, 3, dtype=torch.long), epochs=1, progress=False)
    assert model.implementation(pc.Evidence()).implementation != "triton"
