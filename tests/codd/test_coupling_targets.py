"""What is coupled: sharpened targets, lists of the likeliest tokens and what they leave out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.distribution import TokenDistribution
from codd.coupling.stepper import CouplingStepper
from codd.coupling.targets import Listing, list_top, target_log_probs
from codd.errors import CouplingError
from tests.support.coupling_worlds import coupled_worlds
from tests.support.joint import Case, small_case

CIRCUIT_KINDS = ("product", "local", "copula")
CONVERGED = (0.5,) * 80


def _case(size: int = 4, *, sharp: float = 2.0) -> Case:
    case = small_case(num_categories=size)
    return replace(case, log_probs=(sharp * case.log_probs).log_softmax(-1))


def _couple(case: Case, settings: codd.CouplingSettings, **options: object) -> TokenDistribution:
    own = (case.plan, case.parameters, case.log_probs, case.values, case.observed)
    return codd.couple(settings, *own, **options)  # type: ignore[arg-type]


def _world_probabilities(case: Case, joint: TokenDistribution) -> Tensor:
    """(B, N) of all worlds."""
    each = [joint.log_prob(world.expand(len(case.values), -1)) for world in case.worlds]
    return torch.stack(each, dim=1).exp()


def _enumerated(case: Case, settings: codd.CouplingSettings) -> Tensor:
    """(B, N) of all worlds, without the couplings' own arithmetic where it is not iterated."""
    if settings.kind == "copula":
        return case.joint(_couple(case, settings).log_potentials)  # type: ignore[attr-defined]
    own = (case.log_probs, case.values, case.observed)
    worlds = coupled_worlds(settings, case.plan.circuit, case.parameters, *own)
    return torch.from_numpy(worlds.world_probabilities())


def _has_unlisted(case: Case, listing: Listing) -> Tensor:
    """(B, N) whether a masked token of a world is not listed."""
    listed = (listing.categories[:, None] == case.worlds[None, :, :, None]).any(-1)
    return (~listed & ~case.observed[:, None]).any(-1)


def test_targets_are_tempered_cut_and_floored() -> None:
    log_probs = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]], dtype=torch.float64).log()

    def found(**changes: float) -> Tensor:
        return target_log_probs(codd.CouplingSettings(**changes), log_probs).exp()[0, 0]  # type: ignore[arg-type]

    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025]).double()
    torch.testing.assert_close(found(target_temperature=0.5), squared / squared.sum())
    nucleus = torch.tensor([0.625, 0.375, 0.0, 0.0]).double()
    torch.testing.assert_close(found(target_top_p=0.8), nucleus)
    torch.testing.assert_close(found(target_top_p=0.4), torch.tensor([1.0, 0, 0, 0]).double())
    floored = 0.9 * nucleus + 0.1 * log_probs.exp()[0, 0]
    torch.testing.assert_close(found(target_top_p=0.8, target_floor=0.1), floored)
    assert target_log_probs(codd.CouplingSettings(), log_probs) is log_probs


def test_ruled_out_tokens_stay_so_and_gradients_are_finite() -> None:
    log_probs = torch.tensor([[[0.6, 0.4, 0.0]]]).double().log().requires_grad_()
    settings = codd.CouplingSettings(target_temperature=0.7, target_top_p=0.5, target_floor=0.2)
    found = target_log_probs(settings, log_probs)
    found.exp().square().sum().backward()

    assert found[0, 0, 2] == -torch.inf
    assert log_probs.grad is not None and torch.isfinite(log_probs.grad[..., :2]).all()
    assert not log_probs.grad.isnan().any()


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_the_copula_keeps_the_sharpened_marginals(floor: float) -> None:
    case = _case()
    settings = codd.CouplingSettings(
        "copula", CONVERGED, target_temperature=0.8, target_top_p=0.9, target_floor=floor
    )
    joint = _couple(case, settings)

    targets = target_log_probs(settings, case.log_probs)
    assert float(joint.marginal_error.max()) < 1e-9
    assert float(codd.marginal_error(joint, targets).max()) < 1e-9
    assert float(codd.marginal_error(joint, case.log_probs).max()) > 0.01


def test_a_window_near_its_targets_is_not_moved_further() -> None:
    case = _case()
    before = None
    for count in range(1, 40):
        joint = _couple(case, codd.CouplingSettings("copula", CONVERGED[:count]))
        if before is not None and float(before.marginal_error[2]) <= 1e-3:
            break
        before = joint
    assert before is not None
    stopped = _couple(case, codd.CouplingSettings("copula", CONVERGED, tolerance=1e-3))

    # Row 2 has no visible token and takes longest: the loop above ends where it is settled.
    torch.testing.assert_close(stopped.log_potentials[2], before.log_potentials[2])
    assert (stopped.marginal_error <= 1e-3).all()
    exact = _couple(case, codd.CouplingSettings("copula", CONVERGED))
    assert (exact.marginal_error < 1e-8).all()


