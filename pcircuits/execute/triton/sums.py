"""Dense sums in log space with the product layer below them: one kernel, nothing in between stored.

The operands' product is formed in registers, shifted by its row maxima, exponentiated, multiplied
with linear weights on tensor cores, and taken back. Totals that underflow may have spoilt are
recomputed from their own terms by the same program, so that nobody has to ask the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
from torch import Tensor

from pcircuits.execute.triton.kernels_sum import sum_kernel
from pcircuits.execute.triton.launch import Launch, Tiles, precision_of, tiles_of
from pcircuits.execute.weights import Weights

# Operands that a kernel reads; of more, some are added before.
MOST_OPERANDS = 4
# As in `weights`: totals above these outweigh what underflow may have lost 1e9 times.
FLOORS = {torch.float32: 1e-25, torch.float64: 1e-280}


class LinearWeights(NamedTuple):
    """Weights as the kernels read them.

    Attributes:
        log: (G, A, O, K) log-weights: G is 1 or the number of folds, A 1 or the batch size.
        linear: (G, A, O, K) exp(log - shift), at most 1.
        shift: (G, A, O) row maxima; 0 for rows without a positive weight.
    """

    log: Tensor
    linear: Tensor
    shift: Tensor

    @classmethod
    def of(cls, log: Tensor) -> LinearWeights:
        """Computes them, on the device, whatever the log-weights are."""
        log = log.detach()
        top = log.amax(-1)
        shift = top.masked_fill(top == -torch.inf, 0.0)
        return cls(log, (log - shift[..., None]).exp_(), shift)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of folds, examples, rows and columns; 0 along what is shared."""
        return _shared(self.linear)

    @property
    def log_strides(self) -> tuple[int, ...]:
        """As `strides`, of the log-weights."""
        return _shared(self.log)


_KEPT: WeakKeyDictionary[Weights, LinearWeights] = WeakKeyDictionary()


def linear_weights(weights: Weights) -> LinearWeights:
    """The weights as kernels read them, computed once for each object."""
    found = _KEPT.get(weights)
    if found is None:
        found = _KEPT[weights] = LinearWeights.of(weights.log)
    return found


class Sums(NamedTuple):
    """Values of sums, and what their gradient needs.

    Attributes:
        out: (F, B, O) log-values.
        totals: (F, B, O) shifted totals where they are positive; where underflow may have spoilt
            them, their logarithm instead, which is negative, or -inf.
        tops: (T, F, B) row maxima that were taken out; T = 2 for all-pairs products, else 1.
    """

    out: Tensor
    totals: Tensor
    tops: Tensor


def log_sum_product(
    operands: Sequence[Tensor],
    weights: LinearWeights,
    *,
    kronecker: bool = False,
    precision: str | None = None,
    sums: Sums | None = None,
) -> Sums:
    """log(sum_k exp(x[f, b, k]) w[f, b, o, k]) for the product x of the operands, exactly.

    Args:
        operands: (F, B, K) log-values below +inf with any strides, whose sum is x; or with
            `kronecker` two, (F, B, I) and (F, B, J), of which x[i * J + j] is the sum of unit i
            of the first and unit j of the second.
        weights: The weights, G = 1 or F, A = 1 or B.
        kronecker: Whether x holds all pairs.
        precision: See `launch.precision_of`.
        sums: Contiguous tensors to write to; default new ones.

    Returns:
        The values, -inf where no term is positive, and what the gradient needs.
    """
    operands = few_operands(operands, kronecker=kronecker)
    if sums is None:
        sums = empty_sums(operands, weights, kronecker=kronecker)
    sum_launch(operands, weights, sums, kronecker=kronecker, precision=precision).run()
    return sums


def few_operands(operands: Sequence[Tensor], *, kronecker: bool) -> tuple[Tensor, ...]:
    """As many operands as a kernel reads, with the same product."""
    if kronecker or len(operands) <= MOST_OPERANDS:
        return tuple(operands)
    rest = operands[MOST_OPERANDS - 1]
    for operand in operands[MOST_OPERANDS:]:
        rest = rest + operand
    return (*operands[: MOST_OPERANDS - 1], rest)


def empty_sums(
    operands: Sequence[Tensor],
    weights: LinearWeights,
    *,
    kronecker: bool,
    layers: int | None = None,
) -> Sums:
    """Tensors for the sums over some operands, or with a first axis for those of several layers."""
    folds, batch = operands[0].shape[:2]
    shapes = [(folds, batch, weights.log.shape[2])] * 2 + [(1 + kronecker, folds, batch)]
    several = () if layers is None else (layers,)
    return Sums(*(weights.log.new_empty(*several, *shape) for shape in shapes))


def sum_launch(
    operands: Sequence[Tensor],
    weights: LinearWeights,
    sums: Sums,
    *,
    kronecker: bool,
    precision: str | None = None,
    tiles: Tiles | None = None,
) -> Launch:
    """The launch of `log_sum_product`; its kernel reads at most `MOST_OPERANDS` operands."""
    folds, batch, units = sums.out.shape
    width, dtype = weights.log.shape[3], weights.log.dtype
    right = operands[1].shape[2] if kronecker else 0
    if tiles is None:
        each = weights.log.shape[1] > 1
        tiles = tiles_of(folds, batch, units, right or width, each=each, dtype=dtype)
    arguments = {
        **operand_arguments(operands),
        **weight_arguments(weights),
        "out": sums.out,
        "totals": sums.totals,
        "tops": sums.tops,
        "folds": folds,
        "batch": batch,
        "UNITS": units,
        "WIDTH": width,
        "RIGHT": right,
        "FLOOR": FLOORS[dtype],
        "LOWEST": torch.finfo(dtype).min / 4,  # so that two of them can be added
        "PRECISION": precision_of(dtype, precision),
        "BLOCK_B": tiles.rows,
        "BLOCK_O": tiles.columns,
        "BLOCK_K": tiles.depth,
    }
    programs = folds * triton.cdiv(batch, tiles.rows) * triton.cdiv(units, tiles.columns)
    return Launch(sum_kernel, programs, arguments, tiles.options)


def operand_arguments(
    operands: Sequence[Tensor], record_strides: Sequence[int] = ()
) -> dict[str, Any]:
    """Pointers of operands and their strides of records, folds, rows and columns."""
    records = record_strides or [0] * len(operands)
    strides = tuple((r, *x.stride()) for r, x in zip(records, operands, strict=True))
    return {"operands": tuple(operands), "strides": strides}


def weight_arguments(weights: LinearWeights) -> dict[str, Any]:
    """Pointers and strides of the weights."""
    return {
        "linear": weights.linear,
        "log": weights.log,
        "shift": weights.shift,
        "linear_strides": weights.strides,
        "log_strides": weights.log_strides,
        "shift_strides": _shared(weights.shift),
    }


def _shared(table: Tensor) -> tuple[int, ...]:
    sizes, strides = table.shape, table.stride()
    return tuple(0 if axis < 2 and sizes[axis] == 1 else s for axis, s in enumerate(strides))
