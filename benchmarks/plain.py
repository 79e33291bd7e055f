"""The same models in plain PyTorch, as a user would write them who knows PyTorch and no circuits.

They take the very tensors that `pc.forward` takes.
Shapes: B batch, L length, V categories, K units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import embedding


def log_matmul(x: Tensor, weights: Tensor) -> Tensor:
    """log(exp(x) @ weights) with the rows' maxima taken out; `weights` in linear space."""
    top = x.detach().amax(-1, keepdim=True)
    return ((x - top).exp() @ weights).log() + top


def hmm_log_likelihood(log_parameters: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """Forward algorithm of a homogeneous hidden Markov model.

    Args:
        log_parameters: `initial` (K,), `transition` (K, K), `emission` (K, V).
        values: (B, L) integers.

    Returns:
        (B,) log-likelihoods.
    """
    transition = log_parameters["transition"].exp()
    emitted = embedding(values.T, log_parameters["emission"].T)  # (L, B, K)
    state = log_parameters["initial"] + emitted[0]
    for step in emitted[1:]:
        state = log_matmul(state, transition) + step
    return state.logsumexp(-1)


def stacked_tree(log_parameters: Mapping[str, Tensor], length: int) -> list[Tensor]:
    """A binary tree's parameters, one tensor a level.

    Args:
        log_parameters: `input_0` ... (K, V), `sum_LEVEL_PLACE` (K, K) and `root` (K,).
        length: Number of variables, a power of two.

    Returns:
        Inputs (L, K, V), sums (L / 2, K, K), (L / 4, K, K), ..., root (K,).
    """
    levels = [torch.stack([log_parameters[f"input_{i}"] for i in range(length)])]
    width, level = length // 2, 1
    while width > 1:
        levels.append(torch.stack([log_parameters[f"sum_{level}_{i}"] for i in range(width)]))
        width, level = width // 2, level + 1
    return [*levels, log_parameters["root"]]


def tree_log_likelihood(levels: list[Tensor], values: Tensor) -> Tensor:
    """Balanced binary tree with elementwise products, one batched product a level.

    Args:
        levels: What `stacked_tree` returns.
        values: (B, L) integers.

    Returns:
        (B,) log-likelihoods.
    """
    inputs, *sums, root = levels
    length, units, categories = inputs.shape
    table = inputs.transpose(1, 2).reshape(length * categories, units)
    first = torch.arange(length, device=values.device)[:, None] * categories
    state = embedding(values.T + first, table)  # (L, B, K)
    for weights in sums:
        state = log_matmul(state[::2] + state[1::2], weights.exp().transpose(1, 2))
    return (state[0] + state[1] + root).logsumexp(-1)


def hmm_log_partition(log_parameters: Mapping[str, Tensor], log_potentials: Tensor) -> Tensor:
    """Log Z of a hidden Markov model under log-potentials, term by term in log space.

    It holds states times categories for every position, so it is for small sizes only.

    Args:
        log_parameters: `initial` (K,), `transition` (K, K), `emission` (K, V).
        log_potentials: (B, L, V).

    Returns:
        (B,) log Z.
    """
    terms = log_parameters["emission"] + log_potentials[:, :, None, :]  # (B, L, K, V)
    emitted = terms.logsumexp(-1)
    state = log_parameters["initial"] + emitted[:, 0]
    for t in range(1, emitted.shape[1]):
        steps = state[:, :, None] + log_parameters["transition"]
        state = steps.logsumexp(1) + emitted[:, t]
    return state.logsumexp(-1)
