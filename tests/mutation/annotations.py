"""Places in a source file that no test can see changed."""

from __future__ import annotations

import ast
import io
import itertools
import tokenize
from collections.abc import Iterator

Place = tuple[int, int]


def unseen(source: str) -> list[tuple[Place, Place]]:
    """First and last (line, column) of annotations, `__all__`, protocols and marks in signatures.

    Cosmic Ray takes the star before arguments that go by keyword alone for an operator.
    """
    nodes = [
        (_start(node), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in _unseen(ast.parse(source))
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    stars = [
        (mark.start, mark.end)
        for mark, following in itertools.pairwise(tokens)
        if (mark.string, following.string) == ("*", ",")
    ]
    return nodes + stars


def _unseen(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield node.value
        elif isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
            yield from node.body


def _start(node: ast.expr | ast.stmt) -> Place:
    """Where a node begins; what is decorated, at the sign of its first decorator."""
    marks = getattr(node, "decorator_list", ())
    return (marks[0].lineno, marks[0].col_offset - 1) if marks else (node.lineno, node.col_offset)
