"""`pcircuits info`: how large a model is, and what an evaluation takes."""

from __future__ import annotations

import argparse
import math
from typing import Any

from pcircuits.cli.arguments import add_model, new_parser
from pcircuits.cli.models import read_model
from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.execute.api import choose_implementation
from pcircuits.execute.evidence import Evidence
from pcircuits.structure.circuit import Circuit


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands, "info", "show a model's sizes, cost and parameters", "pcircuits info model"
    )
    add_model(parser)
    parser.add_argument("--plan", action="store_true", help="also list the layers of the plan")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the sizes.

    Raises:
        CircuitError: If the model cannot be read.
    """
    weighted = read_model(args.model)
    circuit = weighted.circuit
    plan = compile_circuit(circuit)
    choice = choose_implementation(plan, weighted.log_weights, Evidence())
    _print_rows([*_sizes(circuit, plan), ("evaluated by", str(choice))])
    if args.plan:
        print(f"\n{plan}")
    rows = [
        (name, f"{math.prod(shape):>12,}  {' x '.join(map(str, shape))}")
        for name, shape in circuit.parameter_shapes.items()
    ]
    if rows:
        print("\nparameter, numbers, shape")
        _print_rows(rows)
    return 0


def _sizes(circuit: Circuit, plan: Plan) -> list[tuple[str, str]]:
    cost, categories = plan.cost(), sorted(set(circuit.categories))
    span = f"{categories[0]}" if len(categories) == 1 else f"{categories[0]} to {categories[-1]}"
    return [
        ("variables", f"{circuit.num_variables:,}"),
        ("categories", span),
        ("nodes", f"{len(circuit.nodes):,}"),
        ("edges", f"{sum(len(node.children) for node in circuit.nodes):,}"),
        ("units", f"{cost.num_units:,}"),
        ("layers", f"{cost.num_layers:,}"),
        ("parameters", f"{cost.num_parameters:,} ({cost.parameter_bytes:,} bytes as float32)"),
        ("operations a row", f"{cost.operations:,} ({cost.soft_operations:,} with soft evidence)"),
        ("memory a row", f"{cost.value_bytes:,} bytes"),
    ]


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:{width}s}{text}")
