"""Starting points for learning: random ones, and clusters of rows that units are to stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.errors import EvidenceError
from pcircuits.learning.objective import Learnable
from pcircuits.parameters import random_parameters

# Rows whose distances to all centres are held at once.
_CHUNK = 16384


def initialise_random(model: Learnable, *, seed: int = 0, spread: float = 0.5) -> None:
    """Replaces a model's parameters by random ones.

    Args:
        model: A model such as `CircuitModel`, updated in place.
        seed: Seed; each parameter has its own stream, derived from it and the parameter's name.
        spread: Standard deviation of the log-weights before they are normalised.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(3, num_components=2, num_categories=2))
        >>> pc.initialise_random(model, seed=1, spread=0.0)
        >>> model.probabilities()["weights"]  # without spread all are alike
        tensor([0.5000, 0.5000])
    """
    model.set_log_parameters(random_parameters(model.plan, seed=seed, spread=spread))


@torch.no_grad()
def kmeans(
    points: Tensor,
    num_clusters: int,
    *,
    weights: Tensor | None = None,
    max_steps: int = 50,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Clusters points by Lloyd's algorithm from k-means++ centres.

    The start is that of Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding",
    SODA 2007. A cluster that loses all its points moves to the point farthest from its centre.

    Args:
        points: (N, D) floats.
        num_clusters: Number of clusters K. With fewer different points some stay empty.
        weights: (N,) how often each point counts; default once.
        max_steps: Largest number of steps; it ends earlier when nothing changes.
        seed: Seed.

    Returns:
        (N,) cluster of each point, and (K, D) centres.

    Raises:
        EvidenceError: If points are not a finite matrix with at least one row.
        ValueError: If num_clusters or max_steps is not positive.

    Examples:
        >>> points = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> clusters, centres = pc.kmeans(points, num_clusters=2)
        >>> centres[clusters].flatten()  # the centre of every point
        tensor([0.1000, 0.1000, 5.1000, 5.1000])
    """
    if num_clusters < 1 or max_steps < 1:
        raise ValueError(
            f"num_clusters and max_steps must be >= 1; found {num_clusters}, {max_steps}"
        )
    if points.ndim != 2 or len(points) == 0 or not bool(torch.isfinite(points).all()):
        raise EvidenceError(
            f"points must be a finite (N, D) tensor with rows; found {tuple(points.shape)}"
        )
    points = points.float() if not points.is_floating_point() else points
    each = points.new_ones(len(points)) if weights is None else weights.to(points)
    centres = _spread_centres(points, each, num_clusters, torch.Generator().manual_seed(seed))
    cluster, distance = _nearest(points, centres)
    for _ in range(max_steps):
        centres = _means(points, each, cluster, distance, centres)
        previous = cluster
        cluster, distance = _nearest(points, centres)
        if torch.equal(cluster, previous):
            break
    return cluster, centres


def _spread_centres(
    points: Tensor, weights: Tensor, num_clusters: int, generator: torch.Generator
) -> Tensor:
    """Points drawn one after the other, by their squared distance to those already drawn."""
    chance = weights.double().cpu()
    chosen: list[Tensor] = []
    nearest = torch.full_like(chance, torch.inf)
    for _ in range(num_clusters):
        total = chance.sum()
        # All points are centres already: more of them can only repeat one.
        drawn = chance if bool(total > 0) else weights.double().cpu()
        index = int(torch.multinomial(drawn / drawn.sum(), 1, generator=generator))
        chosen.append(points[index])
        distance = (points - points[index]).square().sum(1).double().cpu()
        nearest = torch.minimum(nearest, distance)
        chance = nearest * weights.double().cpu()
    return torch.stack(chosen)


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) nearest centre of each point, and the distance to it."""
    found = [torch.cdist(part, centres).min(1) for part in points.split(_CHUNK)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def _means(
    points: Tensor, weights: Tensor, cluster: Tensor, distance: Tensor, centres: Tensor
) -> Tensor:
    totals = weights.new_zeros(len(centres)).index_add(0, cluster, weights)
    sums = torch.zeros_like(centres).index_add(0, cluster, points * weights[:, None])
    means = torch.where(totals[:, None] > 0, sums / totals.clamp_min(1e-30)[:, None], centres)
    empty = (totals == 0).nonzero()[:, 0]
    if len(empty):
        farthest = distance.topk(min(len(empty), len(points))).indices
        means[empty[: len(farthest)]] = points[farthest]
    return means
