"""The command that runs all that takes hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import long

RELIABILITY = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_a_failing_part_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = "-c 'raise SystemExit(3)'", {}
    parts = {
        "breaks": (first, ("-c 'print(\"never\")'", {})),
        "works": (("-c 'import os; print(os.environ[\"SET\"])'", {"SET": "reached"}),),
    }
    monkeypatch.setattr(long, "PARTS", parts)
    assert long.main([]) == 1
    printed = capfd.readouterr().out.splitlines()
    assert "reached" in printed and "never" not in printed
    assert printed[-2].startswith("breaks") and printed[-2].endswith("exit status 3")
    assert printed[-1].startswith("works") and printed[-1].endswith("exit status 0")
    assert long.main(["works"]) == 0
    with pytest.raises(SystemExit):
        long.main(["stranger"])


def test_commands_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert long.main(["--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == sum(map(len, long.PARTS.values()))
    for words in ("tests/properties", "tests.faults", "tests.fuzz", "tests.mutation"):
        assert any(words in line for line in printed) and words in RELIABILITY
    assert "python -m tests.long" in RELIABILITY
