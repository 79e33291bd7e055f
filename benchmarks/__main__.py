"""`python -m benchmarks NAME`, from the repository root; `--help` lists the names.

Every command prints its figures as a table; with `--out FILE.json` it writes the numbers, and the
same table beside them. `report FOLDER` makes tables and pictures of all results in a folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.any_order import run_any_order
from benchmarks.cases import StepSizes
from benchmarks.compare import Settings, run_compare
from benchmarks.cost.options import add_cost
from benchmarks.decoding_step import run_decoding_step
from benchmarks.density_command import add_density, run_density
from benchmarks.execution import WrongResultError, run_execution
from benchmarks.irregular import Comparison, run_irregular
from benchmarks.options import json_file, positive
from benchmarks.peers import PEERS
from benchmarks.report import Report, markdown, write_folder, write_report
from benchmarks.scalar_graph import GraphSizes, run_scalar_graph
from benchmarks.scaling import SWEEPS, run_scaling
from benchmarks.suite import CASES, PASSES, quick


@dataclass(frozen=True)
class Command:
    """A benchmark as a sub-command.

    Attributes:
        description: What it measures.
        threads: Default number of threads.
        rounds: Default number of timed rounds.
        run: Parsed options -> report.
        options: Adds further options.
    """

    description: str
    threads: int
    rounds: int
    run: Callable[[argparse.Namespace], Report]
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a benchmark and prints its table; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.benchmark == "report":
        print(write_folder(options.folder), end="")
        return 0
    if options.benchmark == "figures":
        # Imported here: it needs the other package, and the other benchmarks do not.
        from benchmarks.figures import write_figures

        print(*write_figures(options.folder), sep="\n")
        return 0
    torch.set_num_threads(options.threads)
    if options.benchmark == "density":
        return run_density(options)
    if options.benchmark == "cost":
        # Imported here: it needs the other package, and the other benchmarks do not.
        from benchmarks.cost.command import run_cost

        return run_cost(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks: this PyTorch sees no CUDA device", file=sys.stderr)
        return 2
    try:
        report = COMMANDS[options.benchmark].run(options)
    except WrongResultError as error:
        print(f"benchmarks: wrong result, nothing timed: {error}", file=sys.stderr)
        return 1
    print(markdown(report))
    if options.out is not None:
        write_report(options.out, report)
    wrong = report.get("wrong", ())
    for line in wrong:
        print(f"benchmarks: wrong result, not timed: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _compare(options: argparse.Namespace) -> Report:
    names = options.cases or [name for name, c in CASES.items() if c.device == options.device]
    cases = [quick(CASES[name]) if options.quick else CASES[name] for name in names]
    settings = Settings(
        tuple(options.peers),
        tuple(options.passes),
        torch.device(options.device),
        rounds=min(options.rounds, 3) if options.quick else options.rounds,
        share=options.share,
        quick=options.quick,
    )

    def keep(report: Report) -> None:
        # What was measured stays when the rest is interrupted.
        if options.out is not None:
            write_report(options.out, report)

    return run_compare(cases, settings, say=_say, keep=keep)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: the device's")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--share",
        type=float,
        default=4.0,
        help="seconds after which a slow library is left out of a pass's further rounds",
    )
    _quick(parser)


def _scaling(options: argparse.Namespace) -> Report:
    sweeps = options.sweeps or list(SWEEPS)
    device = torch.device(options.device)
    return run_scaling(sweeps, device=device, rounds=options.rounds, quick=options.quick, say=_say)


def _scaling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, help="default: all")
    _quick(parser)


def _quick(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")


def _execution(options: argparse.Namespace) -> Report:
    return run_execution(device=torch.device(options.device), rounds=options.rounds)


def _scalar_graph(options: argparse.Namespace) -> Report:
    return run_scalar_graph(GraphSizes(), rounds=options.rounds)


def _decoding_step(options: argparse.Namespace) -> Report:
    return run_decoding_step(
        StepSizes(), device=torch.device(options.device), rounds=options.rounds
    )


def _irregular(options: argparse.Namespace) -> Report:
    comparison = Comparison(edges=tuple(sorted(options.edges)), limit=options.limit)
    return run_irregular(comparison, rounds=options.rounds, say=_say)


def _irregular_options(parser: argparse.ArgumentParser) -> None:
    own = Comparison()
    parser.add_argument("--edges", nargs="+", type=positive, default=own.edges)
    parser.add_argument(
        "--limit", type=float, default=own.limit, help="seconds for one library at one size"
    )


def _any_order(options: argparse.Namespace) -> Report:
    return run_any_order(device=torch.device(options.device), rounds=options.rounds)


def _coupling_step(options: argparse.Namespace) -> Report:
    # Imported here: it needs the other package, and the other benchmarks do not.
    from benchmarks.coupling_step import run_coupling_step

    device = torch.device(options.device)
    return run_coupling_step(device=device, rounds=options.rounds, small=options.quick)


def _full_size(options: argparse.Namespace) -> Report:
    # Imported here: it needs the other package, and the other benchmarks do not.
    from benchmarks.full_size import run_full_size

    return run_full_size(small=options.quick, say=_say)


COMMANDS: dict[str, Command] = {
    "compare": Command(
        "all cases beside all installed peers, and the targets that are met",
        1,
        40,
        _compare,
        _compare_options,
    ),
    "scaling": Command(
        "time over length, batch, edges and states", 1, 7, _scaling, _scaling_options
    ),
    "irregular": Command(
        "irregular circuits beside cirkit and SPFlow (CPU)", 1, 5, _irregular, _irregular_options
    ),
    "any-order": Command("a token more, fixed in any order, in forward passes", 1, 7, _any_order),
    "coupling-step": Command(
        "a decoding step's coupling as one, in all precisions", 2, 30, _coupling_step, _quick
    ),
    "full-size": Command(
        "memory at LLaDA's vocabulary and 1,024 states (CPU)", 2, 1, _full_size, _quick
    ),
    "execution": Command(
        "log-likelihood with its backward pass against plain PyTorch", 1, 60, _execution
    ),
    "scalar-graph": Command("an irregular circuit of 1,000,000 edges (CPU)", 2, 9, _scalar_graph),
    "decoding-step": Command(
        "log Z, marginals and a sample at full vocabulary", 2, 5, _decoding_step
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.description, description=command.description)
        own.add_argument("--out", type=json_file, help="JSON file; its table goes beside it")
        own.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        own.add_argument("--threads", type=positive, default=command.threads)
        own.add_argument("--rounds", type=positive, default=command.rounds)
        command.options(own)
    add_density(commands)
    add_cost(commands)
    description = "tables and pictures of all results in a folder"
    report = commands.add_parser("report", help=description, description=description)
    report.add_argument("folder", type=Path)
    description = "the pictures of the documentation, from benchmarks/results"
    figures = commands.add_parser("figures", help=description, description=description)
    figures.add_argument("folder", type=Path)
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
