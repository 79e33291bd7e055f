"""`pcircuits convert`: a model from one format to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pcircuits.cli.arguments import add_model, new_parser
from pcircuits.cli.codebook import read_names, write_names
from pcircuits.cli.models import FOLDER, WRITERS, read_model, write_model, written_kind
from pcircuits.errors import FormatError


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands,
        "convert",
        "write a model in another format; formats go by suffix, no suffix is a folder of ours",
        "pcircuits convert model.jpc model",
    )
    add_model(parser)
    suffixes = ", ".join(kind for kind in WRITERS if kind.startswith("."))
    parser.add_argument("output", type=Path, metavar="OUT", help=f"a folder, or {suffixes}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads and writes.

    Raises:
        FormatError: If a format is not known or cannot hold the circuit, or OUT is there already.
    """
    kind = written_kind(args.output)
    if args.output.exists():
        raise FormatError(f"{args.output} is there already; choose another name or remove it")
    weighted = read_model(args.model)
    codebook = read_names(args.model, weighted.circuit)
    write_model(args.output, weighted)
    if codebook is not None and kind == FOLDER:
        write_names(args.output, codebook)
    print(f"wrote {args.output}: {weighted.circuit!r}")
    return 0
