"""Which tests run which lines, and how long each takes."""

from __future__ import annotations

import ast
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.callers import Place, callers

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class Recorder:
    """A plugin of pytest: lines of a package by test, and seconds of tests, kept in a file.

    Args:
        package: The package's folder.
        out: The file that `Reach` reads.
    """

    def __init__(self, package: str, out: Path) -> None:
        import coverage  # not among what the tests need

        self._coverage = coverage.Coverage(
            data_file=None, source=[package], config_file=False, messages=False
        )
        self._out = out
        self._seconds: dict[str, float] = {}
        self._item = ""
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """Lines and seconds are those of this test from here on."""
        self._item = item.nodeid
        self._coverage.switch_context(item.nodeid)
        begun = time.process_time()
        done = yield
        self._seconds[item.nodeid] = time.process_time() - begun
        return done

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[Any]:
        """Lines of a shared fixture are those of all tests of its module or session."""
        if fixturedef.scope == "function":
            return (yield)
        self._coverage.switch_context(request.node.nodeid)
        made = yield
        self._coverage.switch_context(self._item)
        return made

    def pytest_sessionfinish(self) -> None:
        """Keeps what was seen."""
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            str(Path(file).relative_to(Path.cwd())): data.contexts_by_lineno(file)
            for file in data.measured_files()
        }
        self._out.write_text(json.dumps({"seconds": self._seconds, "lines": lines}))


class Reach:
    """What a `Recorder` kept.

    Args:
        recorded: Its file.
    """

    def __init__(self, recorded: Path) -> None:
        kept = json.loads(recorded.read_text())
        self.seconds: dict[str, float] = kept["seconds"]
        self._lines: dict[str, dict[str, list[str]]] = kept["lines"]

    def quickest(self, tests: Iterable[str]) -> list[str]:
        """Tests by their time."""
        return sorted(tests, key=lambda test: (self.seconds[test], test))

    def tests(self, file: str, line: int, budget: float) -> list[str]:
        """The quickest tests of a line's statement, or else of its callers, file or folder.

        What runs at import, and what numba compiles, belongs to no test: its tests are those that
        run the nearest lines that name it, and those that run no line at all, but look at what is
        there. There is at least one.
        """
        folder = [name for name in self._lines if Path(name).parent == Path(file).parent]
        found = self._of(self._contexts(file, line))
        if not found:
            near = self._calling(file, line) or self._of(self._names([file]))
            found = self.quickest({*(near or self._of(self._names(folder))), *self._idle()})
        taken = itertools.accumulate(self.seconds[test] for test in found[:-1])
        within = itertools.takewhile(lambda total: total < budget, itertools.chain([0.0], taken))
        return [test for test, _ in zip(found, within, strict=False)]

    def at_import(self, file: str, line: int) -> bool:
        """Whether a line runs when its file is imported, or is not seen to run."""
        seen = self._of(self._contexts(file, line))
        return not seen or not _in_a_function(Path(file).read_text(encoding="utf-8"), line)

    def _calling(self, file: str, line: int) -> list[str]:
        def is_traced(place: Place) -> bool:
            return bool(self._of(self._contexts(*place)))

        places = callers(self._lines, (file, line), is_traced)
        return self._of({name for place in places for name in self._contexts(*place)})

    def _idle(self) -> set[str]:
        return self.seconds.keys() - set(self._of(self._names(self._lines)))

    def _names(self, files: Iterable[str]) -> set[str]:
        lines = (self._lines.get(file, {}) for file in files)
        return {name for own in lines for names in own.values() for name in names}

    def _contexts(self, file: str, line: int) -> set[str]:
        lines = self._lines.get(file, {})
        span = _statement(Path(file).read_text(encoding="utf-8"), line)
        return {name for number in span for name in lines.get(str(number), [])}

    def _of(self, contexts: set[str]) -> list[str]:
        contexts = contexts - {""}
        found = [t for t in self.seconds if {t, t.partition("::")[0]} & contexts]
        return self.quickest(found)


def _statement(source: str, line: int) -> range:
    """The lines of the smallest statement that holds a line."""
    spans = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt)
    ]
    return min((span for span in spans if line in span), key=len, default=range(line, line + 1))


def _in_a_function(source: str, line: int) -> bool:
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, _FUNCTIONS))
    return any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in functions)
