"""Learning that goes wrong without a word elsewhere: lost signs, stale state, dead states."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError, ParameterError
from tests.support.evidence import random_values


def _model(seed: int = 0, dtype: torch.dtype = torch.float64) -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(5, 3, 4), seed=seed).to(dtype)


def _rows(model: pc.CircuitModel, count: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return random_values(model.circuit, count, generator)


def _gradients(model: pc.CircuitModel, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_loss_keeps_its_sign_and_scale(impl: str) -> None:
    """-mean and 1000 times the mean that give the same step."""
    model, rows = _model(), None
    rows = _rows(model)
    plain = _gradients(model, model.log_likelihood(rows, impl=impl).mean())
    scaled = _gradients(model, -1000 * model.log_likelihood(rows, impl=impl).mean())
    squared = _gradients(model, model.log_likelihood(rows, impl=impl).square().mean())
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(other, -1000 * one)
    assert not any(torch.allclose(a, b) for a, b in zip(plain, squared, strict=True))


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_calls_between_forward_and_backward_change_nothing(impl: str) -> None:
    """A second forward before the backward corrupts the flows of the first."""
    model = _model()
    rows, others = _rows(model), _rows(model, 12, seed=1)
    expected = _gradients(model, model.log_likelihood(rows, impl=impl).sum())
    value = model.log_likelihood(rows, impl=impl).sum()
    model.log_likelihood(others, impl=impl).sum().backward()
    model.marginals(pc.Evidence(others))
    model.sample(3)
    other = _model(seed=1)
    other.log_likelihood(rows, impl=impl).sum().backward()
    for found, own in zip(_gradients(model, value), expected, strict=True):
        assert torch.equal(found, own)


def test_torch_optimisers_learn() -> None:
    """Parameters that no optimiser of PyTorch can change, or that leave the simplex."""
    model = _model(dtype=torch.float32)
    rows = _rows(model, 64)
    for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS):
        optimiser = make(model.parameters(), lr=0.1)

        def loss(optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            found = -model.log_likelihood(rows).mean()
            found.backward()
            return found

        before = loss().item()
        for _ in range(5):
            optimiser.step(loss)
        assert loss().item() < before
        for table in model.probabilities().values():
            torch.testing.assert_close(table.sum(-1), torch.ones(table.shape[:-1]))


def test_emissions_sum_to_one_after_em_with_many_categories_and_zeros() -> None:
    """More than 256 categories and kept zeros: rows that sum to 0.11 to 0.18 after EM."""
    model = pc.CircuitModel(pc.families.hmm(4, 3, 700), seed=0)
    tables = model.probabilities()
    zeros = torch.rand(3, 700, generator=torch.Generator().manual_seed(0)) < 0.5
    emission = tables["emission"].masked_fill(zeros, 0.0)
    model.set_probabilities({"emission": emission / emission.sum(-1, keepdim=True)})
    rows = model.sample(200, generator=torch.Generator().manual_seed(1))
    pc.fit_em(model, rows, epochs=3, progress=False)
    found = model.probabilities()
    for table in found.values():
        torch.testing.assert_close(table.sum(-1), torch.ones(table.shape[:-1]))
    assert not bool(found["emission"][zeros].any())
    assert bool((found["emission"][~zeros] > 0).all())


def test_em_smooths_by_default_and_warns_of_zeros() -> None:
    """States driven to exactly zero, and unseen data to -inf, without a warning."""
    rows = torch.zeros(10, 5, dtype=torch.long)
    unseen = torch.full((1, 5), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = _model()
        pc.fit_em(model, rows, epochs=30, progress=False)
        assert bool(model.log_likelihood(unseen).isfinite())
    bare = _model()
    with pytest.warns(UserWarning, match="zero"):
        pc.fit_em(bare, rows, epochs=30, pseudocount=0.0, progress=False)
    assert bare.log_likelihood(unseen).item() == -torch.inf


@pytest.mark.parametrize("algorithm", ["plain", "online", "anemone"])
def test_defaults_do_not_give_nan(algorithm: str) -> None:
    """Defaults under which a first model becomes NaN: constant columns, one row, dead states."""
    for rows in (
        torch.zeros(1, 5, dtype=torch.long),
        torch.zeros(50, 5, dtype=torch.long),
        torch.arange(4).repeat(50, 5)[:, :5],
    ):
        model = _model(dtype=torch.float32)
        pc.fit_em(model, rows, epochs=10, batch_size=7, algorithm=algorithm, progress=False)
        pc.fit_gradient(model, rows, epochs=3, progress=False)
        assert all(bool(table.isfinite().all()) for table in model.probabilities().values())
        assert bool(model.log_likelihood(rows).isfinite().all())


def test_every_initialisation_is_complete() -> None:
    """A second initialisation that gives new numbers to the root alone."""
    plan = _model().plan
    first, again, second = (pc.random_parameters(plan, seed=s) for s in (0, 0, 1))
    for name, shape in plan.parameter_shapes.items():
        assert first[name].shape == shape and torch.equal(first[name], again[name])
        assert not bool((first[name] == second[name]).all(-1).any())
    model = _model(dtype=torch.float32)
    for seed in (1, 2):
        before = {name: table.clone() for name, table in model.probabilities().items()}
        pc.initialise_random(model, seed=seed)
        for name, table in model.probabilities().items():
            assert not torch.equal(table, before[name]), f"{name} was not initialised"


def test_two_models_of_one_circuit_share_nothing() -> None:
    """A default that is shared: what one model learns, the other has learned."""
    circuit = pc.families.hmm(5, 3, 4)
    one, other = pc.CircuitModel(circuit, seed=0), pc.CircuitModel(circuit, seed=0)
    before = {name: table.clone() for name, table in other.probabilities().items()}
    pc.fit_em(one, _rows(one), epochs=2, progress=False)
    for name, table in other.probabilities().items():
        assert torch.equal(table, before[name])
    given = {name: log.clone() for name, log in one.log_parameters().items()}
    third = pc.CircuitModel(circuit, log_weights=given)
    kept = {name: table.clone() for name, table in third.probabilities().items()}
    for log in given.values():
        log.zero_()
    assert all(torch.equal(table, kept[name]) for name, table in third.probabilities().items())


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ([-0.5, 0.5, 0.5, 0.5], "is -0.5; expected a probability >= 0"),
        ([torch.nan, 0.5, 0.25, 0.25], "is nan; expected a probability >= 0"),
        ([0.0, 0.0, 0.0, 0.0], "sums to 0; expected 1"),
        ([0.5, 0.5, 0.5, 0.5], "sums to 2; expected 1"),
        ([torch.inf, 0.0, 0.0, 0.0], "sums to inf; expected 1"),
    ],
)
def test_rows_that_are_no_distributions(row: list[float], match: str) -> None:
    """Negative, NaN, all-zero rows that are taken as they are."""
    model = _model()
    emission = model.probabilities()["emission"].clone()
    before = emission.clone()
    emission[1] = torch.tensor(row).double()
    with pytest.raises(ParameterError, match=match):
        model.set_probabilities({"emission": emission})
    assert torch.equal(model.probabilities()["emission"], before)


@pytest.mark.parametrize("weights", [[-1.0, 1, 1], [torch.nan, 1, 1], [torch.inf, 1, 1]])
def test_weights_of_rows_are_checked(weights: list[float]) -> None:
    """Negative or missing weights that are summed like others."""
    model = _model()
    with pytest.raises(EvidenceError, match="weight"):
        pc.fit_em(model, _rows(model, 3), weights=torch.tensor(weights), progress=False)
