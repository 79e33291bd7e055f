"""Messages through the tables of the inputs: the weight of each category of single variables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer
from pcircuits.execute.weights import Weights, entry_chunks, log_matmul_transposed, shifted_exp


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
        columns = weights.columns[values]
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
        found = _listed_shared(weights, pairs.messages, listed)
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


def _listed_shared(weights: Weights, messages: Tensor, listed: Tensor) -> Tensor:
    """Inner products with the columns of one table, without a copy of them."""
    x = messages if weights.shift is None else messages + weights.shift[0, 0]
    e, top = shifted_exp(x)
    total = _gathered_products(e, weights.columns, listed)
    if total.numel() == 0 or float(total.amin()) > weights.floor:
        return total.log_().add_(top)
    low = total <= weights.floor
    found = total.masked_fill(low, 1.0).log() + top
    # Underflow is possible here: a log-sum-exp over these entries' own terms.
    for row, place in entry_chunks(low.nonzero(as_tuple=True), x.shape[1]):
        terms = messages[row] + weights.log[0, 0][:, listed[row, place]].T
        found[row, place] = terms.logsumexp(-1)
    return found


def _gathered_products(x: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """(n, k) sum_u x[n, u] table[rows[n, j], u]."""
    if not x.is_cuda:
        # Imported where it is used: numba takes a second to import.
        from pcircuits.execute.numba.gather import gathered_products

        return gathered_products(x, table, rows)
    # The gradient of `embedding_bag` with respect to its weights of samples, by the operation that
    # autograd calls for it: nothing is copied.
    num, listed = rows.shape
    first, bag = _bags(num, listed, rows.device)
    found: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x, table, rows.reshape(-1).contiguous(), first, bag, 0
    )
    return found.view(num, listed)


@lru_cache(maxsize=2)
def _bags(num: int, listed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First entry of each bag, and the bag of each entry."""
    bags = torch.arange(num, device=device)
    return bags * listed, bags.repeat_interleave(listed)
