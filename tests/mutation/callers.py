"""Where a function is named: what runs compiled code cannot be traced, but what calls it can."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

Place = tuple[str, int]  # a file, and one of its lines
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def callers(files: Iterable[str], place: Place, is_traced: Callable[[Place], bool]) -> list[Place]:
    """The nearest traced lines that name what a place belongs to: a function, a name of its module.

    Where a line that names it is not traced, such as one of another compiled function, the lines
    that name what that one belongs to come in its place.

    Args:
        files: Where to look.
        place: Where to begin.
        is_traced: Whether it is known what runs a line.
    """
    known, found, asked = list(files), [], [place]
    seen: set[tuple[str, str]] = set()
    for file, line in asked:  # it grows
        names = [name for name in _names(file, line) if (file, name) not in seen]
        seen |= {(file, name) for name in names}
        uses = [use for other in known for name in names for use in _uses(other, file, name)]
        found += [use for use in uses if is_traced(use)]
        asked += [use for use in uses if not is_traced(use)]
    return found


def _names(file: str, line: int) -> list[str]:
    """The names that the statement of a module gives which holds a line."""
    for node in _tree(file).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if not first <= line <= (node.end_lineno or first):
            continue
        if isinstance(node, _FUNCTIONS | ast.ClassDef):
            return [node.name, *_served(node)]
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
        return [n.id for n in stored if isinstance(n.ctx, ast.Store)]
    return []


def _served(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[str]:
    """Names given to decorators, such as that of a function which this one is the code of."""
    calls = [own for own in node.decorator_list if isinstance(own, ast.Call)]
    return [given.id for own in calls for given in own.args if isinstance(given, ast.Name)]


def _uses(file: str, of: str, name: str) -> list[Place]:
    """Lines of a file that name something of a file: the file itself or one that imports it."""
    tree, here = _tree(file), file == of
    if not here and Path(of).stem not in _imported(tree):
        return []
    return [
        (file, node.lineno)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.Attribute) and node.attr == name and not here)
    ]


@cache
def _imported(tree: ast.Module) -> set[str]:
    """Last parts of modules that a file imports, or imports something of."""
    nodes = list(ast.walk(tree))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names = [a.name for n in nodes if isinstance(n, ast.ImportFrom | ast.Import) for a in n.names]
    return {module.rpartition(".")[2] for module in modules + names}


def _tree(file: str) -> ast.Module:
    return _parsed(Path(file).read_text(encoding="utf-8"))


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)
