"""The sub-command `density`: its options, and a run that can be continued."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.density import DensitySettings, WrongDensityError, run_set
from benchmarks.density_data import DataError, find_sets, load
from benchmarks.density_report import density_table, read_rows, write_row
from benchmarks.options import json_file, positive


def add_density(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
        type=json_file,
        default=Path("benchmarks/results/density.json"),
        help="rows of results, one a set; sets that it has with the same settings are not run "
        "again; default %(default)s",
    )
    command.add_argument("--again", action="store_true", help="run sets again that it has")
    command.add_argument("--members", type=positive, default=DensitySettings().members)
    command.add_argument("--threads", type=positive, default=2)


def run_density(options: argparse.Namespace) -> int:
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
