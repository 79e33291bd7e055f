"""`codd evaluate`: measures a model on held-out text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from codd.cli.curves import (
    REFERENCE,
    RULES,
    run_frontier,
    run_quotas,
    show_frontier,
    show_quotas,
    write_frontier,
    write_quotas,
)
from codd.cli.inputs import (
    add_corpus,
    add_model,
    add_placement,
    add_result,
    add_seed,
    add_threads,
    held_out_windows,
    prepare_folder,
    read_corpus,
    read_model,
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
from codd.evaluation.frontier import FrontierProtocol
from codd.evaluation.gap import GapProtocol
from codd.evaluation.quota_curves import QuotaProtocol
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
    add_model(parser)
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
        "all, without the -static ones for a model without modulator; with --temperatures some of "
        "copula, copula-joint, copula-static",
    )
    _add_curves(parser)
    add_result(parser, "results.json", beside="figures go beside it; ")
    add_seed(parser)
    add_placement(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def _add_curves(parser: argparse.ArgumentParser) -> None:
    curves = parser.add_mutually_exclusive_group()
    curves.add_argument(
        "--quotas",
        nargs="*",
        metavar="RULE",
        help="measure instead the judge's score against denoiser calls, for rules that say how "
        f"many tokens a call fixes, without and with the circuit; default {' '.join(RULES)}",
    )
    curves.add_argument(
        "--temperatures",
        nargs="+",
        type=float,
        metavar="T",
        help="measure instead the judge's score against entropy at several temperatures, with "
        "--tokens-per-step, default 4 8 16",
    )
    parser.add_argument(
        "--split",
        choices=("test", "valid"),
        default="test",
        help="of the corpus: valid for choices, test for figures; default %(default)s",
    )


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
    model = read_model(args)
    corpus = read_corpus(args.corpus)
    about = {
        "model": str(args.model),
        "corpus": {"sha256": corpus.sha256, "source": corpus.source, "split": args.split},
    }
    measure = _measure_both
    if args.quotas is not None:
        measure = _measure_quotas
    elif args.temperatures is not None:
        measure = _measure_temperatures
    console = open_console()
    for path in measure(console, model, corpus, args, about):
        console.print(f"wrote {path}")


def _measure_both(
    console: Console,
    model: CoupledModel,
    corpus: Corpus,
    args: argparse.Namespace,
    about: dict[str, Any],
) -> list[Path]:
    measured = _measure(model, corpus, args)
    show(console, measured)
    return write(args.out, measured, about)


def _measure_quotas(
    console: Console,
    model: CoupledModel,
    corpus: Corpus,
    args: argparse.Namespace,
    about: dict[str, Any],
) -> list[Path]:
    train, prompts = _train_and_prompts(model, corpus, args)
    families = Variants(model, train).for_quotas(args.quotas or RULES)
    protocol = QuotaProtocol(model.block, REFERENCE, seed=args.seed)
    result = run_quotas(prompts, families, make_judges(corpus, model.vocabulary, train), protocol)
    show_quotas(console, result)
    return write_quotas(args.out, result, about)


def _measure_temperatures(
    console: Console,
    model: CoupledModel,
    corpus: Corpus,
    args: argparse.Namespace,
    about: dict[str, Any],
) -> list[Path]:
    train, prompts = _train_and_prompts(model, corpus, args)
    usual = [n for n in FrontierProtocol.tokens_per_step if n <= model.block]
    protocol = FrontierProtocol(
        model.block,
        tuple(args.temperatures),
        tokens_per_step=tuple(args.tokens_per_step or usual),
        seed=args.seed,
    )
    variants = Variants(model, train, args.variants).for_frontier()
    result = run_frontier(prompts, variants, make_judges(corpus, model.vocabulary, train), protocol)
    show_frontier(console, result)
    return write_frontier(args.out, result, about)


def _train_and_prompts(
    model: CoupledModel, corpus: Corpus, args: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """(N,) ids of the training text; (n, L) windows to continue."""
    count = _count(args.few_step_windows, _FEW_STEP_WINDOWS, args.quick)
    windows = held_out_windows(corpus, model.vocabulary, model.max_length, count, split=args.split)
    return encode_documents(corpus.train, model.vocabulary), windows.to(model.device)


def _measure(model: CoupledModel, corpus: Corpus, args: argparse.Namespace) -> Measured:
    train = encode_documents(corpus.train, model.vocabulary)
    variants = Variants(model, train, args.variants, args.seed)
    gap_windows, prompts = (
        held_out_windows(
            corpus,
            model.vocabulary,
            model.max_length,
            _count(asked, usual, args.quick),
            split=args.split,
        ).to(model.device)
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
