"""Machine code that is kept on the disk is that of the source as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
INNER = "from pcircuits.jit import cached_jit\ncompiled = cached_jit()\n"
CALL = "from package.outer import outer; print(outer(1)); print(outer.stats.cache_hits)"


def run(folder: Path) -> list[str]:
    """What a new process finds."""
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "NUMBA_CACHE_DIR": str(folder / "kept")}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env=os.environ | paths,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_change_of_another_file_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text(f"{INNER}@compiled\ndef inner(x):\n    return x + 1\n")
    (package / "outer.py").write_text(
        "from package.inner import compiled, inner\n"
        "@compiled\ndef outer(x):\n    return 10 * inner(x)\n"
    )
    assert run(tmp_path)[0] == "20"
    kept = run(tmp_path)
    assert kept[0] == "20" and kept[1] != "{}"
    (package / "inner.py").write_text(f"{INNER}@compiled\ndef inner(x):\n    return x + 2\n")
    assert run(tmp_path)[0] == "30"
