"""`pcircuits draw`: pictures of a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from pcircuits import viz
from pcircuits.cli.arguments import Known, add_given, add_model, new_parser, what_is_known
from pcircuits.cli.models import read_model
from pcircuits.compile.compiler import compile_circuit
from pcircuits.errors import FormatError
from pcircuits.module import CircuitModel
from pcircuits.parameters import WeightedCircuit
from pcircuits.viz.save import FORMATS


@dataclass(frozen=True, eq=False)
class Subject:
    """What is drawn.

    Attributes:
        weighted: The circuit.
        known: What is known of its variables, and how they are called.
        detail: How much of the circuit.
    """

    weighted: WeightedCircuit
    known: Known
    detail: str

    @property
    def model(self) -> CircuitModel:
        """The circuit as a model."""
        return CircuitModel.of(self.weighted)

    @property
    def names(self) -> tuple[str, ...]:
        """What the variables are called."""
        return self.known.codebook.names

    def categories(self) -> list[list[str]]:
        """What the categories of every variable are called."""
        sizes = self.weighted.circuit.categories
        return [self.known.codebook.labels(i, size) for i, size in enumerate(sizes)]


PICTURES: dict[str, Callable[[Subject], Axes]] = {
    "circuit": lambda s: viz.draw(s.weighted, detail=s.detail, variable_names=s.names),
    "regions": lambda s: viz.regions(s.weighted, variable_names=s.names),
    "marginals": lambda s: viz.marginals(
        s.model, s.known.evidence, variable_names=s.names, category_names=s.categories()
    ),
    "dependencies": lambda s: viz.dependencies(s.model, s.known.evidence, variable_names=s.names),
    "dependency-graph": lambda s: viz.dependency_graph(
        s.model, s.known.evidence, variable_names=s.names
    ),
    "transition": lambda s: viz.transition(s.model),
    "emission": lambda s: viz.emission(s.model),
    "states": lambda s: viz.states(s.model),
    "cost": lambda s: viz.plan_cost(compile_circuit(s.weighted.circuit)),
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
    known = what_is_known(args.model, weighted.circuit, None, None, args.given)
    matplotlib.use("Agg")  # only files are written: no window system is needed
    subject = Subject(weighted, known, args.detail or "auto")
    viz.save(PICTURES[args.picture](subject), args.output)
    pyplot.close("all")
    print(f"wrote {args.output}")
    return 0
