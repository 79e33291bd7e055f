"""The tool that plants bugs: what it leaves alone, and that its packages and tests exist."""

from __future__ import annotations

from pathlib import Path

from tests.mutation.annotations import is_unseen
from tests.mutation.packages import PACKAGES

ROOT = Path(__file__).parents[1]
SOURCE = """\
__all__ = ["f", "g"]
x: int | None = 1 + 2
def f(y: int | str = 3 + 4) -> float | None:
    return y | 1
"""


def test_annotations_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    lines = SOURCE.splitlines()
    unseen = [(1, '"f"'), (2, "int"), (2, "|"), (3, "int"), (3, "str"), (3, "float")]
    seen = [(2, "1"), (2, "+"), (3, "3"), (3, "+"), (4, "|"), (4, "1")]
    for expected, places in ((True, unseen), (False, seen)):
        for line, text in places:
            assert is_unseen(path, (line, lines[line - 1].index(text))) is expected, (line, text)


def test_packages_and_tests_exist() -> None:
    for package, tests in PACKAGES.items():
        assert (ROOT / package / "__init__.py").is_file()
        assert [name for name in tests if not (ROOT / name).is_file()] == []
