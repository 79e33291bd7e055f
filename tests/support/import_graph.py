"""The import graph of a package, read from its source with `ast`: nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` where name is None."""

    file: Path
    line: int
    module: str
    name: str | None = None
    alias: str | None = None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class SourceModule:
    """A source file, its dotted name, and what it imports, at any depth of the file."""

    name: str
    file: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def unit(self) -> str:
        """The top-level file or folder of the package that the module belongs to."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


def read_package(root: Path, package: str) -> dict[str, SourceModule]:
    """Reads every module of the package below root, by dotted name."""
    modules = {}
    for file in sorted((root / package).rglob("*.py")):
        parts = list(file.relative_to(root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        parent = name if is_package else name.rpartition(".")[0]
        imports = tuple(_imports(tree, file.relative_to(root), parent))
        modules[name] = SourceModule(name, file.relative_to(root), tree, imports)
    return modules


def _imports(tree: ast.Module, file: Path, parent: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, alias=alias.asname)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, parent)
            for alias in node.names:
                yield Import(file, node.lineno, module, alias.name, alias.asname)


def _absolute(node: ast.ImportFrom, parent: str) -> str:
    if node.level == 0:
        return node.module or ""
    base = parent.split(".")[: len(parent.split(".")) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def target_of(item: Import, modules: Mapping[str, SourceModule]) -> SourceModule | None:
    """The module of the package that an import reaches; None for one of another package."""
    if item.name is not None and f"{item.module}.{item.name}" in modules:
        return modules[f"{item.module}.{item.name}"]
    return modules.get(item.module)


def find_cycle(edges: Mapping[str, set[str]]) -> list[str] | None:
    """A cycle of the directed graph as a list that ends where it begins, or None."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return None
        for successor in sorted(edges.get(node, ())):
            if cycle := visit(successor, [*path, node]):
                return cycle
        finished.add(node)
        return None

    return next((cycle for node in sorted(edges) if (cycle := visit(node, []))), None)
