"""Chow-Liu trees: which variables to join, found from pairwise mutual information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from pcircuits.learning.mutual_information import PairTable, mutual_information_of
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.families import chow_liu as chow_liu_circuit


@dataclass(frozen=True, eq=False)
class ChowLiuTree:
    """A spanning tree of the variables, rooted at its centre so that it is as low as possible.

    Attributes:
        parents: (L,) parent of every variable; -1 at the root.
        mutual_information: (L, L) mutual information in nats of all pairs, zero on the diagonal.
        num_categories: (L,) number of categories of every variable.

    Examples:
        Variable 2 repeats variable 0, and variable 1 is a coin of its own:

        >>> rows = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]])
        >>> tree = pc.chow_liu_tree(rows, pseudocount=0.0)
        >>> (2, 0) in tree.edges or (0, 2) in tree.edges
        True
        >>> round(float(tree.mutual_information[0, 2]), 4)  # ln 2 nats
        0.6931
        >>> round(tree.score, 4)
        0.6931
    """

    parents: tuple[int, ...]
    mutual_information: np.ndarray
    num_categories: tuple[int, ...]

    @property
    def root(self) -> int:
        """The variable without a parent."""
        return self.parents.index(-1)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(parent, child) of each of the L - 1 edges, by child."""
        return tuple((parent, i) for i, parent in enumerate(self.parents) if parent >= 0)

    @property
    def score(self) -> float:
        """Sum of the mutual information of all edges in nats, which the tree maximises."""
        return float(sum(self.mutual_information[edge] for edge in self.edges))


def chow_liu_tree(
    values: Tensor | np.ndarray,
    *,
    observed: Tensor | np.ndarray | None = None,
    weights: Tensor | np.ndarray | None = None,
    pseudocount: float = 1.0,
    num_categories: int | Sequence[int] | None = None,
    progress: bool = False,
) -> ChowLiuTree:
    """The tree of largest total mutual information, which is the tree of largest likelihood.

    Chow and Liu, "Approximating discrete probability distributions with dependence trees", IEEE
    Transactions on Information Theory 14 (1968).

    Args:
        values: (N, L) integers.
        observed: (N, L) bool, True = observed; default all. A row counts for the pairs of which it
            has both values.
        weights: (N,) weight of each row, >= 0; default 1.
        pseudocount: Count added to every pair of categories.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        progress: Whether to show a progress bar.

    Returns:
        The tree.

    Raises:
        EvidenceError: If values, mask or weights do not fit.
        ValueError: If the pseudocount is negative.

    Examples:
        A chain: variable 1 repeats variable 0 on most rows, and variable 2 variable 1:

        >>> first = torch.arange(64) % 2
        >>> second = torch.where(torch.arange(64) < 8, 1 - first, first)
        >>> third = torch.where(torch.arange(64) % 8 < 1, 1 - second, second)
        >>> tree = pc.chow_liu_tree(torch.stack([first, second, third], dim=1))
        >>> tree.parents  # the root is the centre of the chain
        (1, -1, 1)
    """
    table = PairTable.of(values, observed, weights, num_categories)
    information = mutual_information_of(table, pseudocount, progress)
    return ChowLiuTree(spanning_tree(information), information, table.num_categories)


def spanning_tree(scores: np.ndarray) -> tuple[int, ...]:
    """Maximum spanning tree of a complete graph, rooted at its centre.

    Args:
        scores: (L, L) symmetric finite scores of the pairs; the diagonal is not read.

    Returns:
        (L,) parent of every variable; -1 at the root.

    Raises:
        ValueError: If the scores are not a square matrix of finite numbers.

    Examples:
        >>> import numpy as np
        >>> scores = np.array([[0, 5, 1], [5, 0, 4], [1, 4, 0]])
        >>> pc.spanning_tree(scores)  # 0 - 1 - 2, from its centre
        (1, -1, 1)
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not np.isfinite(scores).all():
        raise ValueError(f"scores must be a square matrix of finite numbers; found {scores.shape}")
    # A zero is no edge to scipy, and independent variables have to be joined as well: all costs
    # are made positive.
    costs = 1.0 + scores.max() - scores
    np.fill_diagonal(costs, 0.0)
    tree = minimum_spanning_tree(costs)
    tree = tree + tree.T
    one_end = int(breadth_first_order(tree, 0, directed=False)[0][-1])
    order, parents = breadth_first_order(tree, one_end, directed=False)
    path = [int(order[-1])]  # the last one reached is the other end of a longest path
    while path[-1] != one_end:
        path.append(int(parents[path[-1]]))
    _, parents = breadth_first_order(tree, path[len(path) // 2], directed=False)
    return tuple(max(int(parent), -1) for parent in parents)


def chow_liu(
    values: Tensor | np.ndarray,
    *,
    weights: Tensor | np.ndarray | None = None,
    pseudocount: float = 1.0,
    num_categories: int | Sequence[int] | None = None,
    progress: bool = False,
) -> WeightedCircuit:
    """Chow-Liu tree with the parameters of largest (smoothed) likelihood, in closed form.

    Args:
        values: (N, L) integers.
        weights: (N,) weight of each row, >= 0; default 1.
        pseudocount: Count added to every pair of categories; zero allows probabilities of zero.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        progress: Whether to show a progress bar.

    Returns:
        The circuit of `families.chow_liu` and its float64 log-weights.

    Raises:
        EvidenceError: If values or weights do not fit.
        ValueError: If the pseudocount is negative.

    Examples:
        >>> rows = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 0]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> model.log_likelihood(torch.tensor([[0, 0], [1, 1], [0, 1]])).exp().detach()
        tensor([0.5000, 0.2500, 0.0000], dtype=torch.float64)
    """
    table = PairTable.of(values, None, weights, num_categories)
    parents = spanning_tree(mutual_information_of(table, pseudocount, progress))
    sizes, log_weights = table.num_categories, dict[str, Tensor]()
    for i, parent in enumerate(parents):
        if parent < 0:
            # As the margin of a smoothed pair: each category meets all of another variable's.
            counts = np.bincount(table.columns[i], table.weights, sizes[i])
            log_weights["initial"] = _log_rows(counts + pseudocount * max(sizes))
        else:
            log_weights[f"transition_{i}"] = _log_rows(table.pair_counts(parent, i) + pseudocount)
    return WeightedCircuit(chow_liu_circuit(parents, sizes), log_weights)


def _log_rows(counts: np.ndarray) -> Tensor:
    """Logarithm of the rows of counts as distributions; a row without counts is uniform."""
    total = counts.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(total > 0, np.log(counts / total), -np.log(counts.shape[-1]))
    return torch.from_numpy(rows)
