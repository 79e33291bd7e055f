"""Modulators: where they start, what they contain, and that gradients reach all of them."""

from __future__ import annotations

import pytest
import torch

import codd
import pcircuits as pc
from codd.errors import ConfigError
from codd.modulators.base import position_nodes
from tests.support.joint import small_case

HIDDEN = 6


def _distribution(kind: str, *, coupling: str, edit: object = None) -> tuple[object, object]:
    case = small_case()
    torch.manual_seed(0)
    modulator = codd.make_modulator(kind, case.plan, HIDDEN, rank=4).double()
    if edit is not None:
        with torch.no_grad():
            edit(modulator)  # type: ignore[operator]
    hidden = torch.randn(3, 4, HIDDEN, dtype=torch.float64)
    modulation = modulator(hidden, case.parameters)
    found = codd.couple(
        codd.CouplingSettings(coupling),
        modulator.plan,
        modulation.parameters,
        case.log_probs,
        case.values,
        case.observed,
        latent=modulation.latent,
    )
    return found, modulator


@pytest.mark.parametrize("coupling", ["product", "local", "copula"])
def test_a_new_latent_head_changes_nothing(coupling: str) -> None:
    tokens = torch.where(small_case().observed, small_case().values, 1)
    static, _ = _distribution("static", coupling=coupling)
    latent, _ = _distribution("latent", coupling=coupling)

    torch.testing.assert_close(latent.log_prob(tokens), static.log_prob(tokens))


def test_a_new_parametric_head_is_near_the_static_circuit_and_closed_gates_reach_it() -> None:
    tokens = torch.where(small_case().observed, small_case().values, 1)
    static, _ = _distribution("static", coupling="copula")
    near, _ = _distribution("parametric", coupling="copula")
    exact, _ = _distribution(
        "parametric", coupling="copula", edit=lambda m: m.gates.up.bias.fill_(60.0)
    )

    assert (near.log_prob(tokens) - static.log_prob(tokens)).abs().max().item() < 0.3
    torch.testing.assert_close(exact.log_prob(tokens), static.log_prob(tokens))


@pytest.mark.parametrize("coupling", ["product", "local", "copula"])
def test_open_gates_are_the_factorised_output(coupling: str) -> None:
    tokens = torch.where(small_case().observed, small_case().values, 1)
    factorised, _ = _distribution("static", coupling="factorised")
    opened, _ = _distribution(
        "parametric", coupling=coupling, edit=lambda m: m.gates.up.bias.fill_(-60.0)
    )

    torch.testing.assert_close(opened.log_prob(tokens), factorised.log_prob(tokens))


def test_latent_potentials_on_one_path_are_the_factorised_output() -> None:
    def single_out(modulator: object) -> None:
        modulator.head.up.bias[0] = 200.0  # type: ignore[attr-defined]

    tokens = torch.where(small_case().observed, small_case().values, 1)
    factorised, _ = _distribution("static", coupling="factorised")
    case = small_case()
    found, _ = _distribution("latent", coupling="copula", edit=single_out)
    settled = codd.couple(
        codd.CouplingSettings("copula", step_sizes=(1.0,)),
        case.plan,
        case.parameters,
        case.log_probs,
        case.values,
        case.observed,
        latent=found.latent,
    )

    torch.testing.assert_close(settled.log_prob(tokens), factorised.log_prob(tokens))


@pytest.mark.parametrize("kind", ["latent", "parametric"])
@pytest.mark.parametrize("coupling", ["product", "local", "copula"])
def test_training_moves_every_part(kind: str, coupling: str) -> None:
    """The start is no saddle: after one step every weight has a gradient."""
    tokens = torch.where(small_case().observed, small_case().values, 1)
    case = small_case()
    torch.manual_seed(0)
    modulator = codd.make_modulator(kind, case.plan, HIDDEN, rank=4).double()
    optimiser = torch.optim.Adam(modulator.parameters(), lr=0.05)
    hidden = torch.randn(3, 4, HIDDEN, dtype=torch.float64)
    losses = []
    for _ in range(30):
        modulation = modulator(hidden, case.parameters)
        found = codd.couple(
            codd.CouplingSettings(coupling),
            modulator.plan,
            modulation.parameters,
            case.log_probs,
            case.values,
            case.observed,
            latent=modulation.latent,
        )
        loss = -found.log_prob(tokens).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < losses[0] - 0.05
    assert all(float(p.grad.abs().max()) > 0 for p in modulator.parameters())


def test_position_nodes_are_the_topmost_of_their_variable() -> None:
    for family in (pc.families.hmm, pc.families.gated_hmm):
        plan = pc.compile_circuit(family(3, 2, 4))
        assert position_nodes(plan) == (("state_0",), ("state_1",), ("state_2",))


def test_all_inputs_of_a_position_are_conditioned() -> None:
    second = pc.compile_circuit(pc.families.higher_order_hmm(3, 2, 2, 4))
    assert position_nodes(second)[1] == ("state_1_0", "state_1_1")
    modulator = codd.make_modulator("latent", second, HIDDEN)
    torch.nn.init.normal_(modulator.head.up.weight)
    latent = modulator(torch.randn(5, 3, HIDDEN), {}).latent
    assert latent is not None and len(latent) == 6
    assert all(own.shape == (5, 1) and own.abs().sum() > 0 for own in latent.values())


def test_misfits_are_named() -> None:
    tree = pc.compile_circuit(pc.families.binary_tree(4, 2, 3))
    x, y = pc.Input(0, num_units=2, num_categories=3), pc.Input(1, num_units=3, num_categories=3)
    uneven = pc.Circuit(pc.Sum(pc.KroneckerProduct(x, y), num_units=1))

    with pytest.raises(ConfigError, match="homogeneous hmm"):
        codd.make_modulator("parametric", tree, HIDDEN)
    with pytest.raises(ConfigError, match="equally many units"):
        codd.make_modulator("latent", pc.compile_circuit(uneven), HIDDEN)
    with pytest.raises(ConfigError, match="found 'telepathic'"):
        codd.make_modulator("telepathic", tree, HIDDEN)
