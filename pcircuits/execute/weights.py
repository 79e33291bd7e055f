"""Weights of a layer, and the matrix product in log space that sums and soft inputs are made of.

Values are shifted by their maximum, exponentiated, multiplied with the weights in linear space and
taken back. Where the shifted total is so small that underflow may have lost part of it (the largest
value has weight zero, say), that entry alone is recomputed by a log-sum-exp over its own terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Terms lost to underflow are below K * tiny; totals above these floors outweigh them by 1e9 or more.
_FLOOR = {torch.float32: 1e-25, torch.float64: 1e-280}
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

    @cached_property
    def shift(self) -> Tensor | None:
        """(G, A, O) row maxima taken out of `linear`; None where the rows need none."""
        top = self.log.detach().amax(-1)
        top = top.masked_fill(top == -torch.inf, 0.0)
        return None if bool((top.abs() < _UNSHIFTED).all()) else top

    @cached_property
    def linear(self) -> Tensor:
        """(G, A, O, K) weights exp(log - shift)."""
        return self.log.exp() if self.shift is None else (self.log - self.shift[..., None]).exp()

    @cached_property
    def columns(self) -> Tensor:
        """(K, O) contiguous transpose of `linear`, for a table shared by all folds and examples."""
        return self.linear[0, 0].T.contiguous()

    @property
    def floor(self) -> float:
        """Shifted totals up to this may have lost terms to underflow and are recomputed."""
        return _FLOOR[self.log.dtype]

    @cached_property
    def log_row_sums(self) -> Tensor:
        """(G, A, O) log of the sum of each row: the value of an input whose variable is missing."""
        total = self.linear.sum(-1)
        dead = total == 0
        log = torch.where(dead, 1.0, total).log().masked_fill(dead, -torch.inf)
        return log if self.shift is None else log + self.shift


def log_matmul(x: Tensor, weights: Weights) -> Tensor:
    """log(sum_k exp(x[f, b, k]) w[f, b, o, k]), exactly.

    Args:
        x: (F, B, K) log-values below +inf.
        weights: The weights, G = 1 or F, A = 1 or B.

    Returns:
        (F, B, O) log-values; -inf where no term is positive.
    """
    out = _log_contract(x, weights.linear, weights.log, weights.shift)
    return out if weights.shift is None else out + weights.shift.expand_as(out)


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
    return _log_contract(x, weights.linear.transpose(-1, -2), log.transpose(-1, -2), None)


def contract(x: Tensor, linear: Tensor) -> Tensor:
    """sum_k x[f, b, k] w[g, a, o, k] as the fewest matrix products; returns (F, B, O)."""
    (folds, batch, units), (groups, examples, rows, _) = x.shape, linear.shape
    if examples == 1 and groups == 1:
        return (x.reshape(folds * batch, units) @ linear[0, 0].T).view(folds, batch, rows)
    if examples == 1:
        return torch.bmm(x, linear[:, 0].transpose(1, 2))
    if groups == 1:
        return torch.bmm(x.transpose(0, 1), linear[0].transpose(1, 2)).transpose(0, 1)
    return (linear @ x[..., None])[..., 0]


def outer(u: Tensor, e: Tensor, linear: Tensor) -> Tensor:
    """Gradient of `contract` for its weights: sums u[f, b, o] e[f, b, k] over the shared axes."""
    groups, examples, rows, columns = linear.shape
    if examples == 1 and groups == 1:
        return (u.reshape(-1, rows).T @ e.reshape(-1, columns))[None, None]
    if examples == 1:
        return torch.bmm(u.transpose(1, 2), e)[:, None]
    if groups == 1:
        return torch.bmm(u.permute(1, 2, 0), e.transpose(0, 1))[None]
    return u[..., None] * e[..., None, :]


def log_floor(dtype: torch.dtype) -> float:
    """Log of the shifted total below which an entry is recomputed exactly."""
    return math.log(_FLOOR[dtype])


def shifted_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """exp(x - top) and the maxima `top` of the last axis, finite also where all of x is -inf."""
    top = x.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
    return (x - top).exp(), top


def _log_contract(x: Tensor, linear: Tensor, log: Tensor, shift: Tensor | None) -> Tensor:
    e, top = shifted_exp(x)
    total = contract(e, linear)
    floor = _FLOOR[x.dtype]
    if total.numel() == 0 or float(total.detach().amin()) > floor:
        return total.log() + top
    low = total.detach() <= floor
    out = torch.where(low, 1.0, total).log() + top
    out = out.masked_fill(low, -torch.inf)
    # An entry without any positive term is -inf; only the others are worth the exact path.
    support = contract((x > -torch.inf).to(x.dtype), (log > -torch.inf).to(x.dtype))
    redo = (low & (support > 0)).nonzero(as_tuple=True)
    if len(redo[0]) == 0:
        return out
    exact = torch.cat([_exact(x, log, at) for at in entry_chunks(redo, x.shape[-1])])
    if shift is not None:
        exact = exact - shift.expand(out.shape)[redo]
    return out.index_put(redo, exact)


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
