"""`python -m benchmarks NAME [--out FILE]`, from the repository root; `--help` lists the names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cases import StepSizes
from benchmarks.decoding_step import run_decoding_step
from benchmarks.density import DensitySettings, WrongDensityError, run_set
from benchmarks.density_data import DataError, find_sets, load
from benchmarks.density_report import density_table, read_rows, write_row
from benchmarks.execution import WrongResultError, run_execution
from benchmarks.report import markdown, write_report
from benchmarks.scalar_graph import GraphSizes, run_scalar_graph


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a benchmark and prints its table; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.benchmark == "density":
        return _density(options)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks: this PyTorch sees no CUDA device", file=sys.stderr)
        return 2
    try:
        if options.benchmark == "execution":
            report = run_execution(device=device, rounds=options.rounds)
        elif options.benchmark == "scalar-graph":
            report = run_scalar_graph(GraphSizes(), rounds=options.rounds)
        else:
            report = run_decoding_step(StepSizes(), device=device, rounds=options.rounds)
    except WrongResultError as error:
        print(f"benchmarks: wrong result, nothing timed: {error}", file=sys.stderr)
        return 1
    print(markdown(report))
    if options.out is not None:
        write_report(options.out, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, threads, rounds, description in (
        ("execution", 1, 60, "log-likelihood with its backward pass against plain PyTorch"),
        ("scalar-graph", 2, 9, "an irregular networkx graph of 100,000 nodes (CPU)"),
        ("decoding-step", 2, 5, "log Z, marginals and a sample at full vocabulary"),
    ):
        command = commands.add_parser(name, help=description, description=description)
        command.add_argument("--out", type=_json_file, help="JSON file; its table goes beside it")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--threads", type=_positive, default=threads)
        command.add_argument("--rounds", type=_positive, default=rounds)
    _add_density(commands)
    return parser


def _add_density(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    description = "test log-likelihoods on binary data sets, beside the published ones"
    command = commands.add_parser("density", help=description, description=description)
    command.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("DENSITY_DATA", "data/debd")),
        help="folder of NAME.npz with train, valid and test (N, L); default $DENSITY_DATA, or "
        "%(default)s",
    )
    command.add_argument("--sets", nargs="+", metavar="NAME", help="default: all in the folder")
    command.add_argument(
        "--output",
        type=_json_file,
        default=Path("benchmarks/results/density.json"),
        help="rows of results, one a set; sets that it has with the same settings are not run "
        "again; default %(default)s",
    )
    command.add_argument("--again", action="store_true", help="run sets again that it has")
    command.add_argument("--members", type=_positive, default=DensitySettings().members)
    command.add_argument("--threads", type=_positive, default=2)


def _density(options: argparse.Namespace) -> int:
    settings = DensitySettings(members=options.members)
    try:
        names = find_sets(options.data, options.sets)
        done = {row["dataset"]: row.get("settings") for row in read_rows(options.output)}
        for name in names:
            if options.again or done.get(name) != asdict(settings):
                row = run_set(
                    load(options.data, name), settings, lambda line: print(line, flush=True)
                )
                write_row(options.output, row)
        rows = [row for row in read_rows(options.output) if row["dataset"] in names]
    except DataError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except WrongDensityError as error:
        print(f"benchmarks: wrong result, nothing written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"benchmarks: interrupted; finished sets are in {options.output}", file=sys.stderr)
        return 130
    print(density_table(rows))
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1; found {text!r}")
    return int(text)


def _json_file(text: str) -> Path:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"expected a file that ends in .json; found {text!r}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
