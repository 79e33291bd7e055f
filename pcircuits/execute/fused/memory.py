"""Memory of arenas, which a later call takes again when nobody holds what is in it.

Memory of some megabytes that goes back to the system after every call costs more to get again,
page by page, than the pass that fills it.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence

import numpy as np
import torch

# Blocks that are kept for later calls, and the bytes of the largest of them.
_KEPT_BLOCKS, LARGEST = 6, 1 << 24
# Arenas begin where a vector of the processor may.
_ALIGNMENT = 64
_APART = 17 * 64
_FREE: list[mmap.mmap] = []


NUMBERS: dict[torch.dtype, np.dtype] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
Wanted = Sequence[tuple[tuple[int, ...], np.dtype]]


def block_for(wanted: Wanted) -> np.ndarray:
    """Bytes, unset, for arrays of given shapes and types.

    When it is gone, with all that `carve` made of it and all views and tensors made of that, they
    are there for the next call.
    """
    return _block(sum(_size(shape, dtype) for shape, dtype in wanted))


def carve(block: np.ndarray, wanted: Wanted) -> list[np.ndarray]:
    """Arrays of given shapes and types one after the other in a block."""
    made, start = [], 0
    for shape, dtype in wanted:
        made.append(np.ndarray(shape, dtype, block, start))
        start += _size(shape, dtype)
    return made


def array_of(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An unset array in a block of its own."""
    wanted = [(shape, dtype)]
    return np.empty(shape, dtype) if 0 in shape else carve(block_for(wanted), wanted)[0]


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array, and up to where the next one may begin."""
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT + _APART


def _block(size: int) -> np.ndarray:
    """So many bytes, unset."""
    if not 0 < size <= LARGEST:
        return np.empty(size, np.uint8)
    for block in reversed(tuple(_FREE)):  # the last one may still be in the caches
        # A block far too large is left for those who need it.
        if size <= len(block) <= 4 * size and _taken(block):
            return _lent(block)
    # Private: processes that are forked from this one would write into shared blocks.
    return _lent(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _taken(block: mmap.mmap) -> bool:
    """Takes a free block; False if another thread was faster."""
    try:
        _FREE.remove(block)
    except ValueError:
        return False
    return True


def _lent(block: mmap.mmap) -> np.ndarray:
    """An array in the place of a block that gives the block back when it dies, with all views."""
    own = np.frombuffer(block, np.uint8)
    weakref.finalize(own, _give_back, block).atexit = False
    return own


def _give_back(block: mmap.mmap) -> None:
    _FREE.append(block)
    del _FREE[:-_KEPT_BLOCKS]
