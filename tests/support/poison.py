"""Memory that nobody has written holds NaN, and kernels may not look beyond their arguments.

A kernel that forgets an element, reads scratch memory before it has set it, or lacks a mask at the
edge of a tile is usually right by luck: fresh memory tends to be zero. Here it is never right.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from pcircuits.execute.fused import arenas, memory

_M_PERTURB = -6
# glibc fills what it hands out with the low byte of this ^ 0xff. Four and eight bytes of all ones
# are a NaN of float32 and float64; other values of the low byte would give ordinary numbers.
_ALL_ONES = 0x100
_SMALL_BLOCKS = range(16, 1040, 16)
_BLOCKS_OF_A_SIZE = 8  # the C library keeps up to seven of each small size
_EMPTY, _EMPTY_LIKE = np.empty, np.empty_like


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fills every fresh allocation with NaN (integers with their largest value).

    Covers torch on every device, numpy, blocks that are taken again, what compiled code allocates,
    and, where Triton interprets its kernels, masked loads without a value for the masked-out lanes
    and accesses outside the tensors that a kernel was given, which raise.

    What the C library keeps of small freed blocks is poisoned once, at the start; start the process
    with `GLIBC_TUNABLES=glibc.malloc.tcache_count=0` to have it poisoned always.
    """
    with ExitStack() as stack:
        stack.enter_context(_numpy())
        stack.enter_context(_lent_blocks())
        stack.enter_context(_heap() if _has_mallopt() else _torch_allocations())
        if torch.cuda.is_available():
            stack.enter_context(_torch_allocations())
        if os.environ.get("TRITON_INTERPRET") == "1" and "triton" in sys.modules:
            stack.enter_context(_interpreted_kernels())
        yield


def embedded(tensor: Tensor) -> Tensor:
    """The same numbers, contiguous, with NaN (or an absurd integer) before and behind them."""
    margin, size = 64, tensor.numel()
    if tensor.is_floating_point():
        wide = tensor.new_full((size + 2 * margin,), torch.nan)
    elif tensor.dtype == torch.bool:
        wide = tensor.new_ones(size + 2 * margin)
    else:
        wide = tensor.new_full((size + 2 * margin,), torch.iinfo(tensor.dtype).max)
    wide[margin : margin + size] = tensor.detach().reshape(-1)
    return wide[margin : margin + size].view(tensor.shape)


def _has_mallopt() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


@contextmanager
def _heap() -> Iterator[None]:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    if library.mallopt(_M_PERTURB, _ALL_ONES) != 1:
        raise RuntimeError("the C library does not fill allocated memory")
    # Small blocks that were freed before would be handed out as they are: keep them here.
    kept = [library.malloc(size) for size in _SMALL_BLOCKS for _ in range(_BLOCKS_OF_A_SIZE)]
    try:
        yield
    finally:
        library.mallopt(_M_PERTURB, 0)
        for block in kept:
            library.free(block)


@contextmanager
def _torch_allocations() -> Iterator[None]:
    """Torch's own switch: without a C library that fills, and for devices."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@contextmanager
def _numpy() -> Iterator[None]:
    """numpy hands freed small arrays out again, past the C library."""
    np.empty, np.empty_like = _filled_empty, _filled_empty_like  # type: ignore[assignment]
    try:
        yield
    finally:
        np.empty, np.empty_like = _EMPTY, _EMPTY_LIKE


@contextmanager
def _lent_blocks() -> Iterator[None]:
    """The fused implementation takes memory of earlier calls again."""
    lent, taken = memory._lent, arenas._take

    def filled(block: Any) -> Any:
        own = lent(block)
        own.fill(0xFF)  # bytes of which floats of any size are NaN
        return own

    def filled_arenas(own: Any) -> bool:
        found = taken(own)
        if found:
            own.block.fill(0xFF)
        return found

    memory._lent, arenas._take = filled, filled_arenas
    try:
        yield
    finally:
        memory._lent, arenas._take = lent, taken


def _filled_empty(*args: Any, **kwargs: Any) -> Any:
    return _filled(_EMPTY(*args, **kwargs))


def _filled_empty_like(*args: Any, **kwargs: Any) -> Any:
    return _filled(_EMPTY_LIKE(*args, **kwargs))


def _filled(array: Any) -> Any:
    if np.issubdtype(array.dtype, np.inexact):
        array.fill(np.nan)
    elif np.issubdtype(array.dtype, np.integer):
        array.fill(np.iinfo(array.dtype).max)
    return array


# What is compiled meanwhile is kept on disk for later, so it gets the functions as they are.
@overload(_filled_empty)
def _compiled_empty(shape: Any, dtype: Any = float) -> Any:
    def plain(shape: Any, dtype: Any = float) -> Any:
        return _EMPTY(shape, dtype)

    return plain


@overload(_filled_empty_like)
def _compiled_empty_like(prototype: Any) -> Any:
    def plain(prototype: Any) -> Any:
        return _EMPTY_LIKE(prototype)

    return plain


@contextmanager
def _interpreted_kernels() -> Iterator[None]:
    """Masked-out lanes are NaN unless the kernel says what they are; pointers are checked."""
    from triton.runtime import interpreter as at

    builder, executor = at.InterpreterBuilder, at.GridExecutor
    load, store = builder.create_masked_load, builder.create_masked_store
    arguments = executor._init_args_hst
    allowed: list[tuple[int, int]] = []

    def init_arguments(self: Any, args: Any, kwargs: Any) -> Any:
        found = arguments(self, args, kwargs)
        allowed[:] = map(_addresses, _tensors([*found[0], *found[1].values()]))
        return found

    def masked_load(self: Any, pointers: Any, mask: Any, other: Any, *options: Any) -> Any:
        _check_addresses(pointers, mask, allowed)
        if other is None:
            kind = pointers.get_element_ty()
            garbage = _undefined(pointers.data.shape, at._get_np_dtype(kind), kind.is_bf16())
            other = at.TensorHandle(garbage, kind)
        return load(self, pointers, mask, other, *options)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *options: Any) -> Any:
        _check_addresses(pointers, mask, allowed)
        return store(self, pointers, value, mask, *options)

    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store
    executor._init_args_hst = init_arguments
    try:
        yield
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        executor._init_args_hst = arguments


def _undefined(shape: tuple[int, ...], dtype: Any, is_bf16: bool) -> np.ndarray:
    if is_bf16:
        return np.full(shape, 0x7FC0, dtype)  # interpreted as bits: a NaN
    return _filled(_EMPTY(shape, dtype))


def _tensors(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.numel():
            yield argument
        elif isinstance(argument, tuple):
            yield from _tensors(argument)


def _addresses(tensor: Tensor) -> tuple[int, int]:
    """First address of a tensor's elements and the one behind the last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


def _check_addresses(pointers: Any, mask: Any, allowed: list[tuple[int, int]]) -> None:
    used = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
    if used.size == 0:
        return
    inside = np.zeros(used.shape, bool)
    for start, end in allowed:
        inside |= (used >= start) & (used < end)
    if not inside.all():
        raise IndexError(
            f"a kernel uses {int((~inside).sum())} of {used.size} addresses outside its arguments"
        )
