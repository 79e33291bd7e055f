"""Cutset networks: deterministic circuits from data, decisions above Chow-Liu trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pcircuits.learning.chow_liu import spanning_tree
from pcircuits.learning.history import Report, progress_bar
from pcircuits.learning.tables import CategoricalTable, PackedCircuit, log_distribution
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Input, Product


def cutset_network(
    values: Tensor | np.ndarray,
    *,
    num_categories: int | Sequence[int] | None = None,
    min_rows: int = 50,
    max_depth: int | None = None,
    penalty: float = 1.0,
    pseudocount: float = 1.0,
    progress: bool = False,
) -> WeightedCircuit:
    """Learns a deterministic circuit from complete categorical data.

    A tree of decisions, each on the value of one variable, with a Chow-Liu tree of the other
    variables at every end (Rahman, Kothalkar and Gogate, "Cutset networks", ECML 2014). The
    variable decided is the one that lowers the others' entropy most. A decision is kept while it
    raises the rows' log-likelihood by more than the Bayesian information criterion asks for its
    parameters. Exactly one branch is possible in any world, so maxima, entropies and divergences
    are exact on it. Cost: O(N L^2 V^2) for each level of decisions.

    Args:
        values: (N, L) integers.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        min_rows: Fewer rows are not split by a decision.
        max_depth: Most decisions one above the other; default no limit, 0 gives a Chow-Liu tree.
        penalty: Weight of the criterion: nats asked for each new parameter, in units of half the
            logarithm of the number of rows. Zero keeps every decision that helps.
        pseudocount: Count added to every pair of categories, and to every branch of a decision.
        progress: Whether to show a progress bar.

    Returns:
        The circuit and its float64 log-weights, all in the parameter `sums`.

    Raises:
        EvidenceError: If values do not fit.
        ValueError: If a setting is out of range.

    Examples:
        Variable 0 decides whether variable 2 repeats or negates variable 1:

        >>> rows = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]).repeat(50, 1)
        >>> model = pc.CircuitModel.of(pc.cutset_network(rows, min_rows=20))
        >>> worlds = torch.tensor([[0, 1, 1], [0, 1, 0]])
        >>> model.log_likelihood(worlds).exp().detach().round(decimals=2)
        tensor([0.2500, 0.0000], dtype=torch.float64)
        >>> pc.validate(model.circuit).deterministic
        True
    """
    settings = _Settings(min_rows, max_depth, penalty, pseudocount)
    table = CategoricalTable.of(values, num_categories)
    with progress_bar("cutset_network", shown=progress) as report:
        regions = _grown(table, settings, report)
    return _assembled(table, regions, settings)


@dataclass(frozen=True)
class _Settings:
    min_rows: int
    max_depth: int | None
    penalty: float
    pseudocount: float

    def __post_init__(self) -> None:
        bounds = {
            "min_rows": (self.min_rows >= 1, ">= 1"),
            "max_depth": (self.max_depth is None or self.max_depth >= 0, ">= 0 or None"),
            "penalty": (0 <= self.penalty < np.inf, "finite and >= 0"),
            "pseudocount": (0 < self.pseudocount < np.inf, "finite and > 0"),
        }
        for name, (holds, expected) in bounds.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}; found {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class _Tree:
    """A Chow-Liu tree of some variables, fitted to some rows.

    Attributes:
        variables: (D,) the variables.
        parents: (D,) place of every variable's parent; -1 at the root.
        log_weights: For every variable (V of the parent, V); (1, V) at the root.
        log_likelihood: Of the rows that it was fitted to, in nats.
        influence: (D,) sum of the mutual information of each variable with all others.
    """

    variables: np.ndarray
    parents: tuple[int, ...]
    log_weights: tuple[np.ndarray, ...]
    log_likelihood: float
    influence: np.ndarray

    @property
    def num_parameters(self) -> int:
        """Free parameters."""
        return sum(len(weights) * (weights.shape[1] - 1) for weights in self.log_weights)


@dataclass
class _Region:
    """Some rows with the tree of the variables that are not decided yet, and the next decision."""

    rows: np.ndarray
    tree: _Tree
    depth: int
    decision: int | None = None
    parts: tuple[int, ...] = ()  # places of the parts in the list of regions, by category


def _grown(table: CategoricalTable, settings: _Settings, report: Report) -> list[_Region]:
    """All regions, each before its parts."""
    every = np.arange(len(table.values))
    regions = [_Region(every, _fitted(table, every, np.arange(table.num_variables), settings), 0)]
    finished = 0
    for region in regions:  # grows on the way
        parts = _parts(table, region, settings)
        if parts:
            region.decision = _decision(region.tree)
            region.parts = tuple(range(len(regions), len(regions) + len(parts)))
            regions.extend(parts)
        else:
            finished += len(region.rows)
            report(finished / len(every), f"{len(regions)} regions")
    return regions


def _decision(tree: _Tree) -> int:
    """The variable whose value lowers the others' entropy most."""
    return int(tree.variables[tree.influence.argmax()])


