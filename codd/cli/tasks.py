"""`codd tasks`: data of tasks with checkable answers, and a model's accuracy on them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from codd import viz as pictures
from codd.cli.inputs import (
    add_number,
    add_placement,
    add_selection,
    add_threads,
    prepare_folder,
    read_model,
    set_threads,
)
from codd.cli.measuring import open_console, save_figure, show_progress, write_json
from codd.cli.variants import RECIPES, Variants
from codd.decoding.samplers import SAMPLERS
from codd.evaluation.report import task_table
from codd.evaluation.task_scores import TaskProtocol, TaskResult, measure_task
from codd.evaluation.tasks.base import ClosedTask, make_examples
from codd.evaluation.tasks.files import write_task
from codd.evaluation.tasks.registry import TASKS, make_task
from codd.training.windows import encode_rows

_VARIANTS = ("copula", "one-state", "shuffled-emissions")
_NETWORK = "--width 64 --layers 2 --heads 4 --states 512 --modulator static"


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "tasks",
        help="make data of tasks with checkable answers, and measure a model on them",
        description="Writes examples of a task, split into train, valid and test, of which no two "
        "splits share a prompt. With --model, measures the share of right answers of the test "
        "split by tokens per forward, beside the factorised output with the same sampler and "
        "temperature and beside the controls; prints the table and writes it as JSON, with a "
        "figure.",
    )
    parser.add_argument("name", choices=tuple(TASKS), help="the task")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="made if missing")
    data = parser.add_argument_group("data")
    add_number(data, "--items", 4, "letters of a list, or the order of a Latin square")
    add_number(data, "--letters", 8, "letters of the alphabet that lists are drawn from")
    add_number(data, "--train", 20_000, "examples to train on")
    add_number(data, "--valid", 1_000, "examples for choices")
    add_number(data, "--test", 1_000, "examples for reported figures")
    add_number(data, "--seed", 0, "seed of everything random")
    _add_scoring(parser)
    add_placement(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Writes the data, and measures where a model is given.

    Raises:
        CoddError: If an argument is wrong or the folder holds another task.
    """
    set_threads(args.threads)
    console = open_console()
    task = make_task(args.name, num_items=args.items, num_letters=args.letters)
    prepare_folder(args.out)
    counts = {split: getattr(args, split) for split in ("train", "valid", "test")}
    for path in write_task(args.out, task, counts, seed=args.seed):
        console.print(f"wrote {path}")
    if args.model is None:
        console.print(f"train a model on it:\n  {_training(task, args.out)}", soft_wrap=True)
        return
    result = _measure(task, args)
    console.print(task_table(result))
    _write(result, args, console)


def _measure(task: ClosedTask, args: argparse.Namespace) -> TaskResult:
    model = read_model(args)
    examples = make_examples(task, args.split, getattr(args, args.split), seed=args.seed)
    train = make_examples(task, "train", args.train, seed=args.seed)
    tokens = encode_rows([example.answer for example in train], model.vocabulary)
    variants = Variants(model, tokens.flatten(), args.variants, args.seed)
    usual = sorted({2**i for i in range(task.answer_length.bit_length())} | {task.answer_length})
    protocol = TaskProtocol(
        tuple(args.tokens_per_step or usual), selection=args.selection, seed=args.seed
    )
    chosen = variants.for_tasks(args.sampler, args.temperature)
    with show_progress("answers") as report:
        return measure_task(
            task,
            examples,
            chosen,
            model.vocabulary,
            protocol,
            device=model.device,
            progress=report,
        )


def _write(result: TaskResult, args: argparse.Namespace, console: Console) -> None:
    about = {
        "model": str(args.model),
        "split": args.split,
        "sampler": args.sampler,
        "temperature": args.temperature,
    }
    contents = {**about, "result": result.to_json()}
    files = args.out / "results.json", args.out / "results.png"
    write_json(files[0], contents)
    save_figure(files[1], (9.0, 4.8), lambda axes: pictures.task(result, ax=axes))
    for path in files:
        console.print(f"wrote {path}")


def _training(task: ClosedTask, folder: Path) -> str:
    """A command that trains a small model on a task's data in some minutes."""
    answer, row = task.answer_length, task.prompt_length + task.answer_length
    lengths = f"--max-length {row} --window {answer} --block {answer} --min-count 1"
    steps = "--denoiser-steps 1500 --circuit-steps 200"
    place = shlex.quote(str(folder))
    return f"codd train --corpus {place} --rows {lengths} {_NETWORK} {steps} --out {place}/run"


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring")
    group.add_argument("--model", metavar="MODEL", help="folder, 'demo', or hub id of a model")
    group.add_argument(
        "--split",
        choices=("valid", "test"),
        default="test",
        help="what is measured; choose settings on valid; default %(default)s",
    )
    group.add_argument(
        "--tokens-per-step",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of tokens fixed at a denoiser call; default powers of two and all",
    )
    group.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=_VARIANTS,
        help=f"what to compare with the factorised output: some of {', '.join(RECIPES)}; default "
        f"{' '.join(_VARIANTS)}",
    )
    add_selection(group, "random")
    group.add_argument(
        "--sampler",
        choices=tuple(SAMPLERS),
        default="exact",
        help="how the tokens of a step are drawn together; default %(default)s",
    )
    group.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="default %(default)s"
    )
