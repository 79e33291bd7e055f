"""LearnSPN: the structure of a sum-product network from data, by splitting variables and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaincc
from torch import Tensor

from pcircuits.learning.history import Report, progress_bar
from pcircuits.learning.tables import CategoricalTable, PackedCircuit, log_distribution
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Product

_CLUSTERING_STEPS = 30
"""EM steps of one clustering: it only has to tell rows apart, the weights are counted after it."""


def learn_spn(
    values: Tensor | np.ndarray,
    *,
    num_categories: int | Sequence[int] | None = None,
    significance: float = 0.001,
    min_rows: int = 30,
    max_depth: int | None = None,
    num_clusters: int = 4,
    pseudocount: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> WeightedCircuit:
    """Learns a circuit's structure and weights from complete categorical data.

    Variables that fall into groups without significant dependence between them (pairwise G-tests)
    become a product; otherwise the rows are clustered (EM for a mixture of independent variables)
    and become a sum weighted by the clusters' sizes; single variables become inputs, and few rows
    independent variables (Gens and Domingos, "Learning the structure of sum-product networks", ICML
    2013). Meant for variables of few categories: each test takes O(N (sum of all V)^2) operations.

    Args:
        values: (N, L) integers.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        significance: Largest p-value at which two variables count as dependent.
        min_rows: Regions of fewer rows are not split further.
        max_depth: Most splits above an input; default no limit.
        num_clusters: Most clusters of one split of rows.
        pseudocount: Count added to every category of an input.
        seed: Seed of the clustering.
        progress: Whether to show a progress bar.

    Returns:
        The circuit, of nodes of one unit, and its float64 log-weights: `sums`, and `inputs_V` for
        every number of categories V.

    Raises:
        EvidenceError: If values do not fit.
        ValueError: If a setting is out of range.

    Examples:
        Two pairs, independent of each other:

        >>> coins = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(1000, 1)
        >>> rows = coins[:, [0, 0, 1, 1]]
        >>> model = pc.CircuitModel.of(pc.learn_spn(rows))
        >>> information = model.mutual_information().detach()
        >>> information[0, 0, 1:].round(decimals=1)  # ln 2 with variable 1, none with the others
        tensor([0.7000, 0.0000, 0.0000], dtype=torch.float64)
    """
    settings = _Settings(significance, min_rows, max_depth, num_clusters, pseudocount)
    table = CategoricalTable.of(values, num_categories)
    with progress_bar("learn_spn", shown=progress) as report:
        regions = _grown(table, settings, np.random.default_rng(seed), report)
    return _assembled(table, regions, pseudocount)


@dataclass(frozen=True)
class _Settings:
    significance: float
    min_rows: int
    max_depth: int | None
    num_clusters: int
    pseudocount: float

    def __post_init__(self) -> None:
        bounds = {
            "significance": (0 < self.significance < 1, "within 0 and 1"),
            "min_rows": (self.min_rows >= 2, ">= 2"),
            "max_depth": (self.max_depth is None or self.max_depth >= 1, ">= 1 or None"),
            "num_clusters": (self.num_clusters >= 2, ">= 2"),
            "pseudocount": (0 < self.pseudocount < np.inf, "finite and > 0"),
        }
        for name, (holds, expected) in bounds.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}; found {getattr(self, name)}")


@dataclass
class _Region:
    """Some rows and variables, and how they are split: by one of the two, or not at all."""

    rows: np.ndarray
    variables: np.ndarray
    depth: int
    parts: tuple[int, ...] = ()  # places of the parts in the list of regions
    split: Literal["rows", "variables", "none"] = "none"


def _grown(
    table: CategoricalTable, settings: _Settings, random: np.random.Generator, report: Report
) -> list[_Region]:
    """All regions, each before its parts; a list and not a recursion, for it may be deep."""
    regions = [_Region(np.arange(len(table.values)), np.arange(table.num_variables), 0)]
    finished = 0
    for region in regions:  # grows on the way
        parts = _parts(table, region, settings, random)
        region.parts = tuple(range(len(regions), len(regions) + len(parts)))
        if parts:
            same = len(parts[0].variables) == len(region.variables)
            region.split = "rows" if same else "variables"
        else:
            finished += region.rows.size
            report(finished / table.values.size, f"{len(regions)} regions")
        regions.extend(parts)
    return regions


def _parts(
    table: CategoricalTable, region: _Region, settings: _Settings, random: np.random.Generator
) -> list[_Region]:
    rows, variables, depth = region.rows, region.variables, region.depth + 1
    if len(variables) == 1:
        return []
    single = [_Region(rows, variables[i : i + 1], depth) for i in range(len(variables))]
    if len(rows) < settings.min_rows or depth == settings.max_depth:
        return single
    indicators = table.indicators(rows, variables)
    sizes = table.sizes[variables]
    label = _independent_groups(indicators, sizes, settings.significance)
    if label.max() > 0:
        groups = range(label.max() + 1)
        return [_Region(rows, variables[label == group], depth) for group in groups]
    label = _clusters(indicators, sizes, settings.num_clusters, random)
    clusters = np.unique(label)
    if len(clusters) == 1:
        return single
    return [_Region(rows[label == cluster], variables, depth) for cluster in clusters]


def _independent_groups(
    indicators: np.ndarray, sizes: np.ndarray, significance: float
) -> np.ndarray:
    """(D,) group of every variable: those that significant dependence connects.

    The statistic of the G-test, twice the number of rows times the mutual information, is compared
    with the chi-squared distribution; categories that do not occur add no degrees of freedom.
    """
    joint = (indicators.T @ indicators).astype(np.float64)
    margins = np.diag(joint)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = joint * np.log(joint * len(indicators) / np.outer(margins, margins))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    terms = np.where(joint > 0, terms, 0.0)
    statistic = 2 * np.add.reduceat(np.add.reduceat(terms, starts, axis=0), starts, axis=1)
    freedom = np.add.reduceat((margins > 0).astype(np.float64), starts) - 1
    degrees = np.outer(freedom, freedom)
    # The chi-square distribution's tail.
    tail = gammaincc(np.maximum(degrees, 1) / 2, statistic / 2)
    p_value = np.where(degrees > 0, tail, 1.0)
    _, label = connected_components(csr_array(p_value <= significance), directed=False)
    return np.asarray(label)


def _clusters(
    indicators: np.ndarray, sizes: np.ndarray, num_clusters: int, random: np.random.Generator
) -> np.ndarray:
    """(n,) cluster of every row: EM for a mixture of independent variables, started at rows."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    centres = _spread_rows(indicators, num_clusters, random)
    # Each cluster starts as a row blended with all rows, so that no category is impossible.
    profile = 0.5 * indicators[centres] + 0.5 * indicators.mean(0)
    log_weights = np.zeros(len(centres))
    for _ in range(_CLUSTERING_STEPS):
        scores = indicators @ np.log(profile + 1e-9).T.astype(np.float32) + log_weights
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        share /= share.sum(1, keepdims=True)
        log_weights = np.log(share.sum(0) + 1e-9)
        counts = share.T.astype(np.float32) @ indicators + 0.1
        profile = counts / np.repeat(np.add.reduceat(counts, starts, axis=1), sizes, axis=1)
    return np.asarray(share.argmax(1))


