"""Powers of two and exponentials as bits, for either floating-point type, in compiled loops."""

# Inside kernels numbers are typed by numba, and loops are what it compiles best.
from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload

from pcircuits.jit import cached_jit

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
# Taylor coefficients of exp, 1/2! .. 1/7!: on |r| <= ln(2) / 2 the rest is below 6e-9.
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1.0 / math.factorial(n)) for n in range(2, 8))


def _reinterpretation(floats: Any, integers: Any, kind: Any) -> Any:
    def typed(typing_context: Any, bits: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], kind)

        return floats(integers), generate

    return typed


# The number with the bits of an integer.
_as_single: Any = intrinsic(_reinterpretation(nb.float32, nb.int32, ir.FloatType()))
_as_double: Any = intrinsic(_reinterpretation(nb.float64, nb.int64, ir.DoubleType()))


def power_of_two(exponent: int, like: Any) -> Any:
    """2 ** exponent in the type of `like`; 0 below the normal range, the largest above it."""
    return type(like)(math.ldexp(1.0, exponent))


@overload(power_of_two, inline="always")
def _power_of_two_by_type(exponent: Any, like: Any) -> Any:
    if like == nb.float32:

        def single(exponent: Any, like: Any) -> Any:
            return _as_single(np.int32(max(min(exponent, 127), -127) + 127) << np.int32(23))

        return single

    def double(exponent: Any, like: Any) -> Any:
        return _as_double((max(min(exponent, 1023), -1023) + 1023) << 52)

    return double


def exp(x: float) -> float:
    """Exponential of a number <= 0; replaced below by what numba compiles."""
    return math.exp(x)


@overload(exp, inline="always")
def _exp_by_type(x: Any) -> Any:
    if x != nb.float32:

        def library(x: Any) -> Any:
            return math.exp(x)

        return library

    # In single precision the library's function is called once for each number; this one becomes
    # vector instructions. Below -87 a single float has no normal exponential: zero.
    def polynomial(x: Any) -> Any:
        n = np.float32(math.floor(max(x, np.float32(-87.0)) * _LOG2_E + np.float32(0.5)))
        r = max(x, np.float32(-87.0)) - n * _LN2_HIGH - n * _LN2_LOW
        p = _C6 + r * _C7
        p = _C5 + r * p
        p = _C4 + r * p
        p = _C3 + r * p
        p = _C2 + r * p
        p = np.float32(1.0) + r + r * r * p
        scale = _as_single((np.int32(n) + np.int32(127)) << np.int32(23))
        return p * scale if x > np.float32(-87.0) else np.float32(0.0)

    return polynomial


compiled: Any = cached_jit(nogil=True, error_model="numpy")
"""Compiles a kernel: once for each machine, and without the interpreter's lock."""
