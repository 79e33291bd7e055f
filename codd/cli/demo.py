"""`codd demo`: the shipped model with and without coupling, in about two minutes on two cores."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from codd import viz as pictures
from codd.cli.inputs import (
    add_placement,
    add_seed,
    add_threads,
    held_out_windows,
    prepare_folder,
    read_model,
    set_threads,
)
from codd.cli.measuring import (
    Measured,
    make_judges,
    open_console,
    run_few_step,
    run_gap,
    save_figure,
    show,
    write,
)
from codd.cli.variants import Variants
from codd.coupling.settings import FACTORISED
from codd.decoding.loop import Generation
from codd.errors import CorpusError
from codd.evaluation.few_step import FewStepProtocol
from codd.evaluation.gap import GapProtocol
from codd.hub import DEMO
from codd.model import CoupledModel
from codd.training.corpus import Corpus, python_documentation
from codd.training.windows import encode_documents

# Sizes measured in advance: the whole takes about two minutes on two cores.
_TEXTS = 3
_TOKENS_PER_STEP = 8
_GAP_WINDOWS = 48
_GAP_RATIOS = (0.25, 0.5, 0.75, 1.0)
_FEW_STEP_WINDOWS = 24
_PACES = (1, 4, 8, 32)
_VISIBLE, _MASKED_SPAN, _MASKED_PERIOD, _MASKED_RUN = 8, 15, 5, 3
_GAP_VARIANTS = ("copula", "product")
_FEW_STEP_VARIANTS = ("copula",)
_SHOWN_NEWLINE = "⏎"


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="see in about two minutes what coupling does",
        description="Continues held-out text with and without coupling side by side, measures the "
        "gap that coupling closes and the quality of text written several tokens at once, on few "
        "windows, and writes three figures and the figures' numbers as JSON.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("codd-demo"),
        metavar="FOLDER",
        help="where figures and JSON go, each replaced in one step; default %(default)s",
    )
    parser.add_argument(
        "--model",
        default=DEMO,
        metavar="MODEL",
        help="folder or hub id of another model of the same text; default the shipped one",
    )
    add_seed(parser)
    add_placement(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Shows, measures and writes.

    Raises:
        CoddError: If the model is wrong.
    """
    started = time.perf_counter()
    set_threads(args.threads)
    prepare_folder(args.out)
    console = open_console()
    model = read_model(args)
    corpus = python_documentation()
    _show_texts(console, model, corpus, args.seed)
    _measure(console, model, corpus, args)
    path = args.out / "dependencies.png"
    _write_dependencies(path, model, corpus)
    console.print(f"wrote {path}")
    console.print(f"{time.perf_counter() - started:.0f} seconds in all")


def _show_texts(console: Console, model: CoupledModel, corpus: Corpus, seed: int) -> None:
    """Prints how held-out text is continued, step by step, without and with coupling."""
    decode = model.vocabulary.decode
    documents = _held_out_beginnings(corpus, model, _TEXTS)
    prompts = [decode(ids[: -model.block]) for ids in documents]
    pace = min(_TOKENS_PER_STEP, model.block)
    columns = {
        name: model.generate_tokens(
            prompts,
            new_tokens=model.block,
            tokens_per_step=pace,
            coupling=name,
            sampler="any_order",
            seed=seed,
            record_history=True,
        )
        for name in (FACTORISED, model.settings.kind)
    }
    for row, prompt in enumerate(prompts):
        title = f"{_one_line(prompt)}…   ({pace} tokens a step)"
        console.print(_steps_table(title, model, columns, row))
        real = decode(documents[row][-model.block :])
        console.print(Text(f"the real text goes on: {_one_line(real)}\n", "dim"))


def _steps_table(
    title: str, model: CoupledModel, columns: dict[str, Generation], row: int
) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("call", justify="right")
    for name in columns:
        table.add_column(name, min_width=model.block, no_wrap=True)
    states = [generation.history for generation in columns.values()]
    for step, records in enumerate(zip(*states, strict=True), 1):
        shown = (model.vocabulary.decode(record.tokens[row]) for record in records)
        table.add_row(str(step), *(Text(_one_line(text)) for text in shown))
    return table


def _measure(
    console: Console, model: CoupledModel, corpus: Corpus, args: argparse.Namespace
) -> None:
    """Prints both tables on few windows and writes them."""
    train = encode_documents(corpus.train, model.vocabulary)
    gap_windows, prompts = (
        held_out_windows(corpus, model.vocabulary, model.max_length, count).to(model.device)
        for count in (_GAP_WINDOWS, _FEW_STEP_WINDOWS)
    )
    paces = tuple(n for n in _PACES if n <= model.block)
    measured = Measured(
        run_gap(
            model,
            gap_windows,
            Variants(model, train, _GAP_VARIANTS).for_gap(),
            GapProtocol(model.block, ratios=_GAP_RATIOS, seed=args.seed),
        ),
        run_few_step(
            prompts,
            Variants(model, train, _FEW_STEP_VARIANTS).for_few_step(),
            make_judges(corpus, model.vocabulary, train),
            FewStepProtocol(model.block, tokens_per_step=paces, seed=args.seed),
        ),
    )
    show(console, measured)
    console.print(
        f"So few windows ({len(gap_windows)} and {len(prompts)}) leave standard errors this large; "
        "`codd evaluate` takes more."
    )
    about = {"model": str(args.model), "corpus": {"sha256": corpus.sha256, "split": "test"}}
    for path in write(args.out / "results.json", measured, about):
        console.print(f"wrote {path}")


def _write_dependencies(path: Path, model: CoupledModel, corpus: Corpus) -> None:
    """Draws what the circuit sees between the masked tokens of one held-out text."""
    tokens = _held_out_beginnings(corpus, model, 1)[0].to(model.device)
    # Short runs with a few visible tokens between them, so that dependencies reach across.
    place = (
        torch.arange(len(tokens), device=tokens.device)
        - (len(tokens) - model.block)
        - min(_VISIBLE, model.block // 4)
    )
    masked = (place >= 0) & (place < _MASKED_SPAN) & (place % _MASKED_PERIOD < _MASKED_RUN)
    with torch.no_grad():
        joint = model.joint(tokens.masked_fill(masked, model.mask_id)[None])
    save_figure(
        path,
        (7.5, 6.5),
        lambda axes: pictures.dependencies(joint, model.vocabulary, last=model.block, ax=axes),
    )


def _held_out_beginnings(corpus: Corpus, model: CoupledModel, count: int) -> list[Tensor]:
    """The first L ids of held-out documents, spread over the test split; L the model's longest."""
    encoded = [model.vocabulary.encode(text) for text in corpus.test]
    long = [ids[: model.max_length] for ids in encoded if len(ids) >= model.max_length]
    if len(long) < count:
        raise CorpusError(
            f"corpus {corpus.source!r}: expected {count} held-out documents of {model.max_length} "
            f"tokens, found {len(long)}"
        )
    return long[:: len(long) // count][:count]


def _one_line(text: str) -> str:
    return text.replace("\n", _SHOWN_NEWLINE)
