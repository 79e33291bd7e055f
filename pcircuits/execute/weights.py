"""Weights of a layer, and the matrix product in log space that sums and soft inputs are made of.

Values are shifted by their maximum, exponentiated, multiplied with the weights in linear space and
taken back. Where the shifted total is so small that underflow may have lost part of it (the largest
value has weight zero, say), that entry alone is recomputed by a log-sum-exp over its own terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Terms lost to underflow are below K * tiny; totals above these floors outweigh them 1e9 times.
_FLOOR = {torch.float32: 1e-25, torch.float64: 1e-280}
# In a graph, above the root of the smallest number: a second gradient divides by their squares.
_STEEP_FLOOR = {torch.float32: 1e-17, torch.float64: 1e-150}
# Row maxima beyond this are taken out of the weights before they are exponentiated.
_UNSHIFTED = 30.0
# Entries recomputed at once: bounds the memory of the exact path.
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Weights:
    """Log-weights of one layer, in all forms that its evaluation needs.

    Args:
        log: (G, A, O, K) log-weights: G is 1 or the number of folds, A is 1 or the batch size,
            O rows (units of the layer), K columns (units or categories below).
    """

    log: Tensor

    def detached(self) -> Weights:
        """The same weights without their graph: what is cached in them ties no calls together."""
        if not self.log.requires_grad:
            return self
        own = Weights(self.log.detach())
        if "extremes" in self.__dict__:
            own.__dict__["extremes"] = self.extremes
        return own

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Least and largest log-weight."""
        log = self.log.detach()
        if log.device.type == "cpu":
            own = log.numpy()  # numpy's two passes take less time than one of PyTorch
            return float(own.min()), float(own.max())
        low, high = log.aminmax()
        return float(low), float(high)

    @cached_property
    def shift(self) -> Tensor | None:
        """(G, A, O) row maxima taken out of `linear`; None where the rows need none."""
        if self.log.numel() == 0 or max(map(abs, self.extremes)) < _UNSHIFTED:
            return None
        top = self.log.detach().amax(-1)
        top = top.masked_fill(top == -torch.inf, 0.0)
        return None if bool((top.abs() < _UNSHIFTED).all()) else top

    @cached_property
    def bounded(self) -> bool:
        """Whether no total can underflow: shifted, it is at least the least weight."""
        return self.shift is None and self.extremes[0] > least_log_weight(self.log.dtype)

    @cached_property
    def linear(self) -> Tensor:
        """(G, A, O, K) weights exp(log - shift)."""
        return self.log.exp() if self.shift is None else (self.log - self.shift[..., None]).exp()

    @cached_property
    def columns(self) -> Tensor:
        """(K, O) contiguous transpose of `linear`, for a table shared by all folds and examples."""
        if "linear" in self.__dict__ and not self.log.requires_grad:
            return self.linear[0, 0].T.contiguous()
        found: Tensor = _Columns.apply(self.log, self.shift)
        return found

    @cached_property
    def factor(self) -> Tensor:
        """`linear` as `contract` takes it: (O, K) where one table serves all, else all of it."""
        return _factor(self.linear)

    @cached_property
    def transposed(self) -> Tensor:
        """`factor` for the way down: (K, O) or (G, A, K, O), not copied."""
        return self.factor.transpose(-1, -2)

    @cached_property
    def _grouped(self) -> dict[int, Weights]:
        return {}

    def grouped(self, folds: int, size: int) -> Weights:
        """Weights of mixtures in groups, as those of dense sums over what a group reads.

        Args:
            folds: Number of folds F.
            size: Folds H of a group.

        Returns:
            Weights of F / H * K folds: of unit k of a group, from its C operands to its H folds.
        """
        if size not in self._grouped:
            log = self.log.expand(folds, -1, -1, -1).unflatten(0, (-1, size))  # (G, H, A, K, C)
            self._grouped[size] = Weights(log.permute(0, 3, 2, 1, 4).flatten(0, 1))
        return self._grouped[size]

    @property
    def floor(self) -> float:
        """Shifted totals up to this may have lost terms to underflow and are recomputed."""
        return _FLOOR[self.log.dtype]

    @cached_property
    def log_row_sums(self) -> Tensor:
        """(G, A, O) log of the sum of each row: the value of an input whose variable is missing."""
        # Where columns are at hand no second table is made.
        has_columns = "columns" in self.__dict__
        total = self.columns.sum(0)[None, None] if has_columns else self.linear.sum(-1)
        dead = total == 0
        log = torch.where(dead, 1.0, total).log().masked_fill(dead, -torch.inf)
        return log if self.shift is None else log + self.shift


