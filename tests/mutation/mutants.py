"""The bugs that Cosmic Ray can plant in a package, and those that change nothing."""

from __future__ import annotations

import difflib
import itertools
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation.annotations import unseen
from tests.mutation.packages import LEFT_OUT

EQUIVALENT = Path(__file__).with_name("equivalent.toml")


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the operator's `occurrence`-th place in it, at `line`."""

    file: str
    operator: str
    occurrence: int
    line: int

    def code(self) -> str:
        """The file's text with the change."""
        mutated = mutate_code(_text(self.file), get_operator(self.operator)(), self.occurrence)
        assert mutated is not None, self
        return mutated

    def is_python(self) -> bool:
        """Whether the changed file can be compiled."""
        try:
            compile(self.code(), self.file, "exec")
        except SyntaxError:
            return False
        return True

    def change(self) -> tuple[str, str]:
        """The lines that go and those that come, without indentation."""
        lines = list(difflib.ndiff(_text(self.file).splitlines(), self.code().splitlines()))
        gone, come = (
            "\n".join(line[2:].strip() for line in lines if line.startswith(sign))
            for sign in ("- ", "+ ")
        )
        return gone, come


def sample(package: str, count: int, seed: int) -> tuple[int, list[Mutant]]:
    """The number of a package's mutants, and some of them that are Python, by file."""
    files = [path for path in sorted(Path(package).rglob("*.py")) if not _is_left_out(path)]
    every = [mutant for path in files for mutant in _mutants(path)]
    drawn = random.Random(seed).sample(every, len(every))
    chosen = itertools.islice(filter(Mutant.is_python, drawn), count)
    return len(every), sorted(chosen, key=every.index)


def explained() -> dict[tuple[str, str, str], str]:
    """Why mutants are no bugs, by file, lines that go and lines that come."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutants"]
    return {
        (entry["file"], entry["line"].strip(), becomes.strip()): entry["reason"]
        for entry in entries
        for becomes in changes(entry)
    }


def changes(entry: dict[str, Any]) -> list[str]:
    """What comes in place of an entry's line: one text or several."""
    found = entry["becomes"]
    return [found] if isinstance(found, str) else list(found)


def _is_left_out(path: Path) -> bool:
    return any(path.as_posix().startswith(folders) for folders in LEFT_OUT.values())


def _mutants(path: Path) -> Iterator[Mutant]:
    spans = unseen(path.read_text(encoding="utf-8"))
    nodes = list(ast_nodes(get_ast_from_path(path)))
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments():  # variables by name: they are somebody's to give
            continue
        operator = kind()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(places):
            if not any(first <= start < last for first, last in spans):
                yield Mutant(str(path), name, occurrence, start[0])


def _text(file: str) -> str:
    return Path(file).read_text(encoding="utf-8")
