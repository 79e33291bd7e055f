"""`codd evaluate`: measures a model on held-out text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from codd.cli.inputs import (
    add_corpus,
    add_threads,
    held_out_windows,
    prepare_folder,
    read_corpus,
    set_threads,
)
from codd.cli.measuring import (
    Measured,
    make_judges,
    open_console,
    run_few_step,
    run_gap,
    show,
    write,
)
from codd.cli.variants import RECIPES, Variants
from codd.errors import ConfigError
from codd.evaluation.few_step import FewStepProtocol
from codd.evaluation.gap import GapProtocol
from codd.model import CoupledModel
from codd.training.corpus import Corpus
from codd.training.windows import encode_documents

_WINDOWS = 256
_FEW_STEP_WINDOWS = 64
_QUICK_WINDOWS = 16


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="measure a model on held-out text",
        description="Measures, on windows of the corpus' test split after a visible prompt: the "
        "share of the misspecification gap that each coupling closes, by mask ratio; and the "
        "quality of generated blocks, by tokens a step, in random order and by confidence. Prints "
        "both tables and writes them as JSON, with a figure of each beside it.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder, 'demo', or hub id of a model")
    add_corpus(parser)
    _add_sizes(parser)
    parser.add_argument(
        "--tokens-per-step",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of tokens fixed at a denoiser call, at most the block; one token a step is "
        "always measured; default 2 4 8 16 32",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        help=f"what to compare with the factorised output: some of {', '.join(RECIPES)}; default "
        "all, without the -static ones for a model without modulator",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results.json"),
        metavar="FILE",
        help="JSON file, replaced in one step; figures go beside it; default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    add_threads(parser)
    parser.set_defaults(run=run)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--windows",
        type=int,
        metavar="N",
        help=f"most windows for the gap; default {_WINDOWS}, or {_QUICK_WINDOWS} with --quick",
    )
    parser.add_argument(
        "--few-step-windows",
        type=int,
        metavar="N",
        help=f"most prompts to continue; default {_FEW_STEP_WINDOWS}, or {_QUICK_WINDOWS} with "
        "--quick",
    )
    parser.add_argument("--quick", action="store_true", help="few windows, large standard errors")


def run(args: argparse.Namespace) -> None:
    """Measures, prints and writes.

    Raises:
        CoddError: If the model, the corpus or an option is wrong.
    """
    set_threads(args.threads)
    _check_output(args.out)
    model = CoupledModel.from_pretrained(args.model)
    corpus = read_corpus(args.corpus)
    measured = _measure(model, corpus, args)
    console = open_console()
    show(console, measured)
    about = {
        "model": str(args.model),
        "corpus": {"sha256": corpus.sha256, "source": corpus.source, "split": "test"},
    }
    for path in write(args.out, measured, about):
        console.print(f"wrote {path}")


def _measure(model: CoupledModel, corpus: Corpus, args: argparse.Namespace) -> Measured:
    train = encode_documents(corpus.train, model.vocabulary)
    variants = Variants(model, train, args.variants, args.seed)
    gap_windows, prompts = (
        held_out_windows(
            corpus, model.vocabulary, model.max_length, _count(asked, usual, args.quick)
        )
        for asked, usual in ((args.windows, _WINDOWS), (args.few_step_windows, _FEW_STEP_WINDOWS))
    )
    usual = [n for n in FewStepProtocol.tokens_per_step if n <= model.block]
    paces = tuple(sorted({1, *(args.tokens_per_step or usual)}))
    return Measured(
        run_gap(model, gap_windows, variants.for_gap(), GapProtocol(model.block, seed=args.seed)),
        run_few_step(
            prompts,
            variants.for_few_step(),
            make_judges(corpus, model.vocabulary, train),
            FewStepProtocol(model.block, tokens_per_step=paces, seed=args.seed),
        ),
    )


def _count(asked: int | None, usual: int, quick: bool) -> int:
    return (_QUICK_WINDOWS if quick else usual) if asked is None else asked


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"--out: expected a file, found the folder {path}")
    prepare_folder(path.parent)
