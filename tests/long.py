"""All that takes hours, one part after the other: `python -m tests.long`.

Properties on many circuits, faults and an hour's training, fuzzing, mutation testing and coverage,
each by the command that `docs/reliability.md` names; the extras `fuzz`, `mutation` and `coverage`
are needed. A part that fails keeps none of the others from running. `--list` prints the commands.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutation.packages import PACKAGES

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"

# Arguments of Python, and what is set beside them.
Command = tuple[str, Mapping[str, str]]
PARTS: dict[str, tuple[Command, ...]] = {
    "properties": (("-m pytest -q tests/properties", {"PCIRCUITS_CIRCUITS": "200"}),),
    "faults": ((f"-m tests.faults --out {RESULTS}/reliability.json", {}),),
    "fuzz": ((f"-m tests.fuzz --minutes 30 --out {RESULTS}/fuzz.json", {}),),
    "mutation": ((f"-m tests.mutation {' '.join(PACKAGES)} --count 50", {}),),
    "coverage": (
        ("-m coverage run -m pytest", {}),
        ("-m coverage combine", {}),
        ("-m coverage report", {}),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs parts; the exit status is 1 if one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--list", action="store_true", help="print the commands only")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - PARTS.keys())
    if unknown:
        parser.error(f"no part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    lines, failed = [], False
    for name in options.parts or PARTS:
        begun = time.monotonic()
        code = 0
        for words, beside in PARTS[name]:
            told = " ".join([*(f"{key}={value}" for key, value in beside.items()), "python", words])
            print(told, flush=True)
            if code == 0 and not options.list:
                code = _run(words, beside)
        failed = failed or code != 0
        minutes = (time.monotonic() - begun) / 60
        lines.append(f"{name:12} {minutes:7.1f} minutes, exit status {code}")
    if not options.list:
        print("\n".join(lines))
    return int(failed)


def _run(words: str, beside: Mapping[str, str]) -> int:
    command = [sys.executable, *shlex.split(words)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | beside, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