@dataclass(frozen=True, eq=False)
class EdgeWeights:
    """Log-weights of the edges of a segment sum.

    Args:
        log: (E, A, K) log-weights: A is 1 or the batch size, K the units of each node.
    """

    log: Tensor

    def detached(self) -> EdgeWeights:
        """The same weights without their graph."""
        return EdgeWeights(self.log.detach()) if self.log.requires_grad else self

    @property
    def bounded(self) -> bool:
        """Whether nothing can underflow: each sum takes its own largest term out."""
        return True


AnyWeights = Weights | EdgeWeights


class _Columns(torch.autograd.Function):
    """(K, O) exp(log - shift) of one (1, 1, O, K) table, transposed: no other table is made.

    Many sums read the columns, each with a backward of its own, so nothing here is let go after
    the first.
    """

    @staticmethod
    def forward(ctx: Any, log: Tensor, shift: Tensor | None) -> Tensor:
        ctx.log, ctx.shift = log, shift
        columns = _unset(log, log.shape[:1:-1])
        columns.copy_(log[0, 0].T)
        if shift is not None:
            columns -= shift[0, 0]
        columns.exp_()
        ctx.columns = columns.detach()
        return columns

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        columns = ctx.columns
        if torch.is_grad_enabled():
            log = ctx.log if ctx.shift is None else ctx.log - ctx.shift[..., None]
            columns = log[0, 0].T.exp()
        return (gradients[0] * columns).T[None, None], None