def _parts(table: CategoricalTable, region: _Region, settings: _Settings) -> list[_Region]:
    """The regions of a decision, one a category; none if it is not worth its parameters."""
    rows, tree, depth = region.rows, region.tree, region.depth
    if len(tree.variables) == 1 or len(rows) < settings.min_rows or depth == settings.max_depth:
        return []
    chosen = _decision(tree)
    others = tree.variables[tree.variables != chosen]
    counts = table.counts(rows, chosen)
    parts = []
    for category in range(table.sizes[chosen]):
        inside = rows[table.values[rows, chosen] == category]
        parts.append(_Region(inside, _fitted(table, inside, others, settings), depth + 1))
    after = float(counts @ log_distribution(counts, settings.pseudocount))
    after += sum(part.tree.log_likelihood for part in parts)
    added = sum(part.tree.num_parameters for part in parts) + len(counts) - 1
    asked = settings.penalty * (added - tree.num_parameters) * np.log(len(table.values)) / 2
    return parts if after - tree.log_likelihood > asked else []


def _fitted(
    table: CategoricalTable, rows: np.ndarray, variables: np.ndarray, settings: _Settings
) -> _Tree:
    indicators = table.indicators(rows, variables)
    joint = (indicators.T @ indicators).astype(np.float64)
    sizes = table.sizes[variables]
    information = _mutual_information(joint, sizes, len(rows), settings.pseudocount)
    parents = spanning_tree(information) if len(variables) > 1 else (-1,)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    places = [slice(starts[i], starts[i + 1]) for i in range(len(variables))]
    log_weights, log_likelihood = [], 0.0
    for i, parent in enumerate(parents):
        margin = np.diag(joint)[places[i]][None]
        counts = margin if parent < 0 else joint[places[parent], places[i]]
        log_weights.append(log_distribution(counts, settings.pseudocount))
        log_likelihood += float((counts * log_weights[-1]).sum())
    return _Tree(variables, parents, tuple(log_weights), log_likelihood, information.sum(0))


def _mutual_information(
    joint: np.ndarray, sizes: np.ndarray, num_rows: int, pseudocount: float
) -> np.ndarray:
    """(D, D) in nats, of the pairs' smoothed frequencies, zero on the diagonal.

    Args:
        joint: (sum of V, sum of V) how often two categories occur together.
        sizes: (D,) number of categories V of every variable.
        num_rows: Number of rows.
        pseudocount: Count added to every pair of categories.
    """
    wide = np.repeat(sizes, sizes).astype(np.float64)  # V of the variable of each category
    margins = np.diag(joint)
    counts = joint + pseudocount
    firsts = margins[:, None] + pseudocount * wide[None, :]
    totals = num_rows + pseudocount * np.outer(wide, wide)
    terms = counts / totals * np.log(counts * totals / (firsts * firsts.T))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    information = np.add.reduceat(np.add.reduceat(terms, starts, axis=0), starts, axis=1)
    np.fill_diagonal(information, 0.0)
    return np.maximum(information, 0.0)


def _assembled(
    table: CategoricalTable, regions: Sequence[_Region], settings: _Settings
) -> WeightedCircuit:
    """The circuit of the regions, the last ones first."""
    packed = PackedCircuit()
    nodes: dict[int, AnyNode] = {}
    for place in reversed(range(len(regions))):
        region = regions[place]
        if region.decision is None:
            nodes[place] = _tree_node(table, region.tree, packed)
            continue
        variable, size = region.decision, int(table.sizes[region.decision])
        branches = [
            Product(_indicators(variable, [category], size), nodes[part])
            for category, part in enumerate(region.parts)
        ]
        counts = table.counts(region.rows, variable)
        nodes[place] = packed.sum(branches, log_distribution(counts, settings.pseudocount)[None])
    return packed.weighted(nodes[0])


def _tree_node(table: CategoricalTable, tree: _Tree, packed: PackedCircuit) -> AnyNode:
    """A Chow-Liu tree whose units are the categories: unit v is one on category v only."""
    below: list[list[AnyNode]] = [[] for _ in tree.parents]
    for i in _children_before_parents(tree.parents):
        variable = int(tree.variables[i])
        size = int(table.sizes[variable])
        state = _indicators(variable, range(size), size)
        subtree = Product(state, *below[i]) if below[i] else state
        message = packed.sum([subtree], tree.log_weights[i])
        if tree.parents[i] >= 0:
            below[tree.parents[i]].append(message)
    return message


def _indicators(variable: int, categories: Sequence[int], size: int) -> Input:
    """One unit for each of the given categories, one on that category only."""
    return Input(
        variable,
        num_units=len(categories),
        num_categories=size,
        supports=tuple((category,) for category in categories),
    )


def _children_before_parents(parents: Sequence[int]) -> list[int]:
    children: list[list[int]] = [[] for _ in parents]
    for i, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(i)
    order = [parents.index(-1)]
    for i in order:  # grows on the way
        order.extend(children[i])
    return order[::-1]
