"""Chow-Liu trees: which variables to join, found from pairwise mutual information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from pcircuits.errors import EvidenceError
from pcircuits.jit import cached_jit
from pcircuits.learning.history import progress_bar
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families import chow_liu as chow_liu_circuit
from pcircuits.structure.families import hidden_chow_liu


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


def pairwise_mutual_information(
    values: Tensor | np.ndarray,
    *,
    observed: Tensor | np.ndarray | None = None,
    weights: Tensor | np.ndarray | None = None,
    pseudocount: float = 1.0,
    num_categories: int | Sequence[int] | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Mutual information of all pairs of variables, from their smoothed joint frequencies.

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
        (L, L) symmetric matrix in nats, zero on the diagonal.

    Raises:
        EvidenceError: If values, mask or weights do not fit.
        ValueError: If the pseudocount is negative.

    Examples:
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> information = pc.pairwise_mutual_information(rows, pseudocount=0.0)
        >>> information.round(4)  # ln 2 = 0.6931 between the first two
        array([[0.    , 0.6931, 0.    ],
               [0.6931, 0.    , 0.    ],
               [0.    , 0.    , 0.    ]])
    """
    table = _Table.of(values, observed, weights, num_categories)
    return _mutual_information(table, pseudocount, progress)


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
    table = _Table.of(values, observed, weights, num_categories)
    information = _mutual_information(table, pseudocount, progress)
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
    table = _Table.of(values, None, weights, num_categories)
    parents = spanning_tree(_mutual_information(table, pseudocount, progress))
    sizes, log_weights = table.num_categories, dict[str, Tensor]()
    for i, parent in enumerate(parents):
        if parent < 0:
            # As the margin of a smoothed pair: each category meets all of another variable's.
            counts = np.bincount(table.columns[i], table.weights, sizes[i])
            log_weights["initial"] = _log_rows(counts + pseudocount * max(sizes))
        else:
            log_weights[f"transition_{i}"] = _log_rows(table.pair_counts(parent, i) + pseudocount)
    return WeightedCircuit(chow_liu_circuit(parents, sizes), log_weights)


def hclt(
    values: Tensor | np.ndarray,
    num_units: int,
    *,
    observed: Tensor | np.ndarray | None = None,
    weights: Tensor | np.ndarray | None = None,
    pseudocount: float = 1.0,
    num_categories: int | Sequence[int] | None = None,
    progress: bool = False,
) -> Circuit:
    """Hidden Chow-Liu tree over the Chow-Liu tree of data; see `families.hidden_chow_liu`.

    Args:
        values: (N, L) integers.
        num_units: Number of units K of every hidden variable.
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) weight of each row, >= 0; default 1.
        pseudocount: Count added to every pair of categories.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        progress: Whether to show a progress bar.

    Returns:
        The circuit; its parameters are to be learned, by `fit_em` for example.

    Raises:
        EvidenceError: If values, mask or weights do not fit.
        ValueError: If the pseudocount is negative.

    Examples:
        >>> rows = torch.randint(0, 2, (200, 3)).repeat(1, 2)  # variable i + 3 repeats variable i
        >>> model = pc.CircuitModel(pc.hclt(rows, num_units=4))
        >>> history = pc.fit_em(model, rows, epochs=30, progress=False)
        >>> bool(model.mutual_information()[0, 0, 3] > 0.5)  # ln 2 = 0.69 nats
        True
    """
    tree = chow_liu_tree(
        values,
        observed=observed,
        weights=weights,
        pseudocount=pseudocount,
        num_categories=num_categories,
        progress=progress,
    )
    return hidden_chow_liu(tree.parents, num_units, tree.num_categories)


