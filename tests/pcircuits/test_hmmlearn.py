"""Hidden Markov models against hmmlearn's, which is an implementation of its own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import pcircuits as pc

with warnings.catch_warnings():
    # What it imports in turn may be ahead of it; that is not this package's business.
    warnings.simplefilter("ignore")
    from hmmlearn import hmm

STATES, CATEGORIES, LENGTH = 4, 6, 15


@pytest.fixture
def theirs() -> object:
    generator = np.random.default_rng(0)
    model = hmm.CategoricalHMM(STATES, n_features=CATEGORIES, init_params="")
    model.startprob_ = generator.dirichlet(np.ones(STATES))
    model.transmat_ = generator.dirichlet(np.ones(STATES), size=STATES)
    model.emissionprob_ = generator.dirichlet(np.ones(CATEGORIES), size=STATES)
    return model


@pytest.fixture
def ours(theirs: object) -> pc.CircuitModel:
    model = pc.CircuitModel(pc.families.hmm(LENGTH, STATES, CATEGORIES)).double()
    model.set_probabilities(
        {
            "initial": torch.as_tensor(theirs.startprob_),
            "transition": torch.as_tensor(theirs.transmat_),
            "emission": torch.as_tensor(theirs.emissionprob_),
        }
    )
    return model


@pytest.fixture
def sequences() -> np.ndarray:
    return np.random.default_rng(1).integers(CATEGORIES, size=(20, LENGTH))


def test_log_likelihoods_are_equal(
    ours: pc.CircuitModel, theirs: object, sequences: np.ndarray
) -> None:
    expected = [theirs.score(row[:, None]) for row in sequences]

    found = ours.log_likelihood(torch.as_tensor(sequences))

    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_posteriors_over_states_are_equal(
    ours: pc.CircuitModel, theirs: object, sequences: np.ndarray
) -> None:
    """Ours are the gradient of log Z for latent log-potentials of zero."""
    latent = {
        f"state_{t}": torch.zeros(len(sequences), STATES, dtype=torch.float64).requires_grad_()
        for t in range(LENGTH)
    }
    evidence = pc.Evidence(torch.as_tensor(sequences), latent_log_potentials=latent)

    found = torch.autograd.grad(ours.log_evidence(evidence).sum(), list(latent.values()))

    expected = np.stack([theirs.predict_proba(row[:, None]) for row in sequences])
    np.testing.assert_allclose(torch.stack(found, dim=1).numpy(), expected, rtol=1e-6, atol=1e-6)
    queried = ours.latent_marginals(pc.Evidence(torch.as_tensor(sequences)), list(latent))
    for one, other in zip(found, queried.values(), strict=True):
        torch.testing.assert_close(one, other)


def test_one_step_of_em_is_one_of_baum_welch(
    ours: pc.CircuitModel, theirs: object, sequences: np.ndarray
) -> None:
    theirs.n_iter = 1
    lengths = [LENGTH] * len(sequences)

    pc.fit_em(ours, torch.as_tensor(sequences), epochs=1, pseudocount=0.0, progress=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(sequences.reshape(-1, 1), lengths)
    found = ours.probabilities()
    for name, expected in [
        ("initial", theirs.startprob_),
        ("transition", theirs.transmat_),
        ("emission", theirs.emissionprob_),
    ]:
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_missing_steps_are_those_of_the_shorter_chain(
    ours: pc.CircuitModel, theirs: object, sequences: np.ndarray
) -> None:
    """A chain whose tail is missing is the chain that ends earlier."""
    end = LENGTH // 2
    observed = torch.arange(LENGTH).expand(len(sequences), LENGTH) < end

    found = ours.log_likelihood(torch.as_tensor(sequences), observed)

    expected = [theirs.score(row[:end, None]) for row in sequences]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6, atol=1e-6)
