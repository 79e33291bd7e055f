"""Hidden Chow-Liu trees: their structure from data, and parameters for EM to start from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pcircuits.learning.chow_liu import chow_liu_tree
from pcircuits.learning.mutual_information import PairTable
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families import hidden_chow_liu


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
    table = PairTable.of(values, None, weights, num_categories)
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


def _distribution(numbers: np.ndarray) -> np.ndarray:
    """Scales the last axis to sum to one."""
    scaled: np.ndarray = numbers / numbers.sum(-1, keepdims=True)
    return scaled
