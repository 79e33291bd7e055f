"""Sums over listed columns of one table, and products with them, without a copy of the columns."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pcircuits.execute.weights import (
    Weights,
    entry_chunks,
    floor_of,
    log_matmul,
    shifted_exp,
)


def listed_sums(weights: Weights, potentials: Tensor, categories: Tensor) -> Tensor:
    """log(sum_j exp(potentials[f, b, j]) w[k, categories[f, b, j]]), (F, B, K), for one table.

    Args:
        weights: The table, G = A = 1.
        potentials: (F, B, j) log-potentials.
        categories: (F, B, j) columns of the table that they speak of.
    """
    folds, batch, listed = categories.shape
    e, top = shifted_exp(potentials.reshape(folds * batch, listed))
    rows = categories.reshape(folds * batch, listed)
    total: Tensor = _ListedTotals.apply(e, weights.columns, rows)
    low = total.detach().amin(-1) <= floor_of(total)
    out = total.masked_fill(low[:, None], 1.0).log() + top
    if weights.shift is not None:
        out = out + weights.shift[0, 0]
    lost = low.nonzero()[:, 0]
    if len(lost):
        # Underflow is possible in these rows: redo them by gathering their columns.
        log = weights.log[0, 0][:, categories.reshape(-1, listed)[lost]].transpose(0, 1)
        exact = log_matmul(potentials.reshape(1, -1, listed)[:, lost], Weights(log[None]))
        out = out.index_put((lost,), exact[0])
    return out.view(folds, batch, -1)


def listed_products(weights: Weights, messages: Tensor, categories: Tensor) -> Tensor:
    """log(sum_k exp(messages[n, k]) w[k, categories[n, j]]), (n, j), for one table.

    Args:
        weights: The table, G = A = 1.
        messages: (n, K) log-messages.
        categories: (n, j) columns of the table.
    """
    x = messages if weights.shift is None else messages + weights.shift[0, 0]
    e, top = shifted_exp(x)
    total: Tensor = _ListedProducts.apply(e, weights.columns, categories)
    floor = floor_of(total)
    if total.numel() == 0 or float(total.detach().amin()) > floor:
        return total.log() + top
    low = total.detach() <= floor
    found = total.masked_fill(low, 1.0).log() + top
    # Underflow is possible here: a log-sum-exp over these entries' own terms.
    for row, place in entry_chunks(low.nonzero(as_tuple=True), x.shape[1]):
        terms = messages[row] + weights.log[0, 0][:, categories[row, place]].T
        e, top = shifted_exp(terms)
        dead = (e == 0).all(-1)
        exact = e.sum(-1).masked_fill(dead, 1.0).log() + top[:, 0]
        found = found.index_put((row, place), exact.masked_fill(dead, -torch.inf))
    return found


# The three are the derivatives of one sum, over n, j and k, of
#     factors[n, j] vectors[n, k] columns[categories[n, j], k],
# so the gradients of each are the two others.


class _ListedTotals(torch.autograd.Function):
    """(N, K) sum over j."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, columns: Tensor, categories: Tensor) -> Tensor:
        ctx.save_for_backward(factors, columns, categories)
        return torch.nn.functional.embedding_bag(
            categories, columns, per_sample_weights=factors.contiguous(), mode="sum"
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factors, columns, categories = ctx.saved_tensors
        own = table = None
        if ctx.needs_input_grad[0]:
            own = _ListedProducts.apply(gradients[0], columns, categories)
        if ctx.needs_input_grad[1]:
            table = _Scattered.apply(factors, gradients[0], categories, len(columns))
        return own, table, None


class _ListedProducts(torch.autograd.Function):
    """(N, j) sum over k."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, columns: Tensor, categories: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, columns, categories)
        return _products(vectors.detach(), columns.detach(), categories)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        vectors, columns, categories = ctx.saved_tensors
        own = table = None
        if ctx.needs_input_grad[0]:
            own = _ListedTotals.apply(gradients[0], columns, categories)
        if ctx.needs_input_grad[1]:
            table = _Scattered.apply(gradients[0], vectors, categories, len(columns))
        return own, table, None


class _Scattered(torch.autograd.Function):
    """(V, K) sum over n, and over the j that list a row."""

    @staticmethod
    def forward(
        ctx: Any, factors: Tensor, vectors: Tensor, categories: Tensor, size: int
    ) -> Tensor:
        ctx.save_for_backward(factors, vectors, categories)
        num, listed = categories.shape
        _, bag = _bags(num, listed, categories.device)
        # What autograd calls for the gradient of the columns of `embedding_bag`.
        found: Tensor = torch.ops.aten._embedding_bag_dense_backward(
            vectors.contiguous(),
            categories.reshape(-1),
            bag,
            torch.full_like(bag[:num], listed),
            bag[:0],
            size,
            False,
            0,
            factors.reshape(-1),
        )
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factors, vectors, categories = ctx.saved_tensors
        own = vector = None
        if ctx.needs_input_grad[0]:
            own = _ListedProducts.apply(vectors, gradients[0], categories)
        if ctx.needs_input_grad[1]:
            vector = _ListedTotals.apply(factors, gradients[0], categories)
        return own, vector, None, None


def _products(vectors: Tensor, columns: Tensor, categories: Tensor) -> Tensor:
    if not vectors.is_cuda:
        # Imported where it is used: numba takes a second to import.
        from pcircuits.execute.numba.gather import gathered_products

        return gathered_products(vectors, columns.contiguous(), categories)
    # What autograd calls for the gradient of the factors of `embedding_bag`: nothing is copied.
    num, listed = categories.shape
    first, bag = _bags(num, listed, categories.device)
    found: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        vectors, columns, categories.reshape(-1).contiguous(), first, bag, 0
    )
    return found.view(num, listed)


@lru_cache(maxsize=2)
def _bags(num: int, listed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First entry of each bag, and the bag of each entry."""
    bags = torch.arange(num, device=device)
    return bags * listed, bags.repeat_interleave(listed)
