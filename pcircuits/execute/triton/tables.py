"""Input tables laid out for the kernels: category by category, in linear space.

A table of K units and V categories is stored as (V, K), so that a tile of categories, the column of
one observed category and the columns of listed categories are all read as whole cache lines. The
largest entry of each unit is 1: what was taken out is kept beside as its log.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pcircuits.errors import BackendError
from pcircuits.execute.weights import Weights

PRECISIONS = ("ieee", "tf32x3", "bf16")

# Below these floors (those of `execute.weights`) a total may have lost terms to underflow.
FLOOR = 1e-25
# A possible entry never becomes zero, so that zero means impossible, in bfloat16 too.
TINY = 1.1754944e-38


@dataclass(frozen=True, eq=False)
class Table:
    """Tables of G groups of input nodes.

    Attributes:
        linear: (G, V, K) exp(log - shift), contiguous, float32 or bfloat16.
        log: (G, K, V) float32 log-weights as the parameters hold them, any strides.
        shift: (G, K) float32 row maxima of `log`, 0 for rows that are all -inf.
        precision: How products with it are computed: "ieee" (float32 units), "tf32x3" (three
            products of tensor cores, float32 accuracy) or "bf16" (operands rounded to bfloat16,
            relative error up to 2^-8 a term, accumulated in float32).
    """

    linear: Tensor
    log: Tensor
    shift: Tensor
    precision: str

    @property
    def dot_precision(self) -> str:
        """`input_precision` of the dots; without a meaning for bfloat16 operands."""
        return "ieee" if self.precision == "bf16" else self.precision

    @cached_property
    def log_row_sums(self) -> Tensor:
        """(G, K) log of the sum over all categories: the value of a missing variable."""
        return self.linear.sum(1, dtype=torch.float32).log() + self.shift

    @cached_property
    def possible(self) -> Tensor:
        """(G, V) uint8, whether some unit allows the category."""
        return (self.linear > 0).any(-1).to(torch.uint8)

    def factors(self, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Log-messages (G, R, K) as factors of `linear`, and the maxima (G, R) taken out.

        A possible message keeps a positive factor; the maxima are finite.
        """
        shifted = messages + self.shift[:, None]
        top = shifted.amax(-1).clamp_min_(torch.finfo(torch.float32).min)
        factors = (shifted - top[..., None]).exp_().clamp_min_(TINY)
        return factors.masked_fill_(messages == -torch.inf, 0.0), top


_TABLES: WeakKeyDictionary[Weights, dict[str, Table]] = WeakKeyDictionary()


def table_of(weights: Weights, precision: str) -> Table:
    """The table of an input layer's weights, made once for each of them.

    Args:
        weights: (G, A, K, V) log-weights in float32.
        precision: One of `PRECISIONS`.

    Returns:
        The table of its G * A groups, cut off from any graph.

    Raises:
        BackendError: If the precision is unknown or the weights are not float32.
    """
    found = _TABLES.setdefault(weights, {})
    if precision not in found:
        log = weights.log.detach()
        found[precision] = make_table(log.flatten(0, 1), precision)
    return found[precision]


def make_table(log: Tensor, precision: str) -> Table:
    """Lays out (G, K, V) float32 log-weights; see `table_of`."""
    if precision not in PRECISIONS:
        raise BackendError(f"precision must be one of {PRECISIONS}; found {precision!r}")
    if log.dtype != torch.float32:
        raise BackendError(f"the Triton kernels compute in float32; found weights of {log.dtype}")
    top = log.amax(-1)
    shift = top.masked_fill(top == -torch.inf, 0.0)
    linear = (log - shift[..., None]).exp_().clamp_min_(TINY).masked_fill_(log == -torch.inf, 0.0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return Table(linear.transpose(1, 2).to(dtype).contiguous(), log, shift, precision)
