"""`pcircuits draw`: pictures of a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from pcircuits import viz
from pcircuits.cli.arguments import add_given, add_model, new_parser, what_is_known
from pcircuits.cli.models import read_model
from pcircuits.compile.compiler import compile_circuit
from pcircuits.errors import FormatError
from pcircuits.execute.evidence import Evidence
from pcircuits.module import CircuitModel
from pcircuits.parameters import WeightedCircuit
from pcircuits.viz.save import FORMATS

Picture = Callable[[WeightedCircuit, Evidence | None, str], Axes]
PICTURES: dict[str, Picture] = {
    "circuit": lambda weighted, given, detail: viz.draw(weighted, detail=detail),
    "regions": lambda weighted, given, detail: viz.regions(weighted),
    "marginals": lambda weighted, given, detail: viz.marginals(CircuitModel.of(weighted), given),
    "dependencies": lambda weighted, given, detail: viz.dependencies(
        CircuitModel.of(weighted), given
    ),
    "dependency-graph": lambda weighted, given, detail: viz.dependency_graph(
        CircuitModel.of(weighted), given
    ),
    "transition": lambda weighted, given, detail: viz.transition(CircuitModel.of(weighted)),
    "emission": lambda weighted, given, detail: viz.emission(CircuitModel.of(weighted)),
    "states": lambda weighted, given, detail: viz.states(CircuitModel.of(weighted)),
    "cost": lambda weighted, given, detail: viz.plan_cost(compile_circuit(weighted.circuit)),
}
"""Name on the command line -> picture; a new one is one line here."""
_WITH_EVIDENCE = ("marginals", "dependencies", "dependency-graph")


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands,
        "draw",
        "draw a circuit, or what it says of its variables",
        "pcircuits draw model --picture dependencies --output dependencies.svg",
    )
    add_model(parser)
    parser.add_argument(
        "--picture", choices=tuple(PICTURES), default="circuit", help="default %(default)s"
    )
    parser.add_argument(
        "--detail",
        choices=viz.DETAILS,
        help="of the circuit: every unit, every node or the folded plan; default what is readable",
    )
    add_given(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=", ".join(FORMATS)
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws and writes.

    Raises:
        CircuitError: If the model or an option is wrong.
    """
    if args.output.suffix.lower() not in FORMATS:
        raise FormatError(
            f"{args.output}: expected one of {', '.join(FORMATS)}; found {args.output.suffix!r}"
        )
    if args.detail is not None and args.picture != "circuit":
        raise FormatError(f"--detail is for --picture circuit; found {args.picture!r}")
    if args.given is not None and args.picture not in _WITH_EVIDENCE:
        raise FormatError(f"--given is for {', '.join(_WITH_EVIDENCE)}; found {args.picture!r}")
    weighted = read_model(args.model)
    given = what_is_known(weighted.circuit, None, None, args.given).evidence
    matplotlib.use("Agg")  # only files are written: no window system is needed
    viz.save(PICTURES[args.picture](weighted, given, args.detail or "auto"), args.output)
    pyplot.close("all")
    print(f"wrote {args.output}")
    return 0
