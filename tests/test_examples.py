"""The examples in all docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot

import codd
import pcircuits as pc

# What an example may use without importing it; it is run in an empty folder.
NAMES = {"torch": torch, "pc": pc, "codd": codd}


def modules() -> Iterator[str]:
    """Modules whose text has an example; the others need not be imported to look for one."""
    for package in (pc, codd):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            if "    >>> " in path.read_text(encoding="utf-8"):
                yield ".".join([root.name, *path.relative_to(root).with_suffix("").parts])


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for name in modules():
        module = importlib.import_module(name.removesuffix(".__init__"))
        found += finder.find(module, globs=dict(NAMES))
    return [example for example in found if example.examples]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, the same random numbers and no pictures of others."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yield
    pyplot.close("all")


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example(example: doctest.DocTest) -> None:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=told.append)
    assert not told, "\n" + "".join(told)