def _unset(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An unset tensor, on the CPU in numpy's memory.

    For arrays of megabytes numpy asks for large pages: rows of a vocabulary's table are read in any
    order, and with small pages looking up where they are takes as long as reading them.
    """
    if like.device.type != "cpu":
        return like.new_empty(tuple(shape))
    return torch.from_numpy(np.empty(tuple(shape), like.detach()[:0].numpy().dtype))


class Step(NamedTuple):
    """What the gradient of one sum needs.

    Attributes:
        exponentials: (F, B, K) shifted exponentials of what the sum reads; of a mixing layer
            (F, B, K, C) and of a segment sum (E, B, K), weights included.
        totals: (F, B, O) shifted sums, of which the values are the logarithms.
        low: (F, B, O) bool, totals that underflow may have spoilt, so that their values were found
            otherwise; None if there is none.
        x: (F, B, K) what the sum reads; None without `low`.
        out: (F, B, O) its values; None without `low`.
    """

    exponentials: Tensor
    totals: Tensor
    low: Tensor | None = None
    x: Tensor | None = None
    out: Tensor | None = None


def least_log_weight(dtype: torch.dtype) -> float:
    """Sums with weights above this cannot underflow once the largest value is taken out."""
    return math.log(_FLOOR[dtype])


def log_matmul(x: Tensor, weights: Weights) -> Tensor:
    """log(sum_k exp(x[f, b, k]) w[f, b, o, k]), exactly.

    Args:
        x: (F, B, K) log-values below +inf.
        weights: The weights, G = 1 or F, A = 1 or B.

    Returns:
        (F, B, O) log-values; -inf where no term is positive.
    """
    return log_product(x, weights, bounded=False)[0]


def log_product(x: Tensor, weights: Weights, *, bounded: bool) -> tuple[Tensor, Step]:
    """As `log_matmul`, with what its gradient needs.

    Args:
        x: (F, B, K) log-values below +inf.
        weights: The weights, G = 1 or F, A = 1 or B.
        bounded: Whether `weights.bounded` holds, so that nothing can underflow and nothing is
            checked; then a row of `x` that is all -inf gives NaN.

    Returns:
        (F, B, O) log-values, and what their gradient needs.
    """
    if bounded:
        top = (x.detach() if x.requires_grad else x).amax(-1, keepdim=True)
        e = (x - top).exp_()
        total = e @ weights.columns if weights.factor.ndim == 2 else contract(e, weights.factor)
        return total.log().add_(top), Step(e, total)
    out, step = _log_contract(x, weights.factor, weights.log, weights.shift)
    if weights.shift is not None:
        out = out + weights.shift.expand_as(out)
    return out, step if step.low is None else step._replace(x=x, out=out)


def log_matmul_transposed(x: Tensor, weights: Weights) -> Tensor:
    """log(sum_o exp(x[f, b, o]) w[f, b, o, k]), exactly: the way down through `log_matmul`.

    Args:
        x: (F, B, O) log-values below +inf.
        weights: The weights, G = 1 or F, A = 1 or B.

    Returns:
        (F, B, K) log-values.
    """
    log = weights.log
    if weights.shift is not None:
        x, log = x + weights.shift, log - weights.shift[..., None]
    return _log_contract(x, weights.transposed, log.transpose(-1, -2), None)[0]


def contract(x: Tensor, factor: Tensor) -> Tensor:
    """sum_k x[f, b, k] w[g, a, o, k] as the fewest matrix products.

    Args:
        x: (F, B, K) factors.
        factor: (O, K) weights for all folds and examples, or (G, A, O, K).

    Returns:
        (F, B, O).
    """
    if factor.ndim == 2:
        if x.stride(0) < x.stride(1):
            # Laid out example by example: one product then, where `linear` would do one a fold.
            return torch.nn.functional.linear(x.transpose(0, 1), factor).transpose(0, 1)
        return torch.nn.functional.linear(x, factor)
    groups, examples = factor.shape[:2]
    if examples == 1:
        return torch.bmm(x, factor[:, 0].transpose(1, 2))
    if groups == 1:
        return torch.bmm(x.transpose(0, 1), factor[0].transpose(1, 2)).transpose(0, 1)
    return (factor @ x[..., None])[..., 0]


def outer(u: Tensor, e: Tensor, factor: Tensor) -> Tensor:
    """Gradient of `contract` for its weights: sums u[f, b, o] e[f, b, k] over the shared axes.

    Args:
        u: (F, B, O) gradient of the product.
        e: (F, B, K) what was multiplied.
        factor: The weights, for their shape.

    Returns:
        The gradient, in the shape of `factor`.
    """
    if factor.ndim == 2:
        return u.flatten(0, 1).T @ e.flatten(0, 1)
    groups, examples = factor.shape[:2]
    if examples == 1:
        return torch.bmm(u.transpose(1, 2), e)[:, None]
    if groups == 1:
        return torch.bmm(u.permute(1, 2, 0), e.transpose(0, 1))[None]
    return u[..., None] * e[..., None, :]


def shifted_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """exp(x - top) and the maxima `top` of the last axis, finite also where all of x is -inf."""
    top = x.detach().amax(-1, keepdim=True).clamp_min_(torch.finfo(x.dtype).min)
    return (x - top).exp_(), top


def floor_of(total: Tensor) -> float:
    """Shifted totals up to this are recomputed."""
    return (_STEEP_FLOOR if total.requires_grad else _FLOOR)[total.dtype]


def _factor(table: Tensor) -> Tensor:
    return table[0, 0] if table.shape[:2] == (1, 1) else table


def _log_contract(
    x: Tensor, factor: Tensor, log: Tensor, shift: Tensor | None
) -> tuple[Tensor, Step]:
    e, top = shifted_exp(x)
    total = contract(e, factor)
    floor = floor_of(total)
    if total.numel() == 0 or float(total.detach().amin()) > floor:
        return total.log().add_(top), Step(e, total)
    low = total.detach() <= floor
    out = torch.where(low, 1.0, total).log() + top
    out = out.masked_fill(low, -torch.inf)
    # An entry without any positive term is -inf; only the others are worth the exact path.
    possible = _factor((log > -torch.inf).to(x.dtype))
    support = contract((x > -torch.inf).to(x.dtype), possible)
    redo = (low & (support > 0)).nonzero(as_tuple=True)
    if len(redo[0]) > 0:
        exact = torch.cat([_exact(x, log, at) for at in entry_chunks(redo, x.shape[-1])])
        if shift is not None:
            exact = exact - shift.expand(out.shape)[redo]
        out = out.index_put(redo, exact)
    return out, Step(e, total, low)


def exact_terms(x: Tensor, log: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    """(n, K) log-terms x + log-weight of the n entries (fold, example, row) given by `at`."""
    fold, example, row = at
    return x[fold, example] + log[fold % log.shape[0], example % log.shape[1], row]


def entry_chunks(at: tuple[Tensor, ...], width: int) -> list[tuple[Tensor, ...]]:
    """Splits a list of entries so that `exact_terms` of each part stays small."""
    parts = [index.split(max(1, _CHUNK // max(1, width))) for index in at]
    return list(zip(*parts, strict=True))


def _exact(x: Tensor, log: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    e, top = shifted_exp(exact_terms(x, log, at))
    return e.sum(-1).log() + top[..., 0]
