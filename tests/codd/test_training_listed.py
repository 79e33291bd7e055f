"""Likelihoods under listed categories equal the couplings' own, and enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings, couple
from codd.coupling.targets import list_top
from codd.errors import CouplingError
from codd.training.cache import CachedBatch
from codd.training.listed import listed_distribution, omitted_mass

V, WINDOW, B = 5, 4, 3
ALL = [CouplingSettings(kind) for kind in ("factorised", "product", "local", "copula")]


def circuit() -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(WINDOW, 3, V), seed=2).double()


def batch(top_k: int) -> tuple[CachedBatch, torch.Tensor]:
    """Cached windows, and the full log-probabilities they were made of."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(B, WINDOW, V, generator=generator)
    tokens = torch.randint(V, (B, WINDOW), generator=generator)
    masked = torch.tensor([[True, True, False, True], [True] * 4, [False, True, False, False]])
    full = logits.double().log_softmax(-1)
    log_probs, listing = list_top(full, top_k, include=tokens)
    return CachedBatch(
        tokens, masked, listing.categories, log_probs, listing.log_omitted, None
    ), full


@pytest.mark.parametrize("settings", ALL, ids=lambda s: s.kind)
def test_all_categories_listed_is_the_coupling_itself(settings: CouplingSettings) -> None:
    model, (rows, full) = circuit(), batch(V)
    parameters = model.log_parameters()
    exact = couple(settings, model.plan, parameters, full, rows.tokens, ~rows.masked)

    found = listed_distribution(settings, model.plan, parameters, rows).log_prob(rows.tokens)

    torch.testing.assert_close(found, exact.log_prob(rows.tokens))


@pytest.mark.parametrize("settings", ALL[1:], ids=lambda s: s.kind)
def test_gradients_are_the_couplings_own(settings: CouplingSettings) -> None:
    gradients = []
    for is_listed in (True, False):
        model, (rows, full) = circuit(), batch(V)
        parameters = model.log_parameters()
        if is_listed:
            found = listed_distribution(settings, model.plan, parameters, rows).log_prob(
                rows.tokens
            )
        else:
            exact = couple(settings, model.plan, parameters, full, rows.tokens, ~rows.masked)
            found = exact.log_prob(rows.tokens)
        found.sum().backward()
        gradients.append([weight.grad for weight in model.log_weights])

    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_short_list_equals_enumeration() -> None:
    model, (rows, full) = circuit(), batch(3)
    found = listed_distribution(ALL[1], model.plan, model.log_parameters(), rows).log_prob(
        rows.tokens
    )

    for row in range(B):
        worlds = torch.tensor(list(itertools.product(range(V), repeat=WINDOW)))
        free = rows.masked[row]
        fits = (worlds == rows.tokens[row])[:, ~free].all(1)
        inside = (worlds[..., None] == rows.categories[row]).any(-1)[:, free].all(1)
        worlds = worlds[fits & inside]
        own = full[row].gather(1, worlds.T).T[:, free].sum(1)
        scores = model.log_likelihood(worlds).detach() + own
        true = (worlds == rows.tokens[row]).all(1)
        expected = scores[true][0] - scores.logsumexp(0)
        torch.testing.assert_close(found[row], expected)


def test_the_bound_covers_what_leaves_the_list() -> None:
    rows, full = batch(3)
    inside = full.exp().gather(-1, rows.categories).sum(-1).masked_fill(~rows.masked, 1.0)
    leaves = 1 - inside.prod(-1)

    assert (omitted_mass(rows) >= leaves - 1e-6).all()
    assert (omitted_mass(rows) <= 1).all()


def test_a_contradiction_is_told() -> None:
    model, (rows, _) = circuit(), batch(3)
    emission = torch.zeros(3, V, dtype=torch.float64)
    emission[:, (int(rows.tokens[0, 2]) + 1) % V] = 1.0
    model.set_probabilities({"emission": emission})

    with pytest.raises(CouplingError, match="contradicts"):
        listed_distribution(ALL[-1], model.plan, model.log_parameters(), rows)
