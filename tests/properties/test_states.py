"""Whatever is done to a model in whatever order: its answers are those of its own numbers."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

import pcircuits as pc
from tests.support.evidence import random_values
from tests.support.fast_choice import fast_choice
from tests.support.properties import CIRCUITS

SEEDS = st.integers(0, 1000)
LARGEST = 3_000  # edges: what grows is cut down again

MAKERS: dict[str, Callable[[], pc.Circuit]] = {
    "hmm": lambda: pc.families.hmm(4, 3, 3),
    "inhomogeneous": lambda: pc.families.hmm(4, 3, 3, homogeneous=False),
    "tree": lambda: pc.families.binary_tree(4, 2, 3),
    "pairs": lambda: pc.families.binary_tree(4, 2, 3, product="kronecker"),
    "hidden tree": lambda: pc.families.hidden_chow_liu([-1, 0, 0, 1], 2, 3),
    "grid": lambda: pc.families.poon_domingos(2, 2, 2, 3, step=1),
    "mixture": lambda: pc.families.mixture(4, 3, 3),
    "monarch": lambda: pc.families.monarch_hmm(3, 4, 3, factors=(2, 2)),
    "automaton": lambda: pc.families.automaton([{(0,): 0, (1,): 1}, {(0,): 0}], [0, 1], 4, 2),
    "chow-liu": lambda: pc.families.chow_liu([-1, 0, 0, 1], 3),
}


@dataclass(frozen=True)
class Kept:
    """A model that is no longer worked on, and what it answered."""

    model: pc.CircuitModel
    answers: dict[str, Tensor]


def answers(model: pc.CircuitModel) -> dict[str, Tensor]:
    """What one asks of a model, with what it takes from a seed."""
    values = _rows(model, 3, seed=0)
    observed = torch.arange(values.numel()).reshape(values.shape) % 3 > 0
    with torch.no_grad():
        found = {
            "likelihood": model.log_likelihood(values),
            "part": model.log_likelihood(values, observed),
            "marginals": model.marginals(pc.Evidence()),
            "sample": model.sample(4, generator=torch.Generator().manual_seed(1)),
        }
    return found | {f"weights {i}": w.detach().clone() for i, w in enumerate(model.log_weights)}


def _rows(model: pc.CircuitModel, count: int, seed: int) -> Tensor:
    return random_values(model.circuit, count, torch.Generator().manual_seed(seed))


class ModelMachine(RuleBasedStateMachine):
    """One model after the other; those before stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Kept] = []
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize(name=st.sampled_from(sorted(MAKERS)), seed=SEEDS)
    def make(self, name: str, seed: int) -> None:
        self.model = pc.CircuitModel(MAKERS[name](), seed=seed)

    def replace(self, model: pc.CircuitModel) -> None:
        """Goes on with another model; the one so far must not change any more."""
        self.kept = [*self.kept[-3:], Kept(self.model, answers(self.model))]
        self.model = model

    @property
    def dtype(self) -> torch.dtype:
        return next((weight.dtype for weight in self.model.parameters()), torch.float32)

    # What changes the model in place.

    @precondition(lambda self: len(self.model.log_weights) > 0)
    @rule(seed=SEEDS, algorithm=st.sampled_from(["plain", "online", "anemone"]))
    def fit_em(self, seed: int, algorithm: str) -> None:
        drawn = self.model.sample(12, generator=torch.Generator().manual_seed(seed))
        before = self.model.log_likelihood(drawn).sum()
        pc.fit_em(self.model, drawn, epochs=1, algorithm=algorithm, progress=False)
        if algorithm == "plain":
            prior = 0.2 * sum(map(torch.Tensor.numel, self.model.log_weights))
            assert self.model.log_likelihood(drawn).sum() >= before - 10 * prior

    @precondition(lambda self: len(self.model.log_weights) > 0)
    @rule(seed=SEEDS)
    def fit_gradient(self, seed: int) -> None:
        drawn = self.model.sample(12, generator=torch.Generator().manual_seed(seed))
        pc.fit_gradient(self.model, drawn, epochs=1, progress=False)

    @precondition(lambda self: len(self.model.log_weights) > 0)
    @rule(seed=SEEDS, make=st.sampled_from([torch.optim.SGD, torch.optim.Adam]))
    def step(self, seed: int, make: Callable[..., torch.optim.Optimizer]) -> None:
        """One step of an optimiser of PyTorch, which changes weights where they are."""
        drawn = self.model.sample(6, generator=torch.Generator().manual_seed(seed))
        optimiser = make(self.model.parameters(), lr=0.05)
        (-self.model.log_likelihood(drawn).mean()).backward()
        optimiser.step()

    @rule(seed=SEEDS)
    def set_probabilities(self, seed: int) -> None:
        fresh = pc.random_parameters(self.model.plan, seed=seed)
        zero = {n: p == 0 for n, p in self.model.probabilities().items()}
        dtype = self.dtype
        given = {n: log.to(dtype).masked_fill(zero[n], -torch.inf) for n, log in fresh.items()}
        given = {n: pc.normalise_parameter(self.model.plan, n, log) for n, log in given.items()}
        self.model.set_probabilities({n: log.exp() for n, log in given.items()})
        for name, log in self.model.log_parameters().items():
            torch.testing.assert_close(log, given[name], rtol=1e-4, atol=1e-5)

    @rule(dtype=st.sampled_from([torch.float32, torch.float64]))
    def to(self, dtype: torch.dtype) -> None:
        assert self.model.to(dtype) is self.model
        # What has no weights counts, in float64 always.
        if self.model.log_weights:
            assert self.model.log_evidence(pc.Evidence()).dtype == dtype

    @rule(training=st.booleans())
    def train(self, training: bool) -> None:
        before = answers(self.model)
        self.model.train(training)
        _same(answers(self.model), before)

    @rule(learned=st.booleans())
    def freeze(self, learned: bool) -> None:
        first = next(iter(self.model.parameters()), None)
        if first is not None:
            first.requires_grad_(learned)
            value = self.model.log_likelihood(_rows(self.model, 2, seed=0))
            if value.requires_grad and bool(value.isfinite().all()):
                value.sum().backward()
            first.requires_grad_(True)

    # What only asks.

    @rule(seed=SEEDS, impl=st.sampled_from(["auto", "eager", "reference"]))
    def ask(self, seed: int, impl: str) -> None:
        before = answers(self.model)
        rows = self.model.sample(3, generator=torch.Generator().manual_seed(seed))
        evidence = pc.Evidence(rows, rows > 0)
        self.model.log_evidence(evidence, impl=impl)
        self.model.mutual_information(evidence)
        self.model.map(evidence)
        self.model.entropy(evidence)
        self.model.gradients(evidence)
        self.model.prepare()
        _same(answers(self.model), before)

    # What makes another model.

    @rule(seed=SEEDS)
    def save_and_load(self, seed: int) -> None:
        """Into a folder where another model may be already."""
        path = Path(self.folder.name) / str(seed % 2)
        self.model.save(path)
        again = pc.load(path)
        for own, stored in zip(
            self.model.log_parameters().values(), again.log_weights, strict=True
        ):
            assert stored.dtype == own.dtype
            assert torch.equal(stored, own), "a weight came back as other bits"
        once_more = pc.load(path)
        _same(answers(once_more), answers(again))
        self.replace(again)

    @rule()
    def copied(self) -> None:
        twin = copy.deepcopy(self.model)
        _same(answers(twin), answers(self.model))
        self.replace(twin)

    @rule()
    def state_dict(self) -> None:
        """Through another model of the same circuit, which has asked something before."""
        twin = pc.CircuitModel(self.model.circuit, seed=99)
        twin = twin.to(self.dtype)
        answers(twin)
        twin.load_state_dict(self.model.state_dict())
        _same(answers(twin), answers(self.model))
        self.replace(twin)

    @rule(seed=SEEDS, keep=st.booleans())
    def condition(self, seed: int, keep: bool) -> None:
        row = self.model.sample(1, generator=torch.Generator().manual_seed(seed))[0]
        length = self.model.plan.num_variables
        if not keep and length < 3:
            return
        variable = seed % length
        made = self.model.condition({variable: int(row[variable])}, keep=keep)
        values = row[None].clone()
        mask = torch.zeros_like(values, dtype=torch.bool)
        mask[0, variable] = True
        expected = self.model.log_likelihood(values) - self.model.log_likelihood(values, mask)
        rest = values if keep else values[:, [i for i in range(length) if i != variable]]
        torch.testing.assert_close(made.log_likelihood(rest), expected, rtol=1e-3, atol=1e-4)
        self.replace(made)

    @precondition(lambda self: self.model.plan.num_variables > 2)
    @rule(seed=SEEDS)
    def marginalise(self, seed: int) -> None:
        length = self.model.plan.num_variables
        values, gone = _rows(self.model, 2, seed), seed % length
        others = [i for i in range(length) if i != gone]
        mask = torch.ones_like(values, dtype=torch.bool)
        mask[:, gone] = False
        made = self.model.marginalise([gone])
        expected = self.model.log_likelihood(values, mask)
        found = made.log_likelihood(values[:, others])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        self.replace(made)

    @rule(threshold=st.sampled_from([0.0, 0.01]))
    def prune(self, threshold: float) -> None:
        values = _rows(self.model, 3, seed=0)
        pruned, _ = pc.operators.prune(self.model.weighted(), threshold)
        made = pc.CircuitModel.of(pc.operators.normalise(pruned)[0])
        if threshold == 0:
            expected = self.model.log_likelihood(values)
            torch.testing.assert_close(made.log_likelihood(values), expected, rtol=1e-3, atol=1e-4)
        self.replace(made)

    @precondition(lambda self: self.model.plan.num_edges < LARGEST)
    @rule(seed=SEEDS, noise=st.sampled_from([0.0, 0.1]))
    def grow(self, seed: int, noise: float) -> None:
        values = _rows(self.model, 3, seed)
        grown = pc.operators.grow(self.model.weighted(), 2, noise=noise, seed=seed)
        made = pc.CircuitModel.of(pc.operators.normalise(grown)[0])
        if noise == 0:
            expected = self.model.log_likelihood(values)
            torch.testing.assert_close(made.log_likelihood(values), expected, rtol=1e-3, atol=1e-4)
        self.replace(made)

    # What always holds.

    @invariant()
    def is_normalised(self) -> None:
        if hasattr(self, "model"):
            total = self.model.log_evidence(pc.Evidence()).item()
            assert math.isfinite(total) and abs(self._normal(total)) < 1e-4, total

    def _normal(self, total: float) -> float:
        """0 of models with weights only; plain sums and indicators need not add up to one."""
        nodes = self.model.circuit.nodes
        plain = any(isinstance(n, pc.Sum) and not n.weighted for n in nodes)
        return 0.0 if plain or any(getattr(n, "supports", None) for n in nodes) else total

    @invariant()
    def equals_its_reference(self) -> None:
        if not hasattr(self, "model"):
            return
        values = _rows(self.model, 4, seed=5)
        double = {name: log.double() for name, log in self.model.log_parameters().items()}
        exact = pc.forward(self.model.plan, double, pc.Evidence(values), impl="reference")
        found = self.model.log_likelihood(values).double()
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)

    @invariant()
    def earlier_models_are_as_they_were(self) -> None:
        for kept in self.kept:
            _same(answers(kept.model), kept.answers)


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, own in expected.items():
        assert torch.equal(found[name], own), f"{name} has changed:\n{found[name]}\n{own}"


@pytest.mark.parametrize("fast", [False, True])
def test_any_sequence_keeps_a_model_true(fast: bool) -> None:
    """As it is, and with the fast implementations taken for circuits of any size."""
    runs = settings(max_examples=max(5, CIRCUITS // 10), stateful_step_count=10)
    with fast_choice(fast):
        run_state_machine_as_test(ModelMachine, settings=runs)
