"""Every coupling on every kind of circuit, under every modulator, against enumeration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.distribution import TokenDistribution
from tests.support.coupling_worlds import coupled_worlds
from tests.support.enumeration import Enumeration

W, V, B, D = 4, 3, 3, 5
PAIRS = [(i, j) for i in range(W) for j in range(W) if i != j]


def _custom() -> pc.Circuit:
    """A circuit by hand: two splits of the window, units of different numbers."""
    x = [pc.Input(i, num_units=2, num_categories=V) for i in range(W)]
    first = pc.Sum(pc.KroneckerProduct(x[0], x[1]), num_units=3)
    second = pc.Sum(pc.Product(x[2], x[3]), num_units=3)
    crossed = pc.Sum(pc.Product(x[0], x[2]), num_units=2)
    rest = pc.Sum(pc.Product(x[1], x[3]), num_units=2)
    left, right = pc.Product(first, second), pc.Product(crossed, rest)
    return pc.Circuit(pc.Sum(left, right, num_units=1))


CIRCUITS = {
    "hmm": lambda: pc.families.hmm(W, 3, V),
    "monarch": lambda: pc.families.monarch_hmm(W, 4, V),
    "binary tree": lambda: pc.families.binary_tree(W, 2, V),
    "hidden Chow-Liu tree": lambda: pc.families.hidden_chow_liu([-1, 0, 0, 2], 3, V),
    "mixture": lambda: pc.families.mixture(W, 3, V),
    "custom": _custom,
}
CASES = [(name, kind) for name in CIRCUITS for kind in ("static", "latent")]
CASES.append(("hmm", "parametric"))


@dataclass(frozen=True, eq=False)
class Coupled:
    """A coupling, and all worlds of its definition."""

    joint: TokenDistribution
    worlds: Enumeration


def _coupled(circuit: str, modulator: str, kind: str) -> Coupled:
    torch.manual_seed(0)
    model = pc.CircuitModel(CIRCUITS[circuit](), seed=0).double()
    head = codd.make_modulator(modulator, model.plan, D, rank=3).double()
    for weight in (*model.log_weights, *head.parameters()):
        torch.nn.init.normal_(weight)
    log_probs = torch.randn(B, W, V, dtype=torch.float64).log_softmax(-1)
    values = torch.randint(V, (B, W))
    observed = torch.zeros(B, W, dtype=torch.bool)
    observed[0, 1] = observed[1, 0] = observed[1, 3] = True
    own, settings = (log_probs, values, observed), codd.CouplingSettings(kind)
    with torch.no_grad():
        made = head(torch.randn(B, W, D).double(), model.log_parameters())
        joint = codd.couple(settings, head.plan, made.parameters, *own, latent=made.latent)
        worlds = coupled_worlds(
            settings, head.plan.circuit, made.parameters, *own, latent=made.latent
        )
    return Coupled(joint, worlds)


@pytest.mark.parametrize(("circuit", "modulator"), CASES)
@pytest.mark.parametrize("kind", codd.COUPLINGS)
def test_couplings_equal_enumeration(circuit: str, modulator: str, kind: str) -> None:
    case = _coupled(circuit, modulator, kind)
    joint, worlds = case.joint, case.worlds

    every = torch.from_numpy(worlds.worlds)
    found = torch.stack([joint.log_prob(world.expand(B, -1)) for world in every], 1).exp()
    np.testing.assert_allclose(found, worlds.world_probabilities(), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(joint.marginals(), worlds.marginals(), rtol=1e-8, atol=1e-12)
    information = joint.mutual_information()
    for i, j in PAIRS:
        pair = worlds.pairwise(i, j)
        alone = pair.sum(2, keepdims=True) * pair.sum(1, keepdims=True)
        ratio = np.where(pair > 0, pair, 1.0) / np.where(pair > 0, alone, 1.0)
        np.testing.assert_allclose(
            information[:, i, j], (pair * np.log(ratio)).sum((1, 2)), atol=1e-9
        )


@pytest.mark.parametrize(("circuit", "modulator"), CASES)
@pytest.mark.parametrize("kind", codd.COUPLINGS)
def test_couplings_are_sampled_and_fixed_token_by_token(
    circuit: str, modulator: str, kind: str
) -> None:
    case = _coupled(circuit, modulator, kind)
    probabilities = case.worlds.world_probabilities()
    drawn = case.joint.sample(4000, generator=torch.Generator().manual_seed(1))[2]
    _follows(drawn @ torch.tensor([V ** (W - 1 - i) for i in range(W)]), probabilities[2])

    token, fixed = torch.tensor([2, 1, 0]), torch.full((B,), 2)
    conditioner = case.joint.conditioner()
    conditioner.fix(fixed, token, torch.ones(B, dtype=torch.bool))
    rest = probabilities * (case.worlds.worlds[None, :, 2] == token[:, None].numpy())
    rest /= rest.sum(1, keepdims=True)
    free = ~case.joint.observed & (torch.arange(W) != 2)
    found = conditioner.marginals(free)
    for i in range(W):
        one_hot, rows = case.worlds.worlds[:, i, None] == np.arange(V), free[:, i].numpy()
        np.testing.assert_allclose(found[rows, i], (rest @ one_hot)[rows], atol=1e-10)


def _follows(codes: Tensor, expected: np.ndarray) -> None:
    counts = torch.bincount(codes, minlength=len(expected)).numpy()
    assert counts[expected == 0].sum() == 0
    rare = expected * len(codes) < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    there = expected > 0
    assert chisquare(counts[there], expected[there] * len(codes)).pvalue > 1e-4
