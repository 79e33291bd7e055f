"""`pcircuits validate`: what a circuit's structure promises, with reasons."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pcircuits.cli.arguments import add_model, new_parser
from pcircuits.cli.models import read_model
from pcircuits.operators.tables import zeros_of
from pcircuits.validate import compatible, validate

_PROPERTIES = ("smooth", "decomposable", "structured-decomposable", "deterministic")


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands,
        "validate",
        "check a circuit's properties and explain them; exit code 1 if a required one is violated",
        "pcircuits validate model --require deterministic",
    )
    add_model(parser)
    parser.add_argument(
        "--require",
        nargs="+",
        choices=_PROPERTIES,
        default=[],
        metavar="PROPERTY",
        help=f"properties it must have beside the first two: {', '.join(_PROPERTIES)}",
    )
    parser.add_argument(
        "--compatible-with",
        type=Path,
        metavar="MODEL",
        help="another model, with which it must be possible to multiply it",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the properties.

    Returns:
        0 if all that is required holds, else 1.

    Raises:
        CircuitError: If a model cannot be read.
    """
    weighted = read_model(args.model)
    found = validate(weighted.circuit, zeros=zeros_of(weighted))
    print(found)
    required = dict.fromkeys([*_PROPERTIES[:2], *args.require])
    answers = {name: getattr(found, name.replace("-", "_")) for name in required}
    lacking = [
        f"{'not' if holds is False else 'not known to be'} {name}"
        for name, holds in answers.items()
        if not holds
    ]
    if args.compatible_with is not None:
        answer = compatible(weighted.circuit, read_model(args.compatible_with).circuit)
        print(answer.reason)
        lacking += [] if answer.holds else [f"not compatible with {args.compatible_with}"]
    for what in lacking:
        print(f"pcircuits: violated: {args.model} is {what}", file=sys.stderr)
    return 1 if lacking else 0
