"""Matrix products within compiled code, by the routines that PyTorch or SciPy brings."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import get_cython_function_address, intrinsic

from pcircuits.execute.fused.kernels import Array, compiled

# Sizes that a matrix product is told, and before them the letters for "as it is", "transposed".
SIZES, _LETTERS = 7, ord("N") + (ord("T") << 8)
_NAMES = {torch.float32: "sgemm", torch.float64: "dgemm"}


@cache
def address_of(dtype: torch.dtype) -> int:
    """Address of the BLAS routine for matrices of a type.

    PyTorch's own, which knows the number of threads that PyTorch was given, where its library shows
    it; else SciPy's.
    """
    name = _NAMES[dtype]
    for library in (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"):
        try:
            routine = getattr(ctypes.CDLL(str(library)), f"{name}_")
        except (OSError, AttributeError):
            continue
        return int(ctypes.cast(routine, ctypes.c_void_p).value or 0)
    return int(get_cython_function_address("scipy.linalg.cython_blas", name))


def _calling(typing: Any, routine: Any, pointers: Any) -> Any:
    """Code that calls the routine at an address with 13 pointers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word] * 13)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, [builder.extract_value(arguments[1], i) for i in range(13)])
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, 13)), code


_call: Any = intrinsic(_calling)


@compiled
def multiply_matrices(
    routine: int,
    left: int,
    left_transposed: bool,
    right: int,
    right_transposed: bool,
    out: int,
    rows: int,
    inner: int,
    columns: int,
    scalars: Array,
    sizes: Array,
) -> None:
    """The product of two matrices whose rows lie one after the other, given by address.

    Args:
        routine: What `address_of` returns.
        left: (rows, inner), or (inner, rows) if it is to be transposed.
        left_transposed: Whether it is.
        right: (inner, columns), or (columns, inner) if it is to be transposed.
        right_transposed: Whether it is.
        out: (rows, columns).
        rows: Rows of the result.
        inner: Terms of each sum.
        columns: Columns of the result.
        scalars: (2,) one, and by what number the former result is multiplied and added.
        sizes: (SIZES,) integers, overwritten. It is the caller's, since an array made here would
            be let go before the routine has read it.
    """
    multiply_blocks(
        routine,
        left,
        left_transposed,
        rows if left_transposed else inner,
        right,
        right_transposed,
        inner if right_transposed else columns,
        out,
        columns,
        rows,
        inner,
        columns,
        scalars,
        sizes,
    )


@compiled
def multiply_blocks(
    routine: int,
    left: int,
    left_transposed: bool,
    left_width: int,
    right: int,
    right_transposed: bool,
    right_width: int,
    out: int,
    out_width: int,
    rows: int,
    inner: int,
    columns: int,
    scalars: Array,
    sizes: Array,
) -> None:
    """`multiply_matrices` of blocks of columns of matrices, whose rows are `..._width` long."""
    # To BLAS, which has columns one after the other, these are the transposes, in the other order.
    sizes[0], sizes[1], sizes[2], sizes[3] = _LETTERS, columns, rows, inner
    sizes[4], sizes[5], sizes[6] = right_width, left_width, out_width
    # Of little-endian words the first half is the same number: routines take either size.
    size, scalar = sizes.ctypes.data, scalars.ctypes.data
    _call(
        routine,
        (
            *(size + int(right_transposed), size + int(left_transposed)),
            *(size + 8, size + 16, size + 24, scalar),
            *(right, size + 32, left, size + 40),
            *(scalar + scalars.itemsize, out, size + 48),
        ),
    )
