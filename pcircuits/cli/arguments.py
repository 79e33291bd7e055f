"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcircuits.cli.codebook import Codebook, read_names
from pcircuits.cli.models import READERS
from pcircuits.cli.tables import read_table
from pcircuits.errors import EvidenceError
from pcircuits.execute.evidence import Evidence
from pcircuits.structure.circuit import Circuit

DATA_HELP = (
    "rows of categories, numbers from 0 or words: .csv, .tsv, .npy, .npz or .parquet; missing: "
    "empty, ?, NA, none or -1"
)


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
        help="what is observed, by names or by numbers, for example rain=yes 3=0",
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
        codebook: What they and their categories are called.
    """

    evidence: Evidence | None
    codebook: Codebook


def what_is_known(
    model: Path, circuit: Circuit, data: Path | None, key: str | None, given: Sequence[str] | None
) -> Known:
    """What a data file or `--given` say.

    Args:
        model: Where the circuit was read from.
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
    named = read_names(model, circuit)
    codebook = named or Codebook.numbered(circuit)
    if data is None:
        return Known(None if given is None else _assigned(circuit, codebook, given), codebook)
    table = read_table(data, key)
    if table.values.shape[1] != circuit.num_variables:
        raise EvidenceError(
            f"{data} has {table.values.shape[1]} columns; the model has "
            f"{circuit.num_variables} variables"
        )
    if named is not None:
        return Known(table.coded_by(named).evidence(), named)
    if table.codebook is not None and any(table.codebook.words):
        raise EvidenceError(
            f"{data} holds words; {model} does not say which categories they stand for, as models "
            f"do that `pcircuits fit` learns from words"
        )
    return Known(table.evidence(), table.codebook or codebook)


def _assigned(circuit: Circuit, codebook: Codebook, given: Sequence[str]) -> Evidence:
    """Evidence about one example."""
    values = torch.zeros(1, circuit.num_variables, dtype=torch.long)
    observed = torch.zeros(1, circuit.num_variables, dtype=torch.bool)
    for text in given:
        left, sign, right = text.rpartition("=")
        if not (left and sign and right):
            raise EvidenceError(f"--given: expected VARIABLE=CATEGORY like 3=1; found {text!r}")
        variable = _told(f"--given {text}", codebook.variable, left)
        count = circuit.categories[variable]
        category = _told(f"--given {text}", codebook.category, variable, right, count)
        if observed[0, variable]:
            raise EvidenceError(f"--given: variable {left} is given twice")
        values[0, variable], observed[0, variable] = category, True
    return Evidence(values, observed)


def numbers_of(option: str, codebook: Codebook, variables: Sequence[str] | None) -> tuple[int, ...]:
    """The variables that an option names, by name or by number.

    Raises:
        EvidenceError: If there is no such variable.
    """
    return tuple(_told(option, codebook.variable, text) for text in variables or ())


def _told(option: str, find: Callable[..., int], *asked: object) -> int:
    """What `find` finds; its error tells the option."""
    try:
        return find(*asked)
    except EvidenceError as error:
        raise EvidenceError(f"{option}: {error}") from error
