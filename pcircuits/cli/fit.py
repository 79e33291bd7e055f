"""`pcircuits fit`: builds a model of a family for data, learns its parameters, writes it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from pcircuits.cli.algorithms import ALGORITHMS, Task
from pcircuits.cli.arguments import DATA_HELP, add_seed, new_parser
from pcircuits.cli.codebook import NAMES, write_names
from pcircuits.cli.families import DEFAULTS, FAMILIES, Family, build_model
from pcircuits.cli.tables import Table, read_table
from pcircuits.errors import EvidenceError, FormatError
from pcircuits.execute.evidence import Evidence
from pcircuits.files import write_atomically
from pcircuits.learning.history import History
from pcircuits.module import CircuitModel

CHECKPOINT, HISTORY = "checkpoint", "history.csv"
_FEW_CATEGORIES = 50
_WRITTEN = ("circuit.json", CHECKPOINT, HISTORY, NAMES)


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `pcircuits`."""
    parser = new_parser(
        commands,
        "fit",
        "learn a model from data",
        "pcircuits fit train.csv --family hclt --units 32 --valid valid.csv --patience 5 "
        "--output model",
        {
            "families": {name: _with_sizes(family) for name, family in FAMILIES.items()},
            "algorithms": {name: algorithm.about for name, algorithm in ALGORITHMS.items()},
        },
    )
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    parser.add_argument("--key", metavar="KEY", help="array of an .npz file to learn from")
    parser.add_argument("--valid", type=Path, metavar="FILE", help="held-out rows; default none")
    parser.add_argument("--valid-key", metavar="KEY", help="array of an .npz file to hold out")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where the model goes"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue what Ctrl-C or a crash interrupted in FOLDER, to the same result",
    )
    _add_structure(parser.add_argument_group("structure"))
    _add_learning(parser.add_argument_group("learning"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Learns and writes.

    Raises:
        KeyboardInterrupt: After Ctrl-C, with all that was learned written.
        CircuitError: If the data, the family or an option is wrong.
        ValueError: If a number is out of range.
    """
    _refuse_to_overwrite(args)
    train, valid = _read(args)
    model = _model(args, train, valid)
    _tell(train, model)
    args.output.mkdir(parents=True, exist_ok=True)
    history = _fit(args, model, train, valid)
    model.save(args.output)
    if train.codebook is not None:
        write_names(args.output, train.codebook)
    write_atomically(args.output / HISTORY, history.csv().encode())
    _report(args, model, history)
    if history.stopped == "interrupted":
        again = args.command_line + ("" if args.resume else " --resume")
        raise KeyboardInterrupt(f"; wrote {args.output}; continue with: {again}")
    return 0


def _refuse_to_overwrite(args: argparse.Namespace) -> None:
    found = [name for name in _WRITTEN if (args.output / name).exists()]
    if found and not args.resume:
        raise FormatError(
            f"{args.output} holds {found[0]} of an earlier run; add --resume to continue it, or "
            f"choose another folder"
        )


def _read(args: argparse.Namespace) -> tuple[Table, Table | None]:
    train = read_table(args.data, args.key)
    if args.valid is None and args.valid_key is None:
        return train, None
    path = args.data if args.valid is None else args.valid
    valid = read_table(path, args.valid_key)
    if valid.values.shape[1] != train.values.shape[1]:
        raise EvidenceError(
            f"{path} has {valid.values.shape[1]} columns; {args.data} has {train.values.shape[1]}"
        )
    return _alike(train, valid)


def _alike(train: Table, valid: Table) -> tuple[Table, Table]:
    """Both with the same numbers for the same words; what only the held-out rows say comes last."""
    if train.codebook is None or valid.codebook is None:
        return train, valid
    ordered = valid.codebook.ordered(train.codebook.names)
    codebook = train.codebook if ordered is None else train.codebook.joined(ordered)
    return train.coded_by(codebook), valid.coded_by(codebook)


def _model(args: argparse.Namespace, train: Table, valid: Table | None) -> CircuitModel:
    categories = train.categories()
    if valid is not None:
        categories = [max(pair) for pair in zip(categories, valid.categories(), strict=True)]
    if args.categories is not None:
        if args.categories < max(categories):
            raise EvidenceError(
                f"--categories {args.categories}: the data holds category {max(categories) - 1}"
            )
        categories = [args.categories] * len(categories)
    given = {name: getattr(args, name) for name in DEFAULTS}
    return build_model(
        args.family,
        train.values,
        train.evidence().observed,
        categories,
        sizes={name: number for name, number in given.items() if number is not None},
        shape=None if args.shape is None else (args.shape[0], args.shape[1]),
        seed=args.seed,
    )


def _fit(
    args: argparse.Namespace, model: CircuitModel, train: Table, valid: Table | None
) -> History:
    held_out: Evidence | None = None if valid is None else valid.evidence()
    task = Task(
        model=model,
        train=train.evidence(),
        valid=held_out,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        checkpoint=args.output / CHECKPOINT,
        common={
            "epochs": args.epochs,
            "pseudocount": args.pseudocount,
            "tolerance": args.tolerance,
            "patience": args.patience,
            "seed": args.seed,
            "resume": args.resume,
            "progress": not args.quiet and sys.stdout.isatty(),
        },
    )
    return ALGORITHMS[args.algorithm].fit(task)


def _tell(train: Table, model: CircuitModel) -> None:
    """Says what was read, and which columns look like no variable at all."""
    rows, sizes = len(train.values), model.circuit.categories
    span = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    print(f"{train.path}: {rows:,} rows of {len(sizes):,} variables with {span} categories")
    names = None if train.codebook is None else train.codebook.names
    for variable, size in enumerate(sizes):
        if size > max(_FEW_CATEGORIES, rows // 2):
            name = f"column {variable + 1}" if names is None else f"column {names[variable]!r}"
            print(f"note: {name} has {size:,} categories in {rows:,} rows; is it an identifier?")


def _report(args: argparse.Namespace, model: CircuitModel, history: History) -> None:
    numbers = sum(torch.Size(shape).numel() for shape in model.plan.parameter_shapes.values())
    print(f"{args.family}: {numbers:,} parameters, {len(history)} epochs, {history.stopped}")
    if len(history):
        best = history.best
        print(f"epoch {best.epoch:g}: train {best.train:.4f} nats a row", end="")
        print("" if best.valid is None else f", valid {best.valid:.4f} nats a row")
    print(f"wrote {args.output}")


def _with_sizes(family: Family) -> str:
    sizes = ", ".join(f"--{size}" for size in family.sizes)
    return f"{family.about} ({sizes})" if sizes else family.about


def _add_structure(group: Any) -> None:
    group.add_argument(
        "--family",
        choices=tuple(FAMILIES),
        default="hclt",
        metavar="FAMILY",
        help="see below; default %(default)s",
    )
    texts = {
        "units": "units of a node, states of an HMM, components of a mixture",
        "repetitions": "random trees side by side",
        "depth": "how often variables are halved",
        "order": "states that the next one depends on",
        "blocks": "blocks of states",
        "rank": "routes between blocks",
    }
    for name, text in texts.items():
        group.add_argument(
            f"--{name}", type=int, metavar="N", help=f"{text}; default {DEFAULTS[name]}"
        )
    group.add_argument(
        "--shape", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels of an image"
    )
    group.add_argument(
        "--categories", type=int, metavar="N", help="of every variable; default as the data shows"
    )


def _add_learning(group: Any) -> None:
    group.add_argument(
        "--algorithm",
        choices=tuple(ALGORITHMS),
        default="em",
        metavar="ALGORITHM",
        help="see below; default %(default)s",
    )
    group.add_argument(
        "--epochs", type=int, default=50, metavar="N", help="passes over the data; default 50"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="rows of a mini-batch; default all for em, 256 for the others",
    )
    group.add_argument(
        "--learning-rate", type=float, metavar="R", help="of gradient learning; default 0.05"
    )
    group.add_argument(
        "--pseudocount",
        type=float,
        default=0.1,
        metavar="C",
        help="count added to every distribution; default 0.1",
    )
    _add_stopping(group)
    add_seed(group)
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_stopping(group: Any) -> None:
    group.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="stop when an epoch changes the nats a row by less; default never",
    )
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after so many epochs without a better one on --valid, and keep the best",
    )
