"""`pcircuits query`: exact questions about rows of data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from pcircuits.cli.arguments import (
    DATA_HELP,
    add_given,
    add_model,
    add_seed,
    new_parser,
    numbers_of,
    what_is_known,
)
from pcircuits.cli.models import read_model
from pcircuits.cli.questions import KINDS, Question, answer, check_options
from pcircuits.cli.results import check_output, write_result
from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters, prepare
from pcircuits.parameters import WeightedCircuit

_METHODS = ("local_search", "max_product", "branch_and_bound")
_NAMED = "by name or by number"


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands,
        "query",
        "ask a model exact questions about every row of data",
        "pcircuits query model rows.csv --query marginals --output marginals.csv",
        {"queries": {name: kind.about for name, kind in KINDS.items()}},
    )
    add_model(parser)
    parser.add_argument(
        "data", type=Path, nargs="?", metavar="DATA", help=f"{DATA_HELP}; default nothing is known"
    )
    parser.add_argument("--key", metavar="KEY", help="array of an .npz file")
    add_given(parser)
    parser.add_argument(
        "--query",
        choices=tuple(KINDS),
        default="log-likelihood",
        metavar="QUERY",
        help="see below; default %(default)s",
    )
    _add_options(parser)
    add_seed(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=".csv, .tsv, .npy, .npz or .parquet; default CSV on standard output",
    )
    parser.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", nargs="+", metavar="VARIABLE", help=_NAMED)
    parser.add_argument("--condition", nargs="+", metavar="VARIABLE", help=_NAMED)
    parser.add_argument("--other", type=Path, metavar="MODEL", help="a model to compare with")
    parser.add_argument(
        "--method", choices=_METHODS, help=f"search of --query map; default {_METHODS[0]}"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="samples of an estimate; default none"
    )
    parser.add_argument(
        "--batch-size", type=int, default=512, metavar="N", help="rows at a time; default 512"
    )


def run(args: argparse.Namespace) -> int:
    """Answers and writes.

    Raises:
        CircuitError: If the model, the data or an option is wrong.
    """
    options = ("other", "target", "condition", "method", "samples")
    check_options(args.query, [name for name in options if getattr(args, name) is not None])
    check_output(args.output)
    weighted = read_model(args.model)
    plan = compile_circuit(weighted.circuit)
    known = what_is_known(args.model, plan.circuit, args.data, args.key, args.given)
    question = Question(
        plan=plan,
        parameters=_prepared(plan, weighted),
        evidence=known.evidence or Evidence(),
        codebook=known.codebook,
        target=numbers_of("--target", known.codebook, args.target),
        condition=numbers_of("--condition", known.codebook, args.condition),
        method=args.method or _METHODS[0],
        other=None if args.other is None else _other(args.other),
        num_samples=args.samples or 0,
        generator=torch.Generator().manual_seed(args.seed),
    )
    write_result(args.output, answer(args.query, question, args.batch_size))
    return 0


def _other(path: Path) -> tuple[Plan, PreparedParameters]:
    weighted = read_model(path)
    plan = compile_circuit(weighted.circuit)
    return plan, _prepared(plan, weighted)


@torch.no_grad()
def _prepared(plan: Plan, weighted: WeightedCircuit) -> PreparedParameters:
    # In float64: information is a small difference of large numbers.
    return prepare(plan, {name: log.double() for name, log in weighted.log_weights.items()})
