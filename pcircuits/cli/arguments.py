"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcircuits.cli.models import READERS
from pcircuits.cli.tables import read_table
from pcircuits.errors import EvidenceError
from pcircuits.execute.evidence import Evidence
from pcircuits.structure.circuit import Circuit

DATA_HELP = "rows of categories: .csv, .tsv, .npy, .npz or .parquet; missing: empty, -1 or NaN"


def new_parser(
    commands: Any,
    name: str,
    about: str,
    example: str,
    lists: Mapping[str, Mapping[str, str]] | None = None,
) -> argparse.ArgumentParser:
    """A command's parser, with lists of choices and an example below its help.

    Args:
        commands: The subparsers of `pcircuits`.
        name: The command.
        about: What it does, one sentence without a full stop.
        example: A command line.
        lists: Title of a list -> choice -> what it is.
    """
    parts = [
        f"{title}:\n" + "\n".join(f"  {choice:20s}{text}" for choice, text in choices.items())
        for title, choices in (lists or {}).items()
    ]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog="\n\n".join([*parts, f"example:\n  {example}"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the argument MODEL."""
    suffixes = ", ".join(kind for kind in READERS if kind.startswith("."))
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help=f"a model's folder, or {suffixes}"
    )


def add_given(parser: Any) -> None:
    """Adds `--given`."""
    parser.add_argument(
        "--given",
        nargs="+",
        metavar="VARIABLE=CATEGORY",
        help="observed variables by number, for example 0=1 3=0",
    )


def add_seed(parser: Any) -> None:
    """Adds `--seed`."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of randomness; default 0"
    )


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the variables, and how they are called.

    Attributes:
        evidence: None if nothing is known.
        names: L names.
    """

    evidence: Evidence | None
    names: list[str]


def what_is_known(
    circuit: Circuit, data: Path | None, key: str | None, given: Sequence[str] | None
) -> Known:
    """What a data file or `--given` say.

    Args:
        circuit: What it is about.
        data: Data file, or None.
        key: Key of an NPZ file, or None.
        given: Assignments `VARIABLE=CATEGORY`, or None.

    Raises:
        EvidenceError: If both are given, an assignment is wrong, or the file has another number
            of variables.
        FormatError: If the file cannot be read.
    """
    if data is not None and given is not None:
        raise EvidenceError("expected a data file or --given; found both")
    if data is None and key is not None:
        raise EvidenceError(f"--key {key}: expected an .npz data file with it; found none")
    names = [f"X{i}" for i in range(circuit.num_variables)]
    if data is None:
        return Known(None if given is None else _assigned(circuit, given), names)
    table = read_table(data, key)
    if table.values.shape[1] != circuit.num_variables:
        raise EvidenceError(
            f"{data} has {table.values.shape[1]} columns; the model has "
            f"{circuit.num_variables} variables"
        )
    return Known(table.evidence(), list(table.names or names))


def _assigned(circuit: Circuit, given: Sequence[str]) -> Evidence:
    """Evidence about one example."""
    values = torch.zeros(1, circuit.num_variables, dtype=torch.long)
    observed = torch.zeros(1, circuit.num_variables, dtype=torch.bool)
    for text in given:
        left, _, right = text.partition("=")
        if not (left.isdecimal() and right.isdecimal()):
            raise EvidenceError(f"--given: expected VARIABLE=CATEGORY like 3=1; found {text!r}")
        variable, category = int(left), int(right)
        if variable >= circuit.num_variables or category >= circuit.categories[variable]:
            raise EvidenceError(
                f"--given {text}: expected a variable of 0 .. {circuit.num_variables - 1} and one "
                f"of its categories"
            )
        if observed[0, variable]:
            raise EvidenceError(f"--given: variable {variable} is given twice")
        values[0, variable], observed[0, variable] = category, True
    return Evidence(values, observed)
