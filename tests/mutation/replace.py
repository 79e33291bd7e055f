"""New code for a function that is loaded, wherever it is referred to."""

from __future__ import annotations

import gc
from pathlib import Path
from types import CodeType, FunctionType


def replace(file: str, line: int, source: str) -> None:
    """Gives the function that holds a line of a file its code in a changed source.

    Raises:
        LookupError: If no function of that name and line is loaded.
    """
    path = str(Path(file).resolve())
    code = _outermost(compile(source, path, "exec", dont_inherit=True), line)
    loaded = [found for found in gc.get_objects() if type(found) is FunctionType]
    same = [found for found in loaded if _is_at(found.__code__, code, path)]
    if not same:
        raise LookupError(f"{code.co_qualname} of {path} is not loaded")
    for function in same:
        function.__code__ = code


def _is_at(loaded: CodeType, code: CodeType, path: str) -> bool:
    named = loaded.co_qualname == code.co_qualname
    if not named or loaded.co_firstlineno != code.co_firstlineno:
        return False
    return str(Path(loaded.co_filename).resolve()) == path


def _outermost(module: CodeType, line: int) -> CodeType:
    """The code of the function that holds a line and stands in no other one."""
    code = module
    while True:
        within = [part for part in code.co_consts if isinstance(part, CodeType)]
        code = next(part for part in within if part.co_firstlineno <= line <= _last(part))
        if code.co_flags & 2:  # CO_NEWLOCALS: a function, no class body
            return code


def _last(code: CodeType) -> int:
    lines = [line for _, _, line in code.co_lines() if line is not None]
    return max(lines + [_last(part) for part in code.co_consts if isinstance(part, CodeType)])