def hclt_start(
    values: Tensor | np.ndarray,
    parents: Sequence[int],
    num_units: int,
    *,
    weights: Tensor | np.ndarray | None = None,
    num_categories: int | Sequence[int] | None = None,
    coupling: float = 0.97,
    softness: float = 0.1,
    noise: float = 0.5,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Parameters from which EM learns a hidden Chow-Liu tree well: a mixture of Chow-Liu trees.

    Unit c V + v of a hidden variable says "this variable is v, the row belongs to component c":
    components move along the tree together, and each has its own randomly tilted transitions. From
    a random start the hidden variables of distant variables know nothing of each other, and EM
    ends far lower.

    Args:
        values: (N, L) integers.
        parents: (L,) parent of every variable, as in `ChowLiuTree`.
        num_units: Number of units K.
        weights: (N,) weight of each row, >= 0; default 1.
        num_categories: Number of categories, of all variables or of each; default one more than
            the largest value.
        coupling: Probability that a child is in its parent's component by design, in [0, 1).
        softness: Probability that a variable is drawn from its (noisy) frequencies instead of
            being what its unit says, in (0, 1].
        noise: Standard deviation of the log-weights that set components apart, > 0.
        seed: Seed of the noise.

    Returns:
        Name -> probabilities of the parameters of `families.hidden_chow_liu`, none zero, for
        `CircuitModel.set_probabilities`.

    Raises:
        EvidenceError: If values or weights do not fit.
        ValueError: If a number is out of range.

    Examples:
        Six variables that are all equal: EM starts near them, and not from noise.

        >>> rows = torch.randint(0, 2, (200, 1)).repeat(1, 6)
        >>> tree = pc.chow_liu_tree(rows)
        >>> model = pc.CircuitModel(pc.families.hidden_chow_liu(tree.parents, 4, num_categories=2))
        >>> before = pc.mean_log_likelihood(model, rows)
        >>> model.set_probabilities(pc.hclt_start(rows, tree.parents, num_units=4))
        >>> round(before), round(pc.mean_log_likelihood(model, rows))  # the best is ln(1/2) = -0.7
        (-4, -1)
    """
    if not (0 <= coupling < 1 and 0 < softness <= 1 and noise > 0 and num_units >= 1):
        raise ValueError(
            f"expected coupling in [0, 1), softness in (0, 1], noise > 0 and num_units >= 1; found "
            f"{coupling}, {softness}, {noise}, {num_units}"
        )
    table = _Table.of(values, None, weights, num_categories)
    random, sizes = np.random.default_rng(seed), table.num_categories
    found: dict[str, list[np.ndarray]] = {"initial": [], "transition": []}
    for i, parent in enumerate(parents):
        shares = _distribution(np.bincount(table.columns[i], table.weights, sizes[i]) + 1.0)
        components = -(-num_units // sizes[i])
        drawn = shares * np.exp(noise * random.standard_normal((components, sizes[i], sizes[i])))
        said = (1 - softness) * np.eye(sizes[i]) + softness * _distribution(drawn)
        emission = said.reshape(-1, sizes[i])[:num_units]
        found.setdefault(f"emission_{sizes[i]}", []).append(emission)
        if parent < 0:
            found["initial"].append(_distribution(np.tile(shares, components)[:num_units]))
            continue
        conditional = _distribution(table.pair_counts(parent, i) + 1.0)
        tilt = np.exp(noise * random.standard_normal((components, 1, sizes[i])))
        tilted = _distribution(conditional * tilt)  # (component of i, V of the parent, V of i)
        moves = _component_moves(-(-num_units // sizes[parent]), components, coupling)
        steps = np.einsum("cd,dvw->cvdw", moves, tilted)
        steps = steps.reshape(moves.shape[0] * sizes[parent], -1)
        found["transition"].append(_distribution(steps[:num_units, :num_units]).ravel())
    joined = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    return {name: torch.from_numpy(value).float() for name, value in joined.items()}


def _component_moves(above: int, below: int, coupling: float) -> np.ndarray:
    """(above, below) probability of a child's component given its parent's."""
    common = min(above, below)
    same = np.arange(above)[:, None] % common == np.arange(below) % common
    return coupling * _distribution(same.astype(np.float64)) + (1 - coupling) / below


@dataclass(frozen=True, eq=False)
class _Table:
    """Checked data as counting wants it.

    Attributes:
        columns: (L, N) int32 values, -1 where not observed.
        weights: (N,) float64.
        num_categories: (L,) number of categories of every variable.
    """

    columns: np.ndarray
    weights: np.ndarray
    num_categories: tuple[int, ...]

    @classmethod
    def of(
        cls,
        values: Tensor | np.ndarray,
        observed: Tensor | np.ndarray | None,
        weights: Tensor | np.ndarray | None,
        num_categories: int | Sequence[int] | None,
    ) -> _Table:
        rows = _array(values)
        if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "iub":
            raise EvidenceError(
                f"values must be (N, L) integers with N, L >= 1; found shape {rows.shape} of "
                f"{rows.dtype}"
            )
        columns = rows.T.astype(np.int32, order="C")
        if observed is not None:
            mask = _array(observed)
            if mask.shape != rows.shape or mask.dtype != np.bool_:
                raise EvidenceError(
                    f"observed must be a bool mask of shape {rows.shape}; found shape "
                    f"{mask.shape} of {mask.dtype}"
                )
            columns = np.where(mask.T, columns, -1)
        sizes = _sizes(columns, num_categories, observed is not None)
        return cls(columns, _row_weights(weights, len(rows)), sizes)

    def pair_counts(self, i: int, j: int) -> np.ndarray:
        """(V of i, V of j) total weight of each pair of categories of two observed variables."""
        shape = self.num_categories[i], self.num_categories[j]
        pair = self.columns[i].astype(np.int64) * shape[1] + self.columns[j]
        return np.bincount(pair, self.weights, shape[0] * shape[1]).reshape(shape)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _row_weights(weights: Tensor | np.ndarray | None, num_rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(num_rows)
    found = _array(weights).astype(np.float64)
    if found.shape != (num_rows,) or not np.isfinite(found).all() or found.min() < 0:
        raise EvidenceError(
            f"weights must be {num_rows} finite numbers >= 0; found shape {found.shape}"
        )
    return found


def _sizes(
    columns: np.ndarray, num_categories: int | Sequence[int] | None, masked: bool
) -> tuple[int, ...]:
    """Number of categories of every variable, checked against the values."""
    top = columns.max(axis=1)
    if num_categories is None:
        num_categories = int(top.max()) + 1
    sizes = (
        (num_categories,) * len(columns)
        if isinstance(num_categories, int)
        else tuple(int(size) for size in num_categories)
    )
    if len(sizes) != len(columns):
        raise EvidenceError(
            f"num_categories must be one number, or one for each of the {len(columns)} variables; "
            f"found {len(sizes)} numbers"
        )
    low = -1 if masked else 0
    wrong = (top >= np.array(sizes)) | (columns.min(axis=1) < low)
    if wrong.any():
        i = int(wrong.argmax())
        raise EvidenceError(
            f"variable {i} holds {columns[i].min()} .. {top[i]}; expected categories "
            f"0 .. {sizes[i] - 1}"
        )
    return sizes


def _mutual_information(table: _Table, pseudocount: float, progress: bool) -> np.ndarray:
    if not (pseudocount >= 0 and np.isfinite(pseudocount)):
        raise ValueError(f"expected a finite pseudocount >= 0; found {pseudocount}")
    length = len(table.columns)
    sizes = np.array(table.num_categories)
    information = np.zeros((length, length))
    with progress_bar("mutual information", shown=progress) as report:
        for i in range(1, length):
            _add_row(table.columns, table.weights, sizes, float(pseudocount), i, information)
            report((i + 1) ** 2 / length**2, f"variable {i + 1} of {length}")
    # Rounding may leave an independent pair a hair below zero.
    return np.maximum(information, 0.0)


@cached_jit(nogil=True)
def _add_row(
    columns: np.ndarray,
    weights: np.ndarray,
    sizes: np.ndarray,
    pseudocount: float,
    i: int,
    information: np.ndarray,
) -> None:
    """Fills row and column i of `information` for all variables before i."""
    for j in range(i):
        counts = np.full((sizes[i], sizes[j]), pseudocount)
        for row in range(columns.shape[1]):
            a, b = columns[i, row], columns[j, row]
            if a >= 0 and b >= 0:
                counts[a, b] += weights[row]
        total = counts.sum()
        rows, others = counts.sum(1), counts.sum(0)
        found = 0.0
        for a in range(sizes[i]):
            for b in range(sizes[j]):
                if counts[a, b] > 0:
                    found += counts[a, b] * np.log(counts[a, b] * total / (rows[a] * others[b]))
        information[i, j] = information[j, i] = found / max(total, 1e-300)


def _distribution(numbers: np.ndarray) -> np.ndarray:
    """Scales the last axis to sum to one."""
    scaled: np.ndarray = numbers / numbers.sum(-1, keepdims=True)
    return scaled


def _log_rows(counts: np.ndarray) -> Tensor:
    """Logarithm of the rows of counts as distributions; a row without counts is uniform."""
    total = counts.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(total > 0, np.log(counts / total), -np.log(counts.shape[-1]))
    return torch.from_numpy(rows)
