"""Starting points: k-means, and parameters counted from given hidden units."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError
from pcircuits.learning.distillation import distil_latents, initialise_kmeans, latent_nodes
from pcircuits.learning.initialise import initialise_random, kmeans
from pcircuits.structure.families.hidden_chow_liu import hidden_chow_liu


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clusters(num_rows: int = 90) -> tuple[Tensor, Tensor]:
    """Rows of five categories near one of three prototypes, and which."""
    truth = torch.arange(num_rows) % 3
    prototypes = torch.tensor([[0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2], [4, 4, 4, 4, 4, 4]])
    noise = torch.rand((num_rows, 6), generator=_generator()) < 0.15
    random = torch.randint(5, (num_rows, 6), generator=_generator(1))
    return torch.where(noise, random, prototypes[truth]), truth


def test_random_starts_depend_on_the_seed_alone() -> None:
    models = [pc.CircuitModel(pc.families.hmm(4, 2, 3), seed=i) for i in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        initialise_random(model, seed=seed)

    transitions = [model.probabilities()["transition"] for model in models]
    assert torch.equal(transitions[0], transitions[1])
    assert not torch.equal(transitions[0], transitions[2])


# k-means.


def test_clusters_that_lie_apart_are_found() -> None:
    truth = torch.arange(60) % 4
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    points = corners[truth] + torch.randn((60, 2), generator=_generator())

    cluster, centres = kmeans(points, 4)

    for k in range(4):
        own = cluster[truth == k]
        assert bool((own == own[0]).all())
        torch.testing.assert_close(centres[own[0]], points[truth == k].mean(0))


def test_every_point_ends_at_its_nearest_centre_and_centres_are_means() -> None:
    points, weights = torch.rand((50, 3), generator=_generator()), torch.arange(1.0, 51.0)

    cluster, centres = kmeans(points, 5, weights=weights, max_steps=500)

    assert torch.equal(cluster, torch.cdist(points, centres).argmin(1))
    for k in range(5):
        own = cluster == k
        mean = (points[own] * weights[own, None]).sum(0) / weights[own].sum()
        torch.testing.assert_close(centres[k], mean)


def test_more_clusters_than_points_leave_some_empty() -> None:
    cluster, centres = kmeans(torch.tensor([[0, 0], [1, 1], [0, 0]]), 5)

    assert cluster[0] == cluster[2] != cluster[1]
    assert centres.shape == (5, 2)


@pytest.mark.parametrize(
    "points, number, error",
    [
        (torch.zeros(0, 2), 2, EvidenceError),
        (torch.zeros(3), 2, EvidenceError),
        (torch.tensor([[torch.nan]]), 2, EvidenceError),
        (torch.zeros(3, 2), 0, ValueError),
    ],
)
def test_points_that_are_none_are_refused(
    points: Tensor, number: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        kmeans(points, number)


# Distillation.


def test_a_mixture_with_given_components_is_counted() -> None:
    values, truth = _clusters()
    weights = torch.arange(1.0, 91.0).double()
    model = pc.CircuitModel(pc.families.mixture(6, 3, 5), seed=3).double()

    distil_latents(model, values, {"components": truth}, weights=weights, pseudocount=0.5)

    share = torch.zeros(3).double().index_add(0, truth, weights)
    found = model.probabilities()
    torch.testing.assert_close(found["weights"], (share + 0.5 / 3) / (share.sum() + 0.5))
    for i in range(6):
        counts = (
            torch.zeros(3, 5).double().index_put((truth, values[:, i]), weights, accumulate=True)
        )
        expected = (counts + 0.5 / 5) / (counts.sum(1, keepdim=True) + 0.5)
        torch.testing.assert_close(found[f"input_{i}"], expected)


def test_a_chain_with_given_states_is_counted() -> None:
    values = torch.randint(3, (50, 4), generator=_generator())
    states = torch.randint(2, (50, 4), generator=_generator(1))
    model = pc.CircuitModel(pc.families.hmm(4, 2, 3, homogeneous=False), seed=1).double()

    distil_latents(model, values, {f"state_{i}": states[:, i] for i in range(4)}, pseudocount=0.0)

    found = model.probabilities()
    for i, k in itertools.product(range(4), range(2)):
        own = values[states[:, i] == k, i]
        expected = torch.bincount(own, minlength=3).double() / len(own)
        torch.testing.assert_close(found[f"emission_{i}"][k], expected)
        if i < 3:
            following = states[states[:, i] == k, i + 1]
            expected = torch.bincount(following, minlength=2).double() / len(following)
            torch.testing.assert_close(found[f"transition_{i}"][k], expected)


def test_unknown_assignments_are_filled_in() -> None:
    """As EM with those rows' components known: the responsibilities of the others by hand."""
    values, truth = _clusters(12)
    some = torch.where(torch.arange(12) < 6, truth, -1)
    model = pc.CircuitModel(pc.families.mixture(6, 3, 5)).double()
    before = model.probabilities()
    emitted = torch.stack([before[f"input_{i}"][:, values[:, i]] for i in range(6)]).prod(0)
    share = (before["weights"][:, None] * emitted).T
    share = share / share.sum(1, keepdim=True)
    share[:6] = torch.nn.functional.one_hot(truth[:6], 3).double()

    distil_latents(model, values, {"components": some}, pseudocount=1e-12)

    torch.testing.assert_close(model.probabilities()["weights"], share.mean(0))


