"""Prints what the properties were tried on, where a number of circuits is asked for.

    PCIRCUITS_CIRCUITS=1000 python -m pytest tests/properties

With `PCIRCUITS_TABLE=file.md` the table is also written to a file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.properties import CIRCUITS, RECORDS, table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of properties."""
    if not CIRCUITS or not RECORDS:
        return
    terminalreporter.section("properties")
    terminalreporter.write_line(table())
    if target := os.environ.get("PCIRCUITS_TABLE"):
        Path(target).write_text(table() + "\n", encoding="utf-8")
