"""Plants bugs in packages, one at a time, and counts those that their tests find.

    python -m tests.mutation codd/coupling --count 100

Cosmic Ray makes the mutants, in a copy of the tree; a sample of them, drawn by seed, is tested.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.mutation.annotations import is_unseen
from tests.mutation.packages import PACKAGES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"


def main(arguments: list[str] | None = None) -> int:
    """Tests a sample of each package's mutants and adds what was found to the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("packages", nargs="+", choices=PACKAGES)
    parser.add_argument("--count", type=int, default=100, help="mutants a package; default 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a mutant")
    parser.add_argument("--out", type=Path, default=RESULTS)
    said = parser.parse_args(arguments)
    for package in said.packages:
        found = measure(package, said.count, said.seed, said.timeout)
        told = json.loads(said.out.read_text()) if said.out.exists() else {}
        told[package] = found
        said.out.write_text(json.dumps(told, indent=1) + "\n")
        print(f"{package}: {found['killed']} of {found['tested']} killed")
        for survivor in found["survivors"]:
            print(survivor["diff"])
    return 0


def measure(package: str, count: int, seed: int, timeout: float) -> dict[str, Any]:
    """Tests a sample of the mutants of a package.

    Args:
        package: A key of `PACKAGES`.
        count: Most mutants.
        seed: Of the sample.
        timeout: Seconds of one test run, after which a mutant counts as killed.

    Returns:
        JSON values: the numbers of mutants, and the survivors' changes.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = _copied(Path(folder) / "tree")
        config, session = tree / "mutation.toml", tree / "mutation.sqlite"
        config.write_text(_config(package, timeout))
        _run(tree, "baseline", config)  # tests that fail without a bug would find every bug
        _run(tree, "init", config, session)
        skipped, chosen = _sample(tree, session, count, seed)
        _run(tree, "exec", config, session)
        outcomes, survivors = _outcomes(session, chosen)
    return {
        "mutants": len(chosen) + skipped,
        "tested": len(chosen),
        "killed": outcomes["killed"] + outcomes["incompetent"],
        "survivors": survivors,
        "seed": seed,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }


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


def _config(package: str, timeout: float) -> str:
    tests = " ".join(PACKAGES[package])
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
    return (
        f'[cosmic-ray]\nmodule-path = "{package}"\ntimeout = {timeout}\nexcluded-modules = []\n'
        f'test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )


def _run(tree: Path, command: str, *files: Path) -> None:
    words = [sys.executable, "-m", "cosmic_ray.cli", command, *(path.name for path in files)]
    subprocess.run(words, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=True)


def _sample(tree: Path, session: Path, count: int, seed: int) -> tuple[int, set[str]]:
    """Marks all but a sample as skipped; the number of others that count, and the sample's ids."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(str(session), WorkDB.Mode.open) as work:
        items = list(work.work_items)
        seen = [
            item.job_id
            for item in sorted(items, key=_identity)
            if not is_unseen(tree / item.mutations[0].module_path, item.mutations[0].start_pos)
        ]
        chosen = set(random.Random(seed).sample(seen, min(count, len(seen))))
        for item in items:
            if item.job_id not in chosen:
                work.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED))
    return len(seen) - len(chosen), chosen


def _identity(item: Any) -> tuple[str, str, int, Any]:
    """What a mutant is, whatever its id: the sample depends on the seed alone."""
    (mutation, *_) = item.mutations
    operator = f"{mutation.operator_name} {sorted(mutation.operator_args.items())}"
    return (str(mutation.module_path), operator, mutation.occurrence, mutation.start_pos)


def _outcomes(session: Path, chosen: set[str]) -> tuple[Counter[str], list[dict[str, str]]]:
    from cosmic_ray.work_db import WorkDB, use_db

    counts: Counter[str] = Counter()
    survivors = []
    with use_db(str(session), WorkDB.Mode.open) as work:
        operators = {item.job_id: item.mutations[0].operator_name for item in work.work_items}
        for job, result in work.results:
            if job not in chosen:
                continue
            outcome = "incompetent" if result.test_outcome is None else result.test_outcome.value
            counts[outcome] += 1
            if outcome == "survived":
                survivors.append({"operator": operators[job], "diff": result.diff or ""})
    return counts, survivors


if __name__ == "__main__":
    sys.exit(main())
