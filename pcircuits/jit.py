"""Compiled functions whose machine code is kept on the disk where that can be.

Numba refuses to define a function whose code it cannot keep: where the package and the home are
both read-only, nothing could be imported. Here such a function is compiled anew in each process,
and one warning says so. A disk that fills up later costs no result either.

Numba also keeps the code of a function as long as the function's own file is what it was, although
functions of other files are compiled into it. Here it is kept as long as all of them are.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

_warned: list[bool] = []


def cached_jit(**options: Any) -> Callable[[Function], Function]:
    """`numba.njit` with `cache=True`, which works also where nothing can be kept.

    Args:
        **options: Other options of `numba.njit`.
    """

    def decorate(function: Function) -> Function:
        compiled: Any
        try:
            compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            _warn(str(error))
            compiled = numba.njit(**options)(function)
        else:
            kept = compiled._cache._cache_file
            kept._source_stamp = (
                *kept._source_stamp,
                _sum_of(function.__module__.partition(".")[0]),
            )
            compiled._cache = _Forgiving(compiled._cache)
        # For callers it is the function, with its types.
        return cast(Function, compiled)

    return decorate


@cache
def _sum_of(package: str) -> int:
    """Check sum of the files with compiled functions; 0 of a module that is no package."""
    total = 0
    folders = getattr(sys.modules[package], "__path__", ())
    for file in sorted(file for folder in folders for file in Path(folder).rglob("*.py")):
        content = file.read_bytes()
        if b"@compiled" in content or b"jit(" in content:
            total = zlib.crc32(content, total)
    return total


class _Forgiving:
    """Numba's cache of one function, where what cannot be kept or read is compiled instead.

    Args:
        cache: The cache.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *args: Any) -> Any:
        """The code of some types of arguments, or None."""
        try:
            return self._cache.load_overload(*args)
        except (OSError, EOFError, ValueError, AttributeError, ImportError) as error:
            _warn(f"what numba kept cannot be read: {error!r}")
            return None

    def save_overload(self, *args: Any) -> None:
        """Keeps the code of some types of arguments."""
        try:
            self._cache.save_overload(*args)
        except OSError as error:
            _warn(f"compiled code cannot be kept: {error}")


def _warn(reason: str) -> None:
    if not _warned:
        _warned.append(True)
        warnings.warn(
            f"{reason}; it is compiled anew in each process. Set NUMBA_CACHE_DIR to a folder that "
            "can be written to",
            RuntimeWarning,
            stacklevel=2,
        )
