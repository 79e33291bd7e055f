"""Tests one mutant after another in the tree it stands in, which it writes to.

    python -m tests.mutation.trial PACKAGE COUNT SEED OUT

Most mutants are tested in a fork of this process, which has loaded the package and its tests: the
changed function gets its new code there. What runs at import, or is compiled, takes a new process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mutation.mutants import Mutant, explained, sample
from tests.mutation.packages import PACKAGES
from tests.mutation.processes import BROKEN, forked, started
from tests.mutation.reach import Reach, Recorder
from tests.mutation.replace import replace

BUDGET = 20.0  # seconds of tests for a mutant, the quickest first
UNSEEN_BUDGET = 90.0  # where machine code hides which tests run the line
COMPILED = ("_jit", ".jit", "@compiled")  # machine code holds the code of other files, too
QUIET = ["-x", "-q", "-s", "--tb=no", "--no-summary", "-p", "no:cacheprovider"]


class Trial:
    """A plugin of pytest, whose loop tests mutants in forks with the tests collected.

    Args:
        reach: Which tests reach what.
        mutants: What to test.
        out: The file for what was found.
    """

    def __init__(self, reach: Reach, mutants: list[Mutant], found: dict[str, Any], out: Path):
        self._reach, self._mutants, self._found, self._out = reach, mutants, found, out

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Tests each mutant, after the tests as they are in the order that mutants meet."""
        self._items = {item.nodeid: item for item in session.items}
        self._session = session
        met = self._reach.quickest({test for each in self._mutants for test in self._tests(each)})
        if forked(lambda: self._tested(met), 3600.0) != 0:
            sys.exit("the tests, the quickest first, must pass before a bug is planted")
        reasons = explained()
        for mutant in self._mutants:
            key = (mutant.file, *mutant.change())
            killed = self._is_killed(mutant)
            word = "killed" if killed else "equivalent" if key in reasons else "survived"
            self._found[word] += 1
            if word == "survived":
                told = dict(zip(("file", "line", "becomes"), key, strict=True))
                self._found["survivors"].append(told)
            self._out.write_text(json.dumps(self._found, indent=1) + "\n")
            print(f"{word} {key[0]}:{mutant.line}\n    - {key[1]}\n    + {key[2]}", flush=True)
        return True

    def _is_killed(self, mutant: Mutant) -> bool:
        """Whether a test that reaches the change fails with it."""
        path = Path(mutant.file)
        times, original, changed = path.stat(), path.read_text(encoding="utf-8"), mutant.code()
        tests = self._tests(mutant)
        seconds = 20.0 + 2.0 * sum(self._reach.seconds[test] for test in tests)
        compiled = _is_compiled(original)
        late = not compiled and not self._reach.at_import(mutant.file, mutant.line)
        if not tests:
            return False
        path.write_text(changed, encoding="utf-8")
        try:
            code: int | None = BROKEN
            if late:
                code = forked(lambda: self._with(mutant, changed, tests), seconds)
            if code == BROKEN:
                code = _in_a_new_process(tests, 120.0 + seconds, compiled=compiled)
            return code != 0
        finally:
            path.write_text(original, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # what was compiled holds

    def _tests(self, mutant: Mutant) -> list[str]:
        path, line = mutant.file, mutant.line
        hidden = self._reach.at_import(path, line) and _is_compiled(Path(path).read_text("utf-8"))
        return self._reach.tests(path, line, UNSEEN_BUDGET if hidden else BUDGET)

    def _with(self, mutant: Mutant, changed: str, tests: list[str]) -> int:
        replace(mutant.file, mutant.line, changed)
        return self._tested(tests)

    def _tested(self, tests: list[str]) -> int:
        """Runs tests until one fails; the exit code."""
        items = [self._items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._session.testsfailed:
                return 1
        return 0


def _is_compiled(source: str) -> bool:
    return any(mark in source for mark in COMPILED)


def _in_a_new_process(tests: list[str], seconds: float, *, compiled: bool) -> int | None:
    """The exit code of tests on the files as they are."""
    command = [sys.executable, "-m", "pytest", *QUIET, *tests]
    if not compiled:
        return started(command, dict(os.environ), seconds)
    with tempfile.TemporaryDirectory() as cache:  # kept code may have the original within it
        return started(command, os.environ | {"NUMBA_CACHE_DIR": cache}, seconds)


def main(package: str, count: int, seed: int, out: Path) -> None:
    """Writes what became of a sample of a package's mutants as JSON."""
    files, recorded = list(PACKAGES[package]), Path("reach.json")
    begun = time.perf_counter()
    code = forked(lambda: int(pytest.main([*QUIET, *files], [Recorder(package, recorded)])), 3600.0)
    if code != 0:
        sys.exit("the tests must pass before a bug is planted")
    sys.dont_write_bytecode = True  # of mutants, in processes that tests start, too:
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    total, mutants = sample(package, count, seed)
    found: dict[str, Any] = {"mutants": total, "tested": len(mutants), "seed": seed}
    found |= {"killed": 0, "equivalent": 0, "survived": 0, "survivors": []}
    code = int(pytest.main([*QUIET, *files], [Trial(Reach(recorded), mutants, found, out)]))
    if code != 0:
        sys.exit(f"the trial ended with {code}")
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
