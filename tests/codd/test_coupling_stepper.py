"""What a stepper draws, when its sweeps end, and how many recorded steps it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.step import coupling_step
from codd.coupling.stepper import CouplingStepper, SteppedDistribution
from codd.coupling.targets import list_top
from tests.support.joint import Case, small_case

B, W, V = 3, 4, 4


def case() -> Case:
    return small_case(num_categories=V)


def settings(kind: str = "copula", **options: Any) -> codd.CouplingSettings:
    return codd.CouplingSettings(kind, **options)


def couple(own: Case, how: codd.CouplingSettings, **options: Any) -> Any:
    given = (own.log_probs, own.values, own.observed)
    return codd.couple(how, own.plan, own.parameters, *given, **options)


def stepper(own: Case, how: codd.CouplingSettings, **options: Any) -> CouplingStepper:
    return CouplingStepper(how, own.plan, pc.prepare(own.plan, own.parameters), **options)


def stepped(own: Case, how: codd.CouplingSettings, **options: Any) -> SteppedDistribution:
    given = (own.log_probs, own.values, own.observed)
    return stepper(own, how).distribution(*given, **options)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_step_draws_two_numbers_for_each_token(temperature: float) -> None:
    own, how = case(), settings()
    found = stepped(own, how, generator=seeded(), temperature=temperature)
    uniforms = torch.rand(B, 1, W, 2, generator=seeded())
    passes, given = stepper(own, how).passes, (own.log_probs, own.values, own.observed, uniforms)
    expected = coupling_step(how, passes, *given, temperature=temperature)
    assert found.sample(temperature=temperature).shape == (B, 1, W)
    assert torch.equal(found.sample(temperature=temperature), expected.tokens)
    plain = stepped(own, how, generator=seeded())
    assert torch.equal(plain.sample(), coupling_step(how, passes, *given).tokens)


def test_another_sample_than_the_step_s_own_is_drawn_anew() -> None:
    own, how = case(), settings()
    found, other = stepped(own, how, temperature=0.75), couple(own, how)
    for number, temperature in ((1, 0.5), (1, 2.0), (1, 1.0), (7, 0.75), (2, 0.5)):
        drawn = [
            each.sample(number, temperature=temperature, generator=seeded())
            for each in (found, other)
        ]
        assert torch.equal(*drawn), (number, temperature)
        assert drawn[0].shape == (B, number, W)
    assert found.sample(1, temperature=3 / 4) is found.found.tokens
    with pytest.raises(pc.errors.EvidenceError, match="expected num_samples >= 1"):
        found.sample(0, temperature=0.75)


@pytest.mark.parametrize("make", [couple, stepped])
def test_near_windows_stay_after_the_first_sweep(make: Any) -> None:
    """The first sweep is always made: before it the potentials are no fit at all."""
    own = case()
    once = make(own, settings(step_sizes=(1.0,)))
    stopped = make(own, settings(step_sizes=(1.0, 0.5, 0.5), tolerance=1.0))
    torch.testing.assert_close(stopped.log_potentials, once.log_potentials)
    errors = once.marginal_error
    assert len(set(errors.tolist())) == B
    for tolerance in (float(errors.min()) * (1 + 1e-9), float(errors.median()) * (1 + 1e-9)):
        found = make(own, settings(step_sizes=(1.0, 0.5), tolerance=tolerance))
        whole = make(own, settings(step_sizes=(1.0, 0.5)))
        near = errors <= tolerance
        torch.testing.assert_close(found.log_potentials[near], once.log_potentials[near])
        torch.testing.assert_close(found.log_potentials[~near], whole.log_potentials[~near])
        assert near.any() and not near.all()


@pytest.mark.parametrize("make", [couple, stepped])
def test_padding_is_not_waited_for(make: Any) -> None:
    """How far a window is from its targets is told by its masked tokens alone."""
    own = case()
    valid = torch.ones(B, W, dtype=torch.bool)
    valid[2, 0] = valid[0, 2] = False
    once = make(own, settings(step_sizes=(1.0,)), valid=valid)
    free = ~own.observed & valid
    targets = own.log_probs.exp()
    apart = (once.marginals() - targets).abs().sum(2) / 2
    expected = torch.where(free, apart, 0.0).amax(1)
    torch.testing.assert_close(once.marginal_error, expected)
    for row in range(B):
        tolerance = float(expected[row]) * (1 + 1e-9)
        found = make(own, settings(step_sizes=(1.0, 0.5), tolerance=tolerance), valid=valid)
        torch.testing.assert_close(found.log_potentials[row], once.log_potentials[row])


def test_no_sweep_is_made_once_all_windows_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = pc.queries.log_leave_one_out

    def counted(*given: Any) -> Tensor:
        asked.append(given)
        return whole(*given)

    monkeypatch.setattr(pc.queries, "log_leave_one_out", counted)
    for tolerance, sweeps in ((1.0, 2), (0.0, 5)):
        asked.clear()
        couple(case(), settings(step_sizes=(1.0, *[0.5] * 4), tolerance=tolerance))
        assert len(asked) == sweeps


@pytest.mark.parametrize("make", [couple, stepped])
def test_a_token_that_the_circuit_rules_out_keeps_a_finite_potential(make: Any) -> None:
    own = case()
    own.parameters["emission"][:, 2] = -torch.inf
    own.parameters["emission"][:] = own.parameters["emission"].log_softmax(-1)
    own.values[own.observed] = 1
    found = make(own, settings(step_sizes=(1.0,))).log_potentials
    assert torch.equal(found[..., 2][~own.observed], torch.full((9,), 30.0).double())
    assert float(found[..., [0, 1, 3]].max()) < 20


def test_visible_tokens_need_not_be_listed() -> None:
    own, how = case(), settings("product", top_k=2)
    _, listing = list_top(own.log_probs, 2)
    unlisted = (torch.arange(V)[:, None] != listing.categories[..., None, :]).all(-1)
    assert unlisted[0, 1].nonzero()[:, 0].tolist() != unlisted[1, 0].nonzero()[:, 0].tolist()
    for pick in (0, -1):
        for row, place in own.observed.nonzero().tolist():
            own.values[row, place] = unlisted[row, place].nonzero()[pick, 0]
        own.values[~own.observed] = V  # a mask's id is no token
        found, other = stepped(own, how), couple(own, how)
        torch.testing.assert_close(found.marginals(), other.marginals())
        assert torch.equal(found.sample()[:, 0][own.observed], own.values[own.observed])
    own.values[own.observed], own.values[~own.observed] = 0, -1
    torch.testing.assert_close(stepped(own, how).marginals(), couple(own, how).marginals())


def test_a_step_leaves_no_gradient_behind() -> None:
    own, how = case(), settings()
    for name in own.parameters:
        own.parameters[name].requires_grad_()
    found = stepped(own, how)
    assert not found.marginals().requires_grad and not found.log_partition.requires_grad
    assert couple(own, how).marginals().requires_grad


@pytest.mark.parametrize("kind", ["product", "local", "copula"])
def test_units_that_cannot_be_and_padding_take_no_potential(kind: str) -> None:
    """A state that allows no token of the denoiser's, at a masked, a visible and a padded place."""
    own = case()
    own.parameters["emission"][0, [0, 1]] = -torch.inf
    own.parameters["emission"][:] = own.parameters["emission"].log_softmax(-1)
    own.log_probs[..., [2, 3]] = -torch.inf
    own.log_probs[:] = own.log_probs.log_softmax(-1)
    own.values[own.observed] = 2
    valid = torch.ones(B, W, dtype=torch.bool)
    valid[2, 1] = False
    latent = {"state_1": torch.randn(B, 3, generator=seeded()).double()}
    how = settings(kind)
    found = stepped(own, how, valid=valid, latent=latent)
    other = couple(own, how, valid=valid, latent=latent)
    torch.testing.assert_close(found.log_partition, other.log_partition)
    torch.testing.assert_close(found.marginals()[valid], other.marginals()[valid])
    assert torch.isfinite(other.log_partition).all()
    each = [other.log_prob(world.expand(B, -1)) for world in own.worlds]
    whole = torch.stack(each, 1).exp().sum(1)
    torch.testing.assert_close(whole, torch.tensor([1.0, 1.0, V]).double())


def test_the_latest_eight_recorded_steps_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []

    def record(function: Any, inputs: Any) -> Any:
        recorded.append(inputs)
        return function

    monkeypatch.setattr(pc.queries, "captured_step", record)
    own = case()
    made = stepper(own, settings(), capture=True)
    made.__dict__["passes"] = stepper(own, settings()).passes
    given = (own.log_probs, own.values, own.observed, torch.rand(B, 1, W, 2))
    for number in range(9):
        made.step(*given, temperature=number / 8)
    assert (len(recorded), len(made._captured)) == (9, 8)
    made.step(*given, temperature=1 / 8)
    assert len(recorded) == 9
    made.step(*given, temperature=0.0)
    assert len(recorded) == 10, "it was the oldest"
