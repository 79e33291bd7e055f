"""Which implementation is taken, and that it says so."""

from __future__ import annotations

import pytest
import torch

import pcircuits as pc
from pcircuits.errors import BackendError, EvidenceError
from pcircuits.execute import choice


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> pc.CircuitModel:
    """A circuit of single nodes, of which few are many."""
    monkeypatch.setattr(choice, "MANY_EDGES", 4)
    return pc.CircuitModel(pc.families.hmm(3, 1, 2))


def test_small_dense_circuits_are_evaluated_eagerly() -> None:
    model = pc.CircuitModel(pc.families.hmm(3, 2, 2))
    found = model.implementation(pc.Evidence())
    assert found == pc.Choice("eager", "there is little to compute")
    assert str(found) == "eager: there is little to compute"


def test_large_dense_circuits_are_fused_unless_something_is_against_it() -> None:
    model = pc.CircuitModel(pc.families.hmm(32, 16, 2))
    values = torch.randint(2, (64, 32))
    found = model.implementation(pc.Evidence(values))
    assert found == pc.Choice("fused", "a dense circuit on the CPU")
    own = {name: log.expand(64, *log.shape) for name, log in model.log_parameters().items()}
    found = pc.choose_implementation(model.plan, own, pc.Evidence(values))
    assert found.implementation == "eager" and "given per example" in found.reason


def test_large_circuits_of_single_nodes_are_compiled(single: pc.CircuitModel) -> None:
    assert single.implementation(pc.Evidence()).implementation == "numba"


def test_small_circuits_of_single_nodes_are_not(
    single: pc.CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MANY_EDGES", 1000)
    found = single.implementation(pc.Evidence())
    assert found.implementation == "eager" and "fewer than 1,000 edges" in found.reason


def test_what_numba_cannot_do_is_done_eagerly(single: pc.CircuitModel) -> None:
    own = {name: log.expand(2, *log.shape) for name, log in single.log_parameters().items()}
    found = pc.choose_implementation(single.plan, own, pc.Evidence())
    assert found == pc.Choice("eager", "not numba, since parameters are given per example")
    with pytest.raises(BackendError, match="'numba' cannot evaluate this: parameters are given"):
        pc.choose_implementation(single.plan, own, pc.Evidence(), impl="numba")


def test_a_name_is_taken_as_it_is_or_refused(single: pc.CircuitModel) -> None:
    values = torch.zeros(1, 3, dtype=torch.long)
    for impl in ("eager", "numba", "reference"):
        assert single.implementation(pc.Evidence(values), impl=impl) == pc.Choice(impl, "asked for")
    with pytest.raises(BackendError, match="found 'fast'"):
        single.log_likelihood(values, impl="fast")
    with pytest.raises(EvidenceError):
        single.implementation(pc.Evidence(values[:, :2]))


def test_models_pass_the_name_on(single: pc.CircuitModel) -> None:
    values = torch.randint(2, (5, 3))
    expected = single.log_likelihood(values, impl="reference")
    for impl in ("eager", "numba"):
        torch.testing.assert_close(single.log_likelihood(values, impl=impl).double(), expected)
        evidence = pc.Evidence(values)
        torch.testing.assert_close(single.log_evidence(evidence, impl=impl).double(), expected)