@pytest.mark.parametrize("kind", codd.COUPLINGS)
def test_a_list_is_the_coupling_of_a_denoiser_that_rules_the_rest_out(kind: str) -> None:
    case = _case()
    joint = _couple(case, codd.CouplingSettings(kind, top_k=3))
    _, listing = list_top(case.log_probs, 3)
    inside = torch.zeros_like(case.log_probs, dtype=torch.bool).scatter(2, listing.categories, True)
    kept = case.log_probs.masked_fill(~inside, -torch.inf).log_softmax(-1)
    expected = _couple(replace(case, log_probs=kept), codd.CouplingSettings(kind))

    found = _world_probabilities(case, joint)
    torch.testing.assert_close(found, _world_probabilities(case, expected))
    torch.testing.assert_close(found.sum(1), torch.ones(3).double())
    assert (found[_has_unlisted(case, listing)] == 0).all()
    torch.testing.assert_close(joint.marginals(), expected.marginals())
    torch.testing.assert_close(joint.mutual_information(), expected.mutual_information())
    drawn = joint.sample(200, generator=torch.Generator().manual_seed(0))
    every = [joint.log_prob(drawn[:, i]) for i in range(200)]
    assert torch.isfinite(torch.stack(every)).all()

    fixed, token = torch.full((3,), 2), listing.categories[:, 2, 1]
    conditioners = (joint.conditioner(), expected.conditioner())
    free = ~case.observed & (torch.arange(4) != 2)
    for own in conditioners:
        own.fix(fixed, token, torch.ones(3, dtype=torch.bool))
    marginals = [own.marginals(free)[free] for own in conditioners]
    torch.testing.assert_close(*marginals)
    singles = [own.marginal(torch.tensor([0, 1, 0]), free[:, 0]) for own in conditioners]
    torch.testing.assert_close(singles[0][free[:, 0]], singles[1][free[:, 0]])


@pytest.mark.parametrize("kind", codd.COUPLINGS)
@pytest.mark.parametrize("top_k", [1, 3, 4])
def test_the_bound_on_what_is_omitted_holds(kind: str, top_k: int) -> None:
    for sharp in (1.0, 5.0):
        case = _case(sharp=sharp)
        whole = codd.CouplingSettings(kind, CONVERGED)
        exact = _enumerated(case, whole)
        joint = _couple(case, replace(whole, top_k=top_k))
        _, listing = list_top(case.log_probs, top_k)
        outside = _has_unlisted(case, listing)
        omitted = (exact * outside).sum(1)

        bound = joint.omitted_mass
        assert (bound >= omitted - 1e-9).all()
        assert (bound <= 1).all()
        assert top_k == 1 or (bound < 1).all()
        if kind == "factorised":
            torch.testing.assert_close(bound, omitted)
        if kind == "product":
            dense = torch.full_like(case.log_probs, -torch.inf)
            listed = case.joint(dense.scatter(2, listing.categories, joint.log_potentials))
            low = listed * (1 - bound)[:, None]
            assert (exact[~outside] <= listed[~outside] + 1e-12).all()
            assert (exact[~outside] >= low[~outside] - 1e-12).all()
        if top_k == 4:
            torch.testing.assert_close(bound, torch.zeros(3).double(), atol=1e-9, rtol=0)


def test_the_bound_does_not_need_to_know_the_likeliest_unlisted_token() -> None:
    case = _case()
    log_probs, listing = list_top(case.log_probs, 3)
    plain = Listing(listing.categories, listing.log_omitted)
    own = replace(case, log_probs=log_probs)
    exact = _couple(own, codd.CouplingSettings("product"), listing=listing)
    loose = _couple(own, codd.CouplingSettings("product"), listing=plain)

    assert (loose.omitted_mass >= exact.omitted_mass - 1e-12).all()
    assert (loose.omitted_mass < 1).all()
    unknown = _couple(own, codd.CouplingSettings("product", target_top_p=0.9), listing=listing)
    with pytest.raises(CouplingError, match="not known"):
        _ = unknown.omitted_mass


