"""Sums over listed columns of one table, without a copy of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcircuits.execute.weights import Weights, floor_of, log_matmul, shifted_exp


def listed_sums(weights: Weights, potentials: Tensor, categories: Tensor) -> Tensor:
    """log(sum_j exp(potentials[f, b, j]) w[k, categories[f, b, j]]), (F, B, K), for one table.

    Args:
        weights: The table, G = A = 1.
        potentials: (F, B, j) log-potentials.
        categories: (F, B, j) columns of the table that they speak of.
    """
    folds, batch, listed = categories.shape
    e, top = shifted_exp(potentials.reshape(folds * batch, listed))
    graph = torch.is_grad_enabled() and weights.log.requires_grad
    # With a graph not the cached columns, which would tie this call to others.
    columns = Weights(weights.log).columns if graph else weights.columns
    total: Tensor = _ListedTotals.apply(e, columns, categories.reshape(folds * batch, listed))
    low = total.detach().amin(-1) <= floor_of(total)
    out = total.masked_fill(low[:, None], 1.0).log() + top
    if weights.shift is not None:
        out = out + weights.shift[0, 0]
    lost = low.nonzero()[:, 0]
    if len(lost):
        # Underflow is possible in these rows: redo them by gathering their columns.
        log = weights.log[0, 0][:, categories.reshape(-1, listed)[lost]].transpose(0, 1)
        rows = log_matmul(potentials.reshape(1, -1, listed)[:, lost], Weights(log[None]))
        out = out.index_put((lost,), rows[0])
    return out.view(folds, batch, -1)


class _ListedTotals(torch.autograd.Function):
    """sum_j e[n, j] columns[categories[n, j]], (N, K).

    As `embedding_bag`, which it calls, but differentiable twice.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, columns: Tensor, categories: Tensor) -> Tensor:
        with torch.enable_grad():
            given = [e.detach(), columns.detach()]
            ctx.given = [
                own.requires_grad_() if needed else own
                for own, needed in zip(given, ctx.needs_input_grad, strict=False)
            ]
            ctx.total = torch.nn.functional.embedding_bag(
                categories, given[1], per_sample_weights=given[0], mode="sum"
            )
        ctx.save_for_backward(e, columns, categories)
        total: Tensor = ctx.total.detach()
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if torch.is_grad_enabled():
            e, columns, categories = ctx.saved_tensors
            return (*_listed_gradients(e, columns, categories, gradient), None)
        wanted = [own for own in ctx.given if own.requires_grad]
        found = iter(torch.autograd.grad(ctx.total, wanted, gradient, retain_graph=True))
        return (*(next(found) if own.requires_grad else None for own in ctx.given), None)


def _listed_gradients(
    e: Tensor, columns: Tensor, categories: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the totals of listed columns, by differentiable operations."""
    terms = e[..., None] * gradient[:, None]
    total = torch.zeros_like(columns).index_add(0, categories.flatten(), terms.flatten(0, 1))
    return (columns[categories] @ gradient[..., None])[..., 0], total
