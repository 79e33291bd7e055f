"""Faults by the hundred: `python -m tests.faults --out benchmarks/results/reliability.json`.

`kills`: 200 SIGKILLs of training, caching and saving. `interrupts`: SIGINTs of the commands.
`mutations`: 1,000 damaged files of every kind. `growth`: an hour of training and generating.
`--quick` does a little of each. What is written keeps the parts that were not run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.faults.growth import run_for
from tests.faults.jobs import JOBS
from tests.faults.kills import interrupt_command, kill_often
from tests.faults.mutations import KINDS, mutate

KILLS, INTERRUPTS, MUTATIONS, SECONDS = 200, 40, 1000, 3600.0
_QUICK = ("em", "cache", "save-circuit")

Result = Mapping[str, Any]


def kills(options: argparse.Namespace) -> Result:
    """Kills every job in turn."""
    each = 1 if options.quick else -(-options.kills // len(JOBS))
    found = {}
    for name in _QUICK if options.quick else JOBS:
        job = JOBS[name]
        with tempfile.TemporaryDirectory() as folder:
            found[name] = asdict(kill_often(job, Path(folder) / name, each))
        _say(f"{name}: {found[name]}")
        assert found[name]["equal"], f"{name}: kills changed the result"
    return {"kills": sum(each["kills"] for each in found.values()), "jobs": found}


def interrupts(options: argparse.Namespace) -> Result:
    """Interrupts commands at random instants: 130 and a line, or done before; never a trace."""
    number = 2 if options.quick else options.interrupts
    source, codes = random.Random(0), list[int]()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.csv"
        values = torch.randint(0, 3, (200, 8), generator=torch.Generator().manual_seed(0))
        rows.write_text("\n".join(",".join(map(str, row)) for row in values.tolist()))
        for i in range(number):
            name, arguments, seconds = _COMMANDS[i % len(_COMMANDS)]
            filled = [word.format(folder=folder, rows=rows, i=i) for word in arguments]
            output = Path(folder) / "output"
            code, text = interrupt_command(name, filled, source.uniform(0, seconds), output)
            assert code in (0, 130), f"{name} {filled}: exit code {code}: {text}"
            assert "Traceback" not in text, f"{name} {filled}: {text}"
            assert code == 0 or "interrupted" in text, f"{name} {filled}: {text}"
            codes.append(code)
    return {"interrupts": number, "interrupted": codes.count(130), "done before": codes.count(0)}


_COMMANDS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("pcircuits", ("fit", "{rows}", "--family", "hmm", "--output", "{folder}/fit{i}"), 2.0),
    ("codd", ("generate", "demo", "Return the ", "--steps", "8"), 4.0),
    ("codd", ("train", "--out", "{folder}/train{i}", "--denoiser-steps", "40"), 8.0),
    ("pcircuits", ("sample", "{folder}/fit0", "--output", "{folder}/s{i}.csv"), 1.0),
)


def mutations(options: argparse.Namespace) -> Result:
    """Damages files of every kind."""
    number, found = 15 if options.quick else options.mutations, {}
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            counts = mutate(kind, Path(folder), number)
        found[name] = {"checksums": kind.checked, **counts}
        _say(f"{name}: {dict(counts)}")
        assert not (kind.checked and counts["different"]), f"{name}: silently different"
    return {"of each kind": number, "kinds": found}


def growth(options: argparse.Namespace) -> Result:
    """Trains and generates for long."""
    seconds = 2.0 if options.quick else options.seconds
    return asdict(run_for(seconds, _say))


PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "kills": kills,
    "interrupts": interrupts,
    "mutations": mutations,
    "growth": growth,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts asked for; an assertion that fails is a finding."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if options.out is not None and options.out.exists():
        found = json.loads(options.out.read_text())
    for name in options.parts or PARTS:
        found[name] = {"quick": options.quick, **PARTS[name](options)}
        print(f"{name}: {found[name]}")
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a little of each")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--interrupts", type=int, default=INTERRUPTS)
    parser.add_argument("--mutations", type=int, default=MUTATIONS, help="of each kind of file")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of `growth`")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