def test_the_bound_is_useful_at_a_large_vocabulary() -> None:
    """Of 2,000 tokens 300 are listed: the bound is five times what is really left out."""
    generator = torch.Generator().manual_seed(0)
    model = pc.CircuitModel(pc.families.hmm(8, 16, 2000), seed=1).double()
    log_probs = (5 * torch.randn(2, 8, 2000, generator=generator).double()).log_softmax(-1)
    values, masked = torch.zeros(2, 8).long(), torch.zeros(2, 8, dtype=torch.bool)
    own = (model.plan, model.prepare(), log_probs, values, masked)
    whole = codd.couple(codd.CouplingSettings("product"), *own)
    listed = codd.couple(codd.CouplingSettings("product", top_k=300), *own)

    exact = -torch.expm1(listed.log_partition - whole.log_partition)  # type: ignore[attr-defined]
    assert (listed.omitted_mass >= exact).all()
    assert (listed.omitted_mass <= 6 * exact).all()


@pytest.mark.parametrize("kind", CIRCUIT_KINDS)
def test_the_true_tokens_are_listed_in_training(kind: str) -> None:
    case = _case()
    rare = case.log_probs.argmin(-1)
    settings = codd.CouplingSettings(kind, top_k=2)
    tokens = torch.where(case.observed, case.values, rare)

    assert torch.isfinite(_couple(case, settings, include=rare).log_prob(tokens)).all()
    assert (_couple(case, settings).log_prob(tokens) == -torch.inf).all()


@pytest.mark.parametrize("kind", CIRCUIT_KINDS)
def test_gradients_of_listed_couplings(kind: str) -> None:
    case = _case()
    names = list(case.parameters)
    settings = codd.CouplingSettings(kind, (1.0, 0.5), top_k=3)
    tokens = torch.where(case.observed, case.values, case.log_probs.argmin(-1))

    def loss(log_probs: Tensor, *parameters: Tensor) -> Tensor:
        own = replace(
            case, log_probs=log_probs, parameters=dict(zip(names, parameters, strict=True))
        )
        return _couple(own, settings, include=tokens).log_prob(tokens)

    tensors = [case.log_probs, *case.parameters.values()]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


@pytest.mark.parametrize("kind", codd.COUPLINGS)
def test_padding_is_summed_out_under_lists_too(kind: str) -> None:
    case = _case()
    valid = torch.ones_like(case.observed)
    valid[2, 0] = False
    joint = _couple(case, codd.CouplingSettings(kind, top_k=3), valid=valid)

    first = case.worlds[case.worlds[:, 0] == 0]  # worlds with token 0 at the padding
    each = torch.stack([joint.log_prob(world.expand(3, -1))[2] for world in first])
    assert float(each.exp().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", CIRCUIT_KINDS)
def test_a_step_couples_the_same_targets_and_lists(kind: str) -> None:
    case = _case()
    settings = codd.CouplingSettings(
        kind, CONVERGED[:6], tolerance=0.05, target_temperature=0.7, top_k=3
    )
    parameters = pc.prepare(case.plan, case.parameters)
    own = (case.log_probs, case.values, case.observed)
    stepped = CouplingStepper(settings, case.plan, parameters).distribution(*own)
    joint = _couple(case, settings)

    torch.testing.assert_close(stepped.marginals(), joint.marginals())
    torch.testing.assert_close(stepped.log_partition, joint.log_partition)
    torch.testing.assert_close(stepped.marginal_error, joint.marginal_error)
    torch.testing.assert_close(stepped.omitted_mass, joint.omitted_mass)
    tokens = stepped.sample()[:, 0]
    torch.testing.assert_close(stepped.log_prob(tokens), joint.log_prob(tokens))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
        ({"target_temperature": 0.0}, "target_temperature must be above 0"),
        ({"target_top_p": 0.0}, "target_top_p must be in"),
        ({"target_floor": 1.0}, "target_floor must be in"),
        ({"target_floor": 1.5}, "target_floor must be in"),
        ({"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_settings_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CouplingError, match=message):
        codd.CouplingSettings(**arguments)  # type: ignore[arg-type]


def test_names_choose_kind_and_conditioning() -> None:
    own = codd.CouplingSettings("local", top_k=7)

    assert own.named("product") == replace(own, kind="product")
    assert own.named("static") == replace(own, conditioned=False)
    assert own.named("static-copula") == replace(own, kind="copula", conditioned=False)
    assert own.named("static").named("conditioned") == own
    assert codd.CouplingSettings("factorised").named("conditioned").kind == "copula"
    for wrong in ("glue", "static-factorised", "conditioned-"):
        with pytest.raises(CouplingError, match="coupling must be one of"):
            own.named(wrong)