def _spread_rows(indicators: np.ndarray, num_rows: int, random: np.random.Generator) -> list[int]:
    """Rows that differ: each drawn in proportion to its squared distance from those before it.

    (Arthur and Vassilvitskii, "k-means++", SODA 2007.) Fewer if there are not so many different.
    """
    chosen = [int(random.integers(len(indicators)))]
    distance = np.full(len(indicators), np.inf)
    while len(chosen) < num_rows:
        newest = ((indicators - indicators[chosen[-1]]) ** 2).sum(1).astype(np.float64)
        distance = np.minimum(distance, newest)
        if not distance.any():
            break
        chosen.append(int(random.choice(len(distance), p=distance / distance.sum())))
    return chosen


def _assembled(
    table: CategoricalTable, regions: Sequence[_Region], pseudocount: float
) -> WeightedCircuit:
    """The circuit of the regions, the last ones first."""
    packed = PackedCircuit()
    nodes: dict[int, AnyNode] = {}
    absorbed = {
        part for region in regions for part in region.parts if regions[part].split == region.split
    }
    for place in reversed(range(len(regions))):
        region = regions[place]
        if place in absorbed:
            continue
        if region.split == "none":
            variable = int(region.variables[0])
            counts = table.counts(region.rows, variable)
            nodes[place] = packed.input(variable, log_distribution(counts, pseudocount))
            continue
        parts = list(_flat_parts(regions, place))
        children = [nodes[part] for part in parts]
        if region.split == "variables":
            nodes[place] = Product(*children)
        else:
            sizes = np.array([len(regions[part].rows) for part in parts], dtype=np.float64)
            nodes[place] = packed.sum(children, np.log(sizes / sizes.sum())[None])
    return packed.weighted(nodes[0])


def _flat_parts(regions: Sequence[_Region], place: int) -> Iterator[int]:
    """The parts of a region; a part split in the same way gives its own: weights multiply out."""
    open_parts = [*reversed(regions[place].parts)]
    while open_parts:
        part = open_parts.pop()
        if regions[part].split == regions[place].split:
            open_parts.extend(reversed(regions[part].parts))
        else:
            yield part
