"""Imports run one way: the ranks of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.import_graph import SourceModule, find_cycle, read_package, target_of

ROOT = Path(__file__).resolve().parents[1]

# A file imports only lower ranks. Top-level files of equal rank may import those listed earlier.
RANKS: dict[str, dict[str, int]] = {
    "pcircuits": {
        "errors": 0,
        "files": 0,
        "jit": 0,
        "structure": 1,
        "validate": 2,
        "compile": 3,
        "parameters": 4,
        "scalars": 4,
        "execute": 5,
        "queries": 6,
        "operators": 7,
        "learning": 8,
        "io": 8,
        "module": 9,
        "viz": 10,
        "cli": 11,
        "__init__": 12,
    },
    "codd": {
        "errors": 0,
        "types": 1,
        "config": 1,
        "vocabulary": 1,
        "checkpoint": 1,
        "hub": 1,
        "published": 1,
        "denoisers": 2,
        "coupling": 3,
        "modulators": 3,
        "window": 4,
        "members": 4,
        "decoding": 4,
        "pretrained": 5,
        "assembly": 5,
        "model_card": 5,
        "coupled": 5,
        "model": 5,
        "training": 6,
        "evaluation": 6,
        "compat": 6,
        "viz": 7,
        "cli": 8,
        "lm_eval": 8,
        "__init__": 10,
    },
}
FORBIDDEN_LIBRARIES = {
    ("pcircuits", "structure"): {"torch", "numpy"},
    ("pcircuits", "compile"): {"torch"},
}
IMPLEMENTATIONS = {"reference", "eager", "fused", "numba", "triton"}

Modules = Mapping[str, SourceModule]


def unknown_units(root: Path) -> Iterator[str]:
    """Top-level files and folders that have no rank."""
    for package, ranks in RANKS.items():
        units = {module.unit for module in read_package(root, package).values()}
        for unit in sorted(units - set(ranks)):
            yield f"{package}/{unit} has no rank: add it to RANKS and to docs/architecture.md"


def rank_violations(root: Path) -> Iterator[str]:
    """Imports of a rank that is not lower."""
    for package, ranks in RANKS.items():
        modules = read_package(root, package)
        for source in modules.values():
            for item in source.imports:
                target = target_of(item, modules)
                if target and not _may_import(source, target, ranks):
                    yield (
                        f"{item.place}: {source.name} (rank {ranks.get(source.unit)}) must not "
                        f"import {target.name} (rank {ranks.get(target.unit)})"
                    )


def _may_import(source: SourceModule, target: SourceModule, ranks: Mapping[str, int]) -> bool:
    if source.unit == target.unit:
        return True
    source_rank, target_rank = ranks.get(source.unit, -1), ranks.get(target.unit, len(ranks))
    if source_rank == target_rank and _is_file(source) and _is_file(target):
        order = list(ranks)
        return order.index(target.unit) < order.index(source.unit)
    return target_rank < source_rank


def _is_file(module: SourceModule) -> bool:
    return len(module.file.parts) == 2


def cycles(root: Path) -> Iterator[str]:
    """Import cycles between modules of one package; by the ranks they lie inside one folder."""
    for package in RANKS:
        modules = read_package(root, package)
        edges: dict[str, set[str]] = {}
        for source in modules.values():
            targets = (target_of(item, modules) for item in source.imports)
            edges[source.name] = {target.name for target in targets if target}
        if cycle := find_cycle(edges):
            yield f"import cycle: {' -> '.join(cycle)}"


def forbidden_libraries(root: Path) -> Iterator[str]:
    """Libraries that a folder must do without."""
    for (package, unit), libraries in FORBIDDEN_LIBRARIES.items():
        for source in read_package(root, package).values():
            for item in source.imports:
                if source.unit == unit and item.root in libraries:
                    yield f"{item.place}: {package}/{unit} must not import {item.root}"


def coupled_implementations(root: Path) -> Iterator[str]:
    """Implementations of the executor that import one another."""
    modules = read_package(root, "pcircuits")
    for source in modules.values():
        own = _implementation(source)
        for item in source.imports if own else ():
            target = target_of(item, modules)
            other = _implementation(target) if target else None
            if other not in (None, own):
                yield f"{item.place}: implementation {own} must not import {other}"


def _implementation(module: SourceModule) -> str | None:
    match module.name.split("."):
        case ["pcircuits", "execute", name, *_] if name in IMPLEMENTATIONS:
            return name
    return None


def upward_packages(root: Path) -> Iterator[str]:
    """Imports of codd in pcircuits."""
    for source in read_package(root, "pcircuits").values():
        for item in source.imports:
            if item.root == "codd":
                yield f"{item.place}: pcircuits must not import codd"


def private_uses(root: Path) -> Iterator[str]:
    """Uses of pcircuits in codd that are not of its public names."""
    public = _public_names(read_package(root, "pcircuits"))
    for source in read_package(root, "codd").values():
        for item in source.imports:
            if item.root != "pcircuits":
                continue
            if item.module != "pcircuits" or (item.name is None and item.alias != "pc"):
                yield f"{item.place}: write `import pcircuits as pc`, not {item.module}"
            elif item.name is not None and item.name not in public:
                yield f"{item.place}: pcircuits.{item.name} is not in pcircuits.__all__"
        if any(item.module == "pcircuits" and item.alias == "pc" for item in source.imports):
            yield from _private_attributes(source, public)


def _private_attributes(source: SourceModule, public: set[str]) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "pc"
            and node.attr not in public
        ):
            yield f"{source.file}:{node.lineno}: pc.{node.attr} is not in pcircuits.__all__"


def _public_names(modules: Modules) -> set[str]:
    tree = modules["pcircuits"].tree
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


RULES: tuple[Callable[[Path], Iterator[str]], ...] = (
    unknown_units,
    rank_violations,
    cycles,
    forbidden_libraries,
    coupled_implementations,
    upward_packages,
    private_uses,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_imports_follow_the_architecture(rule: Callable[[Path], Iterator[str]]) -> None:
    violations = list(rule(ROOT))
    assert not violations, "\n".join(violations)


CLEAN = {
    "pcircuits/__init__.py": "from pcircuits.structure import Sum\n__all__ = ['Sum']\n",
    "pcircuits/errors.py": "",
    "pcircuits/structure/__init__.py": "from pcircuits.structure.nodes import Sum\n",
    "pcircuits/structure/nodes.py": "from ..errors import CircuitError\nclass Sum: ...\n",
    "pcircuits/execute/eager.py": "import torch\n",
    "pcircuits/execute/numba/kernels.py": "import numba\n",
    "codd/__init__.py": "from codd.model import CoupledModel\n",
    "codd/errors.py": "",
    "codd/config.py": "from codd.errors import ConfigError\n",
    "codd/coupling/joint.py": "import pcircuits as pc\nnode = pc.Sum()\n",
    "codd/model.py": "from codd.coupling import joint\nfrom pcircuits import Sum\n",
}

# What a rule must see: the rule, the file to write, its source, and a part of the message.
PLANTED: tuple[tuple[Callable[[Path], Iterator[str]], str, str, str], ...] = (
    (unknown_units, "pcircuits/utils.py", "", "pcircuits/utils has no rank"),
    (unknown_units, "codd/helpers/text.py", "", "codd/helpers has no rank"),
    (rank_violations, "pcircuits/errors.py", "import pcircuits.structure.nodes", "errors (rank 0)"),
    (rank_violations, "pcircuits/structure/nodes.py", "from ..execute import eager", "rank 5"),
    (rank_violations, "pcircuits/structure/nodes.py", "from pcircuits import Sum", "rank 12"),
    (
        rank_violations,
        "codd/errors.py",
        "def f():\n    from codd import config",
        "codd/errors.py:2",
    ),
    (rank_violations, "codd/modulators/base.py", "import codd.coupling.joint", "codd.modulators"),
    (cycles, "pcircuits/structure/nodes.py", "from pcircuits.structure import Sum", "cycle"),
    (cycles, "codd/coupling/joint.py", "from . import joint", "joint -> codd.coupling.joint"),
    (forbidden_libraries, "pcircuits/structure/nodes.py", "import numpy.typing", "import numpy"),
    (forbidden_libraries, "pcircuits/compile/plan.py", "from torch import nn", "import torch"),
    (coupled_implementations, "pcircuits/execute/eager.py", "from .numba import kernels", "numba"),
    (upward_packages, "pcircuits/structure/nodes.py", "import codd.errors", "nodes.py:1"),
    (
        private_uses,
        "codd/model.py",
        "from pcircuits.structure import Sum",
        "import pcircuits as pc",
    ),
    (private_uses, "codd/model.py", "import pcircuits", "import pcircuits as pc"),
    (
        private_uses,
        "codd/model.py",
        "from pcircuits import structure",
        "pcircuits.structure is not",
    ),
    (private_uses, "codd/model.py", "import pcircuits as pc\npc.structure.Sum", "pc.structure is"),
)


def write_tree(root: Path, files: Mapping[str, str]) -> None:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_clean_tree(rule: Callable[[Path], Iterator[str]], tmp_path: Path) -> None:
    write_tree(tmp_path, CLEAN)
    assert list(rule(tmp_path)) == []


@pytest.mark.parametrize(("rule", "name", "source", "message"), PLANTED)
def test_rule_sees_a_planted_violation(
    rule: Callable[[Path], Iterator[str]], name: str, source: str, message: str, tmp_path: Path
) -> None:
    write_tree(tmp_path, {**CLEAN, name: source})
    assert message in "\n".join(rule(tmp_path))
