"""Mutual information of a chain in one sweep, against enumeration and against the general way."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError
from pcircuits.queries.chain_information import can_sweep
from pcircuits.queries.posterior import posterior


def chain(homogeneous: bool = True, seed: int = 0, states: int = 3) -> pc.CircuitModel:
    circuit = pc.families.hmm(4, states, 3, homogeneous=homogeneous)
    model = pc.CircuitModel(circuit, seed=seed).double()
    sharp = {n: (5 * p).log_softmax(-1) for n, p in model.log_parameters().items()}
    model.set_log_parameters(sharp)
    return model


def evidences() -> dict[str, pc.Evidence]:
    generator = torch.Generator().manual_seed(4)
    potentials = torch.randn(2, 4, 3, generator=generator).double()
    excluded = potentials.clone()
    excluded[0, 1, 2] = excluded[1, 3, 0] = -torch.inf
    observed = torch.tensor([[True, False, False, False], [False, False, True, False]])
    latent = {"state_2": torch.tensor([[0.5, -1.0, 2.0], [-torch.inf, 0.0, 1.0]]).double()}
    values = torch.tensor([[1, 0, 0, 0], [0, 0, 2, 0]])
    return {
        "none": pc.Evidence(),
        "soft": pc.Evidence(log_potentials=potentials),
        "excluded": pc.Evidence(log_potentials=excluded),
        "observed": pc.Evidence(values, observed, potentials),
        "latent": pc.Evidence(values, observed, potentials, latent),
    }


def general(model: pc.CircuitModel, evidence: pc.Evidence) -> Tensor:
    """Parameters that want a gradient take the way of every other circuit."""
    given = posterior(model.plan, dict(model.log_parameters()), evidence)
    assert not can_sweep(given)
    return model.mutual_information(evidence).detach()


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("name", evidences())
def test_the_sweep_gives_what_every_other_circuit_gets(homogeneous: bool, name: str) -> None:
    model, evidence = chain(homogeneous), evidences()[name]
    expected = general(model, evidence)
    with torch.no_grad():
        assert can_sweep(posterior(model.plan, dict(model.log_parameters()), evidence))
        found = model.mutual_information(evidence)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_the_sweep_is_that_of_enumeration() -> None:
    model, evidence = chain(seed=1), evidences()["soft"]
    worlds = torch.tensor(list(itertools.product(range(3), repeat=4)))
    factors = sum(evidence.log_potentials[:, i, worlds[:, i]] for i in range(4))
    joint = (model.log_likelihood(worlds) + factors).softmax(-1).view(2, 3, 3, 3, 3)

    def entropy(kept: tuple[int, ...]) -> Tensor:
        others = tuple(i + 1 for i in range(4) if i not in kept)
        return torch.special.entr(joint.sum(others)).flatten(1).sum(1)

    found = model.mutual_information(evidence)
    for i, j in itertools.product(range(4), repeat=2):
        own = entropy((i,)) if i == j else entropy((i,)) + entropy((j,)) - entropy((i, j))
        torch.testing.assert_close(found[:, i, j], own, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_transitions_that_are_impossible_stay_so() -> None:
    model = chain()
    cycle = torch.eye(3).roll(1, 1).double()
    model.set_probabilities({"transition": cycle, "emission": torch.eye(3).double()})
    found = model.mutual_information()[0]
    entropy = torch.special.entr(model.probabilities()["initial"]).sum()
    torch.testing.assert_close(found, entropy.expand(4, 4), rtol=1e-9, atol=1e-9)
    with pytest.raises(EvidenceError, match="probability zero"):
        seen = torch.tensor([[0, 0, 0, 0]])
        model.mutual_information(pc.Evidence(seen, torch.tensor([[True, True, False, False]])))


@torch.no_grad()
def test_many_examples_are_swept_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain()
    evidence = pc.Evidence(log_potentials=torch.randn(5, 4, 3).double())
    whole = model.mutual_information(evidence)
    monkeypatch.setattr("pcircuits.queries.chain_information._ENTRIES", 90)
    torch.testing.assert_close(model.mutual_information(evidence), whole, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_float32_is_right_far_from_where_numbers_underflow() -> None:
    circuit = pc.families.hmm(60, 8, 5)
    model = pc.CircuitModel(circuit, seed=3)
    evidence = pc.Evidence(log_potentials=40 * torch.randn(1, 60, 5))
    single = model.mutual_information(evidence)
    model.double()
    double = model.mutual_information(pc.Evidence(log_potentials=evidence.log_potentials.double()))
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=2e-5)


def test_potentials_of_inner_sums_take_the_general_way() -> None:
    model = chain()
    (name,) = [n for n, (layer, _) in model.plan.places.items() if layer == 1]
    latent = {name: torch.tensor([[0.5, -1.0, 2.0]]).double()}
    evidence = pc.Evidence(latent_log_potentials=latent)
    expected = model.mutual_information(evidence).detach()
    with torch.no_grad():
        assert not can_sweep(posterior(model.plan, dict(model.log_parameters()), evidence))
        torch.testing.assert_close(model.mutual_information(evidence), expected)
    assert not torch.allclose(expected, model.mutual_information().detach(), atol=1e-3)
