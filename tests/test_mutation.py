"""The tool that plants bugs: what it leaves alone, and that its packages and tests exist."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.annotations import unseen
from tests.mutation.callers import callers
from tests.mutation.packages import PACKAGES
from tests.mutation.processes import BROKEN, forked, started
from tests.mutation.reach import Reach
from tests.mutation.replace import replace

ROOT = Path(__file__).parents[1]
SOURCE = """\
__all__ = ["f", "g"]
x: int | None = 1 + 2
def f(y: int | str = 3 + 4, *, z=7 * 8) -> float | None:
    return y | 1
class Sized(Protocol):
    @property
    def size(self): return 5 + 6
"""


def test_annotations_are_left_alone() -> None:
    spans = unseen(SOURCE)
    lines = SOURCE.splitlines()
    not_run = [(1, '"f"'), (2, "int"), (2, "|"), (3, "int"), (3, "str"), (3, "float"), (3, "*,")]
    not_run += [(6, "@"), (6, "property"), (7, "5"), (7, "+")]
    run = [(2, "1"), (2, "+"), (3, "3"), (3, "+"), (3, "* 8"), (4, "|"), (4, "1")]
    for expected, places in ((True, not_run), (False, run)):
        for line, text in places:
            place = (line, lines[line - 1].index(text))
            found = any(first <= place < last for first, last in spans)
            assert found is expected, (line, text)


def test_packages_and_tests_exist() -> None:
    for package, tests in PACKAGES.items():
        assert (ROOT / package / "__init__.py").is_file()
        files = [name for name in tests if name.endswith(".py")]
        assert files
        assert [name for name in files if not (ROOT / name).is_file()] == []


def test_explained_changes_are_of_lines_that_stand() -> None:
    entries = tomllib.loads((ROOT / "tests/mutation/equivalent.toml").read_text())["mutants"]
    for entry in entries:
        lines = {line.strip() for line in (ROOT / entry["file"]).read_text().splitlines()}
        assert entry["line"] in lines, entry
        assert entry["line"] not in _changes(entry) and len(entry["reason"]) > 20, entry


def _changes(entry: dict[str, Any]) -> list[str]:
    found = entry["becomes"]
    return [found] if isinstance(found, str) else found


FUNCTIONS = """\
from functools import cache
def plain(x):
    return x + 1
class Holder:
    @cache
    def method(self, x):
        def inner(y):
            return y * 2
        return inner(x)
"""


def test_a_loaded_function_gets_its_new_code_wherever_it_is_referred_to(tmp_path: Path) -> None:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    names: dict[str, Any] = {"__name__": "functions"}
    exec(compile(FUNCTIONS, path, "exec"), names)
    kept, holder = names["plain"], names["Holder"]()
    assert (kept(3), holder.method(3)) == (4, 6)

    replace(str(path), 3, FUNCTIONS.replace("x + 1", "x - 1"))
    replace(str(path), 8, FUNCTIONS.replace("y * 2", "y / 2"))

    assert (kept(3), holder.method(4)) == (2, 2.0)
    with pytest.raises(LookupError):
        replace(str(tmp_path / "other.py"), 3, FUNCTIONS)


def test_a_test_reaches_the_lines_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    lines = {"3": ["t.py::a", "t.py::b"], "4": [""], "5": [""], "7": ["t.py::b"], "8": ["t.py"]}
    seconds = {"t.py::a": 3.0, "t.py::b": 1.0, "t.py::c": 2.0, "u.py::d": 0.5}
    Path("reach.json").write_text(
        json.dumps({"seconds": seconds, "lines": {"functions.py": lines}})
    )
    reach = Reach(Path("reach.json"))

    assert reach.tests("functions.py", 3, 60.0) == ["t.py::b", "t.py::a"]
    assert reach.tests("functions.py", 3, 1.0) == ["t.py::b"]
    assert reach.tests("functions.py", 8, 60.0) == ["t.py::b", "t.py::c", "t.py::a"]
    every = ["u.py::d", "t.py::b", "t.py::c", "t.py::a"]
    assert reach.tests("functions.py", 1, 60.0) == every
    Path("kernels.py").write_text(FUNCTIONS)
    assert reach.tests("kernels.py", 3, 60.0) == every
    found = [reach.at_import("functions.py", line) for line in (1, 3, 6, 7)]
    assert found == [True, False, True, False]


KERNELS = """\
WIDTH = 8
@compiled
def inner(x):
    return x + WIDTH
@compiled
def outer(x):
    return inner(x) + 1
def untraced(x):
    return 5
@overload(outer, inline="always")
def _code(x):
    return inner
"""
CALLER = """\
from kernels import outer
def run(x):
    return outer(x)
def other(x):
    return inner(x)
"""


def test_compiled_code_is_reached_through_what_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "stranger.py").write_text(CALLER.replace("from kernels import outer", ""))
    monkeypatch.chdir(tmp_path)
    files = ["kernels.py", "caller.py", "stranger.py"]
    traced = [("caller.py", 3), ("caller.py", 5), ("stranger.py", 3)]

    found = {line: callers(files, ("kernels.py", line), traced.__contains__) for line in (1, 4, 7)}
    assert found[4] == [("caller.py", 5), ("caller.py", 3)]
    assert found[7] == [("caller.py", 3)]
    assert found[1] == found[4]
    assert callers(files, ("kernels.py", 9), traced.__contains__) == []
    assert callers(files, ("kernels.py", 12), traced.__contains__) == found[7]

    lines = {"caller.py": {"3": ["t.py::a"]}, "kernels.py": {"3": [""]}}
    seconds = {"t.py::a": 3.0, "t.py::b": 1.0, "t.py::idle": 2.0}
    lines["other.py"] = {"1": ["t.py::b"]}
    (tmp_path / "other.py").write_text("x = 1\n")
    Path("reach.json").write_text(json.dumps({"seconds": seconds, "lines": lines}))
    assert Reach(Path("reach.json")).tests("kernels.py", 4, 60.0) == ["t.py::idle", "t.py::a"]


@pytest.mark.skipif(sys.platform != "linux", reason="processes with limits are those of Linux")
def test_a_process_that_hangs_or_raises_has_an_end() -> None:
    assert forked(lambda: 5, 10.0) == 5
    assert forked(lambda: int("no number"), 10.0) == BROKEN
    assert forked(lambda: len(list(iter(int, 1))), 0.0) not in (0, BROKEN)
    assert started([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), 10.0) == 3
