"""How large an error is allowed: as large as that of plain arithmetic of the same precision.

A tolerance that is guessed is either too wide, and hides mistakes, or too narrow for some circuit.
So it is measured: the oracle evaluates the very same case once in float64, and once with the result
of every single operation, gradients included, rounded to the lower precision. That is a plain
log-sum-exp of that precision, without any of the shortcuts of a fast path. A fast path may add up
in another order, so its error is another draw from the same distribution; a few times the largest
measured one is allowed, and a few units in the last place of the largest intermediate number, since
a case with few numbers may be exact by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# A fast path's error against the measured one, and against the unit of the largest intermediate.
_MULTIPLE = 4.0
_UNITS = 8.0
# How the names of log-values among results start; all others are gradients.
VALUE = "value"


@dataclass(frozen=True)
class Precision:
    """A precision to be imitated in float64.

    Attributes:
        result: What every operation's result is rounded to.
        factor: What factors of matrix products are rounded to, which the oracle has as
            exponentials: a number of bits of the significand, the leading one included.
    """

    result: torch.dtype
    factor: int | None = None

    @property
    def unit(self) -> float:
        """Relative distance of neighbouring numbers."""
        return torch.finfo(self.result).eps

    @property
    def factor_unit(self) -> float:
        """The same of factors; never less than that of results."""
        return self.unit if self.factor is None else max(self.unit, 2.0 ** (1 - self.factor))


FLOAT64 = Precision(torch.float64)
FLOAT32 = Precision(torch.float32)
TF32 = Precision(torch.float32, factor=11)
BFLOAT16 = Precision(torch.float32, factor=8)


class Rounded(TorchDispatchMode):
    """Every float64 operation gives a result rounded to a lower precision, also in backward passes.

    Attributes:
        largest: Largest finite magnitude among all results.
    """

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self._precision = precision
        self.largest = 1.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))

        def rounded(tensor: Tensor) -> Tensor:
            own = self._round(tensor, function is torch.ops.aten.exp.default)
            # Views, and what an operation changes, are known by their identity.
            if own is tensor or torch.equal(own, tensor):
                return tensor
            return tensor.copy_(own) if function._schema.is_mutable else own

        return tree_map_only(Tensor, rounded, found)

    def _round(self, tensor: Tensor, is_factor: bool) -> Tensor:
        if tensor.dtype != torch.float64 or tensor.numel() == 0:
            return tensor
        finite = tensor.nan_to_num(0.0, 0.0, 0.0).abs().amax()
        self.largest = max(self.largest, float(finite))
        rounded = tensor
        if self._precision.result != torch.float64:
            rounded = tensor.to(self._precision.result).double()
        if is_factor and self._precision.factor is not None:
            rounded = _significant(rounded, self._precision.factor)
        return rounded


def _significant(tensor: Tensor, bits: int) -> Tensor:
    significand, exponent = torch.frexp(tensor)
    return torch.ldexp((significand * 2.0**bits).round() / 2.0**bits, exponent)


@dataclass(frozen=True)
class Allowed:
    """Exact results and how far others may be from them.

    Attributes:
        exact: Name -> float64 result.
        errors: Name -> largest allowed absolute error.
    """

    exact: Mapping[str, Tensor]
    errors: Mapping[str, float]

    def check(self, found: Mapping[str, Tensor], what: str) -> float:
        """Compares results; returns the largest error as a share of what is allowed.

        Raises:
            AssertionError: If one is too far off, is NaN, or is infinite where it should not be.
        """
        assert found.keys() == self.exact.keys()
        worst = 0.0
        for name, tensor in found.items():
            exact = self.exact[name]
            assert tensor.shape == exact.shape, f"{what}: {name} has shape {tuple(tensor.shape)}"
            assert not tensor.isnan().any(), f"{what}: {name} has NaN\n{tensor}"
            infinite = exact.isinf()
            assert torch.equal(tensor.double()[infinite], exact[infinite]), f"{what}: {name}"
            errors = (tensor.double() - exact)[~infinite].abs()
            error, limit = _largest(errors), self.errors[name]
            assert error <= limit, (
                f"{what}: {name} is off by {error:.3g}; expected at most {limit:.3g}\n"
                f"{tensor}\n{exact}"
            )
            worst = max(worst, error / limit if limit else 0.0)
        return worst


def allowed(
    evaluate: Callable[[], Mapping[str, Tensor]], precision: Precision, *, cancelling: bool = False
) -> Allowed:
    """Exact results of an evaluation by the oracle, and errors that a precision excuses.

    Args:
        evaluate: Calls the oracle and gives results by name: any values and their gradients.
        precision: The precision of the path under test. For float64 there is nothing exact to
            measure against: the error of float32 is measured and scaled by the ratio of units.
        cancelling: Whether results are differences of numbers as large as the largest of all, as
            gradients of gradients are, so that their errors are relative to that.
    """
    exact = evaluate()
    measured = FLOAT32 if precision.result == torch.float64 else precision
    with Rounded(measured) as arithmetic:
        rounded = evaluate()
    ratio = precision.unit / measured.unit
    units = arithmetic.largest * precision.unit + precision.factor_unit
    gradients = [tensor for name, tensor in exact.items() if not name.startswith(VALUE)]
    flow = max(map(_largest, gradients), default=0.0)
    small = precision.unit * flow
    errors = {}
    for name, tensor in exact.items():
        finite = tensor.isfinite() & rounded[name].isfinite()
        difference = _largest(rounded[name][finite] - tensor[finite])
        # A gradient is an exponential of log-values, so their absolute error is its relative one;
        # and those of examples may cancel, which leaves the rounding of what they add up.
        own = flow if cancelling else _largest(tensor[finite])
        size = 1.0 if name.startswith(VALUE) else own
        errors[name] = _MULTIPLE * ratio * difference + _UNITS * (units * size + small)
    return Allowed(exact, errors)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().amax()) if tensor.numel() else 0.0
