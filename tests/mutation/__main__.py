"""Plants bugs in packages, one at a time, and counts those that their tests find.

    python -m tests.mutation codd/coupling --count 100

Cosmic Ray makes the mutants; a sample of them, drawn by seed, is tested in a copy of the tree, each
by the tests that reach its line, the quickest first, and then by all others of its package.
Mutants that change no result stand in `equivalent.toml` with the reason, and do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.mutation.packages import PACKAGES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"


def main(arguments: list[str] | None = None) -> int:
    """Tests a sample of each package's mutants and adds what was found to the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("packages", nargs="+", choices=PACKAGES)
    parser.add_argument("--count", type=int, default=100, help="mutants a package; default 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    said = parser.parse_args(arguments)
    for package in said.packages:
        found = measure(package, said.count, said.seed)
        told = json.loads(said.out.read_text()) if said.out.exists() else {}
        told[package] = found
        said.out.write_text(json.dumps(told, indent=1) + "\n")
        counted = found["tested"] - found["equivalent"]
        print(f"{package}: {found['killed']} of {counted} killed")
    return 0


def measure(package: str, count: int, seed: int) -> dict[str, Any]:
    """Tests a sample of the mutants of a package.

    Args:
        package: A key of `PACKAGES`.
        count: Most mutants.
        seed: Of the sample.

    Returns:
        JSON values: the numbers of mutants, and the survivors' changes.
    """
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = _copied(Path(folder) / "tree")
        words = [sys.executable, "-m", "tests.mutation.trial", package, str(count), str(seed)]
        here = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        here.pop("PYTHONDONTWRITEBYTECODE", None)  # the tree is loaded many times
        subprocess.run([*words, "found.json"], cwd=tree, env=here, check=True)
        found: dict[str, Any] = json.loads((tree / "found.json").read_text())
    return found


def _copied(tree: Path) -> Path:
    """The files that git knows, as they are: mutants are written into them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


if __name__ == "__main__":
    sys.exit(main())
