"""Whatever is done to a coupled model in whatever order: its answers are those of its parts."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

import codd
import pcircuits as pc
from tests.support.coupled import TEXT, tiny_model
from tests.support.properties import CIRCUITS

KINDS = st.sampled_from(codd.COUPLINGS)


@dataclass(frozen=True)
class Kept:
    """A model that is no longer worked on, and what it answered."""

    model: codd.CoupledModel
    answers: dict[str, Tensor]


def _tokens(model: codd.CoupledModel) -> Tensor:
    tokens = model.vocabulary.encode(TEXT[:8]).repeat(2, 1)
    tokens[0, 3::2] = model.mask_id
    tokens[1, 2:] = model.mask_id
    return tokens


@torch.no_grad()
def answers(model: codd.CoupledModel, coupling: str | None = None) -> dict[str, Tensor]:
    """What one asks of a model, with what it draws from a seed."""
    joint = model.joint(_tokens(model), coupling=coupling)
    drawn = joint.sample(2, generator=torch.Generator().manual_seed(0))
    return {
        "log_partition": joint.log_partition.clone(),
        "marginals": joint.marginals(),
        "samples": drawn,
        "log_prob": joint.log_prob(drawn[:, 0]),
    }


def _text(model: codd.CoupledModel, seed: int, **options: object) -> list[str]:
    return model.generate(["the c", "a mat"], steps=2, new_tokens=4, seed=seed, **options)


class CoupledMachine(RuleBasedStateMachine):
    """One coupled model after the other; those before stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Kept] = []
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize(modulator=st.sampled_from(["static", "latent", "parametric"]))
    def make(self, modulator: str) -> None:
        self.model = tiny_model(modulator=modulator)

    def replace(self, model: codd.CoupledModel) -> None:
        self.kept = [*self.kept[-2:], Kept(self.model, answers(self.model))]
        self.model = model

    @rule(number=st.integers(0, 1), dtype=st.sampled_from(["float32", "float16"]))
    def save_and_load(self, number: int, dtype: str) -> None:
        path = Path(self.folder.name) / str(number)
        self.model.save_pretrained(path, dtype=dtype)
        again = codd.CoupledModel.from_pretrained(path)
        assert again.settings == self.model.settings and again.block == self.model.block
        if dtype == "float32" and next(self.model.parameters()).dtype == torch.float32:
            stored = zip(
                self.model.circuit.log_parameters().values(), again.circuit.log_weights, strict=True
            )
            assert all(torch.equal(own, log) for own, log in stored)
            for kind in codd.COUPLINGS:
                found, own = answers(again, kind), answers(self.model, kind)
                for name in ("log_partition", "marginals"):
                    torch.testing.assert_close(found[name], own[name], rtol=1e-4, atol=1e-5)
        _same(answers(codd.CoupledModel.from_pretrained(path)), answers(again))
        self.replace(again)

    @rule(dtype=st.sampled_from([torch.float32, torch.float64]))
    def to(self, dtype: torch.dtype) -> None:
        assert self.model.to(dtype) is self.model
        joint = self.model.joint(_tokens(self.model))
        assert joint.log_partition.dtype == dtype

    @rule(kind=KINDS)
    def switch(self, kind: str) -> None:
        """Another coupling for one question leaves the model's own alone."""
        before = answers(self.model)
        other = answers(self.model, kind)
        assert bool(other["log_prob"].isfinite().all())
        _same(answers(self.model), before)

    @rule(kind=KINDS)
    def settle(self, kind: str) -> None:
        expected = answers(self.model, kind)
        self.model.settings = codd.CouplingSettings(kind)
        _same(answers(self.model), expected)

    @rule(seed=st.integers(0, 100), sampler=st.sampled_from(["exact", "any_order"]))
    def generate(self, seed: int, sampler: str) -> None:
        before = answers(self.model)
        first = _text(self.model, seed, sampler=sampler)
        assert _text(self.model, seed, sampler=sampler) == first
        assert first[0].startswith("the c") and len(first[0]) == 9
        _same(answers(self.model), before)

    @rule(seed=st.integers(0, 100))
    def learn_circuit(self, seed: int) -> None:
        """The circuit's numbers are changed in place; the coupled answers follow."""
        before = answers(self.model)
        circuit = self.model.circuit
        rows = circuit.sample(8, generator=torch.Generator().manual_seed(seed))
        pc.fit_em(circuit, rows, epochs=2, progress=False)
        if self.model.settings.kind != "factorised":
            assert not torch.equal(answers(self.model)["log_prob"], before["log_prob"])

    @rule()
    def learn_all(self) -> None:
        """One step of an optimiser over denoiser, circuit and modulator."""
        optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01)
        tokens = _tokens(self.model)
        joint = self.model.joint(tokens)
        full = self.model.vocabulary.encode(TEXT[:8]).repeat(2, 1)
        (-joint.log_prob(full).mean()).backward()
        optimiser.step()
        optimiser.zero_grad()

    @rule()
    def copied(self) -> None:
        twin = copy.deepcopy(self.model)
        _same(answers(twin), answers(self.model))
        pc.fit_em(self.model.circuit, self.model.circuit.sample(4), epochs=1, progress=False)
        self.replace(twin)

    @rule(training=st.booleans())
    def train(self, training: bool) -> None:
        """The tiny denoiser has no dropout."""
        before = answers(self.model)
        self.model.train(training)
        _same(answers(self.model), before)

    @invariant()
    def is_a_distribution(self) -> None:
        if not hasattr(self, "model"):
            return
        found = answers(self.model)
        total = found["marginals"].sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-4)
        visible = _tokens(self.model) != self.model.mask_id
        kept = found["samples"] == _tokens(self.model)[:, None]
        assert bool(kept[visible[:, None].expand_as(kept)].all())
        assert bool(found["log_prob"].isfinite().all())

    @invariant()
    def earlier_models_are_as_they_were(self) -> None:
        for kept in self.kept:
            _same(answers(kept.model), kept.answers)


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, own in expected.items():
        assert torch.equal(found[name], own), f"{name} has changed:\n{found[name]}\n{own}"


def test_any_sequence_keeps_a_coupled_model_true() -> None:
    runs = settings(max_examples=max(4, CIRCUITS // 20), stateful_step_count=7)
    run_state_machine_as_test(CoupledMachine, settings=runs)
