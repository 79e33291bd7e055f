"""A little of each part of `python -m tests.faults`, in a process that may fork."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_little_of_each_part(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.faults", "--quick", "--out", str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    assert found["kills"]["kills"] == 3
    assert found["interrupts"]["interrupts"] == 2
    kinds = found["mutations"]["kinds"]
    assert all("different" not in kind for kind in kinds.values() if kind["checksums"])
    assert found["growth"]["generations"] >= 16
