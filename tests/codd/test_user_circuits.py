"""Any circuit of the window's length couples, samples and writes; names say what conditions it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.decoding.samplers import SamplingRule, any_order
from codd.errors import ConfigError, CouplingError
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.schedule import Schedule
from tests.support.coupled import TEXT, tiny_model

W = 8


def _by_hand(size: int) -> pc.Circuit:
    """Two splits of the window, mixed."""
    x = [pc.Input(i, num_units=3, num_categories=size) for i in range(W)]

    def joined(left: pc.Sum | pc.Input, right: pc.Sum | pc.Input, units: int) -> pc.Sum:
        return pc.Sum(pc.KroneckerProduct(left, right), num_units=units)

    pairs = [joined(x[i], x[i + 1], 3) for i in range(0, W, 2)]
    far = [joined(x[i], x[i + 4], 3) for i in range(4)]
    roots = []
    for four in (pairs, far):
        halves = joined(four[0], four[1], 3), joined(four[2], four[3], 3)
        roots.append(joined(*halves, 1))
    return pc.Circuit(pc.Sum(*roots, num_units=1))


CIRCUITS: dict[str, Callable[[int], pc.Circuit]] = {
    "Monarch HMM": lambda size: pc.families.monarch_hmm(W, 9, size),
    "second-order HMM": lambda size: pc.families.higher_order_hmm(W, 2, 3, size),
    "binary tree": lambda size: pc.families.binary_tree(W, 4, size),
    "hidden Chow-Liu tree": lambda size: pc.families.hidden_chow_liu(
        [-1, 0, 1, 1, 3, 3, 0, 6], 4, size
    ),
    "RAT": lambda size: pc.families.random_binary_tree(W, 3, size, seed=1, repetitions=2),
    "by hand": _by_hand,
}
DRAWN = {
    "exact": {"coupling": codd.CouplingSettings("copula", top_k=6)},
    "any_order": {"sampler": "any_order", "temperature": 0.5},
}


def _model(name: str, modulator: str) -> codd.CoupledModel:
    one = tiny_model()
    circuit = pc.CircuitModel(CIRCUITS[name](one.num_categories), seed=4)
    head = codd.make_modulator(modulator, circuit.plan, one.denoiser.hidden_size, rank=3)
    torch.manual_seed(6)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return codd.CoupledModel(one.denoiser, circuit, head, one.vocabulary, block_length=4).eval()


def _tokens(model: codd.CoupledModel) -> Tensor:
    tokens = model.vocabulary.encode(TEXT[:12]).repeat(2, 1)
    tokens[0, 5::2] = model.mask_id
    tokens[1, 6:] = model.mask_id
    return tokens


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("modulator", ["static", "latent"])
@torch.no_grad()
def test_a_circuit_of_the_window_s_length_goes_all_the_way(name: str, modulator: str) -> None:
    model = _model(name, modulator)
    tokens = _tokens(model)
    for kind, top_k in (("product", 6), ("local", None), ("copula", 6)):
        joint = model.joint(tokens, coupling=codd.CouplingSettings(kind, top_k=top_k))
        torch.testing.assert_close(joint.marginals().sum(-1), torch.ones(2, W))
        drawn = joint.sample(2, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(joint.log_prob(drawn[:, 1])).all()
        free = ~joint.observed
        rule, generator = SamplingRule("low_confidence"), torch.Generator().manual_seed(0)
        found = any_order(joint, free, free.sum(1), rule, generator)
        assert torch.isfinite(joint.log_prob(found.tokens)).all()
    options = DRAWN["any_order" if modulator == "latent" else "exact"]
    (text,) = model.generate("the cat", new_tokens=8, steps=4, **options)
    assert len(text) == 15


def test_what_does_not_apply_is_told_apart() -> None:
    one = tiny_model()
    size = one.num_categories
    tree = pc.compile_circuit(pc.families.binary_tree(W, 3, size))
    with pytest.raises(ConfigError, match="parametric modulator needs a homogeneous hmm"):
        codd.make_modulator("parametric", tree, 16)
    with pytest.raises(ConfigError, match="circuit has"):
        other = pc.CircuitModel(pc.families.hmm(W, 3, size + 1))
        head = codd.make_modulator("static", other.plan, 16)
        codd.CoupledModel(one.denoiser, other, head, one.vocabulary, block_length=4)
    long = pc.CircuitModel(pc.families.hmm(40, 2, size))
    head = codd.make_modulator("static", long.plan, 16)
    with pytest.raises(ConfigError, match="window <= max_length"):
        codd.CoupledModel(one.denoiser, long, head, one.vocabulary, block_length=4)


@pytest.mark.parametrize("modulator", ["latent", "parametric"])
@pytest.mark.parametrize("kind", codd.COUPLINGS[1:])
@torch.no_grad()
def test_a_name_says_whether_hidden_states_condition(modulator: str, kind: str) -> None:
    model, plain = tiny_model(modulator=modulator), tiny_model(modulator="static")
    tokens = _tokens(model)

    def marginals(own: codd.CoupledModel, coupling: str | codd.CouplingSettings) -> Tensor:
        return own.joint(tokens, coupling=coupling).marginals()

    conditioned = marginals(model, kind)
    assert torch.equal(marginals(model, f"conditioned-{kind}"), conditioned)
    control = marginals(model, f"static-{kind}")
    torch.testing.assert_close(control, marginals(plain, kind))
    settings = codd.CouplingSettings(kind, conditioned=False)
    assert torch.equal(marginals(model, settings), control)
    stepped = model.captured_distribution(
        model.denoise(tokens), tokens, torch.full((2,), 4), coupling=settings
    )
    torch.testing.assert_close(stepped.marginals(), control)
    if kind != "copula" or modulator == "latent":
        assert not torch.allclose(control, conditioned, atol=1e-4)
    assert model.generate("the", new_tokens=4, steps=2, coupling=f"static-{kind}")


def test_a_static_model_cannot_be_conditioned() -> None:
    model = tiny_model(modulator="static")
    with pytest.raises(CouplingError, match="found a static one"):
        model.joint(_tokens(model), coupling="conditioned")


@pytest.mark.parametrize("kind", codd.COUPLINGS)
@torch.no_grad()
def test_a_new_latent_head_starts_at_the_unconditioned_model(kind: str) -> None:
    model = tiny_model(modulator="static")
    head = codd.make_modulator("latent", model.circuit.plan, model.denoiser.hidden_size)
    new = codd.CoupledModel(
        model.denoiser, model.circuit, head, model.vocabulary, block_length=4
    ).eval()
    tokens = _tokens(model)

    found, expected = (own.joint(tokens, coupling=kind).marginals() for own in (new, model))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_does_not_condition_is_not_trained(tmp_path: Path) -> None:
    model = tiny_model()
    model.settings = replace(model.settings, conditioned=False)
    tokens = model.vocabulary.encode(TEXT * 10)
    with pytest.raises(ConfigError, match="nothing would be trained"):
        train_coupling(
            model,
            tokens,
            tokens[:32].view(2, 16),
            CouplingTraining(batch_size=4),
            Schedule(steps=2),
            tmp_path,
            {},
            show_progress=False,
        )
