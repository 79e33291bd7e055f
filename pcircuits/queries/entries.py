"""Messages through the tables of the inputs: the weight of each category of single variables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer
from pcircuits.execute.listed import listed_products
from pcircuits.execute.weights import Weights, log_matmul_transposed


@dataclass(frozen=True, eq=False)
class Pairs:
    """Inputs of one layer whose categories are asked for, one of each of n examples.

    Attributes:
        folds: (n,) fold of each.
        examples: (n,) example of each.
        messages: (n, K) log-messages to their units.
        categories: (n, k) the categories that are asked for; None for all.
    """

    folds: np.ndarray
    examples: np.ndarray
    messages: Tensor
    categories: Tensor | None


def category_weights(layer: InputLayer, weights: Weights, pairs: Pairs) -> Tensor:
    """log(sum_u exp(messages[n, u]) table[u, v]) of the categories v that are asked for.

    Args:
        layer: The inputs.
        weights: Their tables.
        pairs: What is asked.

    Returns:
        (n, k) or (n, V of this layer); -inf at listed categories that the layer does not have.
    """
    if pairs.categories is not None:
        return _listed(layer, weights, pairs)
    if has_shared_table(weights):
        return log_matmul_transposed(pairs.messages[None], weights)[0]
    found = pairs.messages.new_empty(len(pairs.folds), layer.num_categories)
    groups, batch = weights.log.shape[:2]
    for fold in np.unique(pairs.folds).tolist():
        at = (pairs.folds == fold).nonzero()[0]
        table = weights.log[fold % groups]
        if batch > 1:
            table = table[pairs.examples[at]]
        found[at] = log_matmul_transposed(pairs.messages[None, at], Weights(table[None]))[0]
    return found


def input_columns(
    weights: Weights, folds: np.ndarray, examples: np.ndarray, values: np.ndarray, *, listed: bool
) -> Tensor:
    """(n, K) log-weights of one category of each of n inputs.

    Args:
        weights: The tables.
        folds: (n,) fold of each.
        examples: (n,) example of each.
        values: (n,) its category.
        listed: Whether evidence lists categories, so that the tables are at hand column by column.
    """
    if listed and has_shared_table(weights):
        columns = weights.columns.index_select(
            0, torch.as_tensor(values, device=weights.log.device)
        )
        # In memory a column of the table itself is as many places as it has units.
        if float(columns.amin()) > weights.floor:
            log = columns.log_()
            return log if weights.shift is None else log + weights.shift[0, 0]
    log = weights.log
    return log[folds % log.shape[0], examples % log.shape[1], :, values]


def has_shared_table(weights: Weights) -> bool:
    """Whether one table serves all folds and examples."""
    return weights.log.shape[:2] == (1, 1)


def _listed(layer: InputLayer, weights: Weights, pairs: Pairs) -> Tensor:
    assert pairs.categories is not None
    # A circuit may have variables of fewer categories than the list names: theirs do not exist.
    listed, missing = pairs.categories, None
    if listed.numel() and int(listed.amax()) >= layer.num_categories:
        missing = listed >= layer.num_categories
        listed = listed.masked_fill(missing, 0)
    if has_shared_table(weights):
        found = listed_products(weights, pairs.messages, listed)
    else:
        groups, batch = weights.log.shape[:2]
        fold, example = (
            torch.as_tensor(index, device=listed.device)[:, None]
            for index in (pairs.folds % groups, pairs.examples % batch)
        )
        columns = weights.log[fold, example, :, listed]  # (n, k, K)
        table = Weights(columns.transpose(1, 2)[None])
        found = log_matmul_transposed(pairs.messages[None], table)[0]
    return found if missing is None else found.masked_fill(missing, -torch.inf)
