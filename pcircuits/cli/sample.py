"""`pcircuits sample`: exact samples, also given evidence."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from pcircuits import queries
from pcircuits.cli.arguments import (
    DATA_HELP,
    add_given,
    add_model,
    add_seed,
    new_parser,
    what_is_known,
)
from pcircuits.cli.models import read_model
from pcircuits.cli.results import Result, check_output, write_result
from pcircuits.compile.compiler import compile_circuit


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands,
        "sample",
        "draw exact samples from a model, also given evidence",
        "pcircuits sample model -n 100 --given 0=1 3=0 --output samples.csv",
    )
    add_model(parser)
    parser.add_argument(
        "-n", "--number", type=int, default=10, metavar="N", help="samples, of each row; default 10"
    )
    add_given(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help=f"rows to complete, each N times; {DATA_HELP}",
    )
    parser.add_argument("--key", metavar="KEY", help="array of an .npz file")
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="below 1 sharpens each variable given the latent choices; default 1",
    )
    add_seed(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=".csv, .tsv, .npy, .npz or .parquet; default CSV on standard output",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws and writes; the samples of a row of data follow one another.

    Raises:
        CircuitError: If the model, the data or an option is wrong.
    """
    check_output(args.output)
    weighted = read_model(args.model)
    plan = compile_circuit(weighted.circuit)
    known = what_is_known(args.model, plan.circuit, args.data, args.key, args.given)
    drawn = queries.sample(
        plan,
        weighted.log_weights,
        args.number,
        known.evidence,
        temperature=args.temperature,
        generator=torch.Generator().manual_seed(args.seed),
    )
    values = drawn.reshape(-1, plan.num_variables).numpy()
    write_result(args.output, Result(known.codebook.spelled(values), values))
    return 0
