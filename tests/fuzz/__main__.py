"""Fuzzes readers: `python -m tests.fuzz [NAME ...] --minutes 30`, with the extra `fuzz`.

Every harness runs in a process of its own with a limit of memory and of time for one input. What a
reader may raise are the libraries' own errors; a crash, another exception, a hang or too much
memory ends the harness, and the input that did it is kept in the folder of findings.

With `--out` runs add up: the file holds each harness's seconds and executions since its last
finding. With `--corpus` a run begins with the inputs that led earlier ones to new lines.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS

_SLOWEST = 20  # seconds for one input
_DONE = re.compile(r"(?:Done (\d+) runs|stat::number_of_executed_units:\s*(\d+))")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs harnesses one after the other; the exit status is 1 if one found something."""
    options = _parser().parse_args(arguments)
    found = []
    for name in options.names or TARGETS:
        entry = _fuzz(name, options)
        found.append(entry["finding"])
        line = "{name:18} {seconds:7.0f} s {executions:10,} runs  {finding}"
        print(line.format(**entry), flush=True)
        if options.out is not None:
            before = json.loads(options.out.read_text()) if options.out.exists() else []
            options.out.write_text(json.dumps(added(before, entry), indent=1) + "\n")
    return int(any(found))


def added(before: Sequence[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries with another run of a harness, which begins anew after or with a finding."""
    entries = {each["name"]: each for each in before}
    own = entries.get(entry["name"])
    if own is not None and not own["finding"] and not entry["finding"]:
        sums = {key: round(own[key] + entry[key], 1) for key in ("seconds", "executions")}
        entry = {**entry, **sums}
    return list((entries | {entry["name"]: entry}).values())


def _fuzz(name: str, options: argparse.Namespace) -> dict[str, Any]:
    options.findings.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.worker", name]
    command += [f"-max_total_time={options.minutes * 60:.0f}", f"-timeout={_SLOWEST}"]
    command += [f"-rss_limit_mb={options.memory}", "-print_final_stats=1", "-verbosity=1"]
    command += [f"-artifact_prefix={options.findings}/{name}-", "-max_len=20000"]
    if options.corpus is not None:
        folder = options.corpus / name
        folder.mkdir(parents=True, exist_ok=True)
        command.append(str(folder))  # libFuzzer writes what is new into the first folder
    started = time.monotonic()
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = run.stdout.decode(errors="replace")
    counts = [int(a or b) for a, b in _DONE.findall(output)]
    if run.returncode:
        (options.findings / f"{name}.log").write_text(output)
    return {
        "name": name,
        "seconds": round(time.monotonic() - started, 1),
        "executions": max(counts, default=0),
        "finding": _finding(output) if run.returncode else "",
    }


def _finding(output: str) -> str:
    lines = [line for line in output.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    libfuzzer = [line for line in output.splitlines() if "ERROR: libFuzzer" in line]
    return (lines or libfuzzer or ["it ended early"])[0][:120]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=30.0, help="for each harness")
    parser.add_argument("--memory", type=int, default=3000, help="megabytes for each harness")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--corpus", type=Path, help="folder of inputs to begin with, and to add to")
    parser.add_argument("--out", type=Path, help="JSON file for seconds and executions, added to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