@pytest.mark.parametrize(
    "assignments, message",
    [
        ({"nowhere": torch.zeros(4, dtype=torch.long)}, "'nowhere' is not a node"),
        ({"components": torch.tensor([0, 1, 3, 0])}, "hold 3; expected units 0 .. 2"),
        ({"components": torch.tensor([0, 1])}, "must be 4 integers"),
        ({"components": torch.zeros(4)}, "must be 4 integers"),
    ],
)
def test_assignments_that_are_none_are_refused(
    assignments: dict[str, Tensor], message: str
) -> None:
    model = pc.CircuitModel(pc.families.mixture(6, 3, 5))

    with pytest.raises(EvidenceError, match=message):
        distil_latents(model, _clusters(4)[0], assignments)


# Both together.


def test_kmeans_starts_a_mixture_near_its_clusters() -> None:
    values, truth = _clusters()
    model, random = (pc.CircuitModel(pc.families.mixture(6, 3, 5)) for _ in range(2))
    pc.fit_em(random, values, epochs=2, progress=False)

    assignments = initialise_kmeans(model, values)

    pairs = {(int(a), int(b)) for a, b in zip(assignments["components"], truth, strict=True)}
    assert len(pairs) == 3
    assert model.log_likelihood(values).mean() > random.log_likelihood(values).mean() + 0.2


def test_kmeans_fills_missing_values_and_takes_features() -> None:
    values, truth = _clusters()
    observed = torch.rand(values.shape, generator=_generator(4)) < 0.7
    unreadable = torch.where(observed, values, -1)
    model, by_features = (pc.CircuitModel(pc.families.mixture(6, 3, 5)) for _ in range(2))
    embeddings = torch.nn.functional.one_hot(truth, 3).float()

    initialise_kmeans(model, unreadable, observed=observed)
    found = initialise_kmeans(by_features, values, features={"components": embeddings})

    assert model.log_likelihood(values).mean() > -8
    pairs = {(int(a), int(b)) for a, b in zip(found["components"], truth, strict=True)}
    assert len(pairs) == 3


def test_nodes_to_cluster_for_are_untied_choices() -> None:
    tree = hidden_chow_liu([-1, 0, 0, 1], 2, 3)

    assert set(latent_nodes(tree)) == {"subtree_0", "subtree_1", "state_2", "state_3"}
    assert latent_nodes(pc.families.mixture(6, 3, 5)) == ("components",)
    assert latent_nodes(pc.families.hmm(4, 2, 3)) == ()
    with pytest.raises(ValueError, match="name the nodes"):
        initialise_kmeans(
            pc.CircuitModel(pc.families.hmm(4, 2, 3)), torch.zeros(3, 4, dtype=torch.long)
        )


def test_units_without_rows_do_not_stay_alike() -> None:
    values = torch.tensor([[0, 0, 0, 0, 0, 0], [4, 4, 4, 4, 4, 4]] * 10)
    model = pc.CircuitModel(pc.families.mixture(6, 5, 5))

    initialise_kmeans(model, values)

    units = model.probabilities()["input_0"]
    assert all(not torch.allclose(units[i], units[j]) for i in range(5) for j in range(i))
