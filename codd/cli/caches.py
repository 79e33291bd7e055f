"""`codd caches`: measures what key-value caches of the denoiser change."""

from __future__ import annotations

import argparse
from typing import Any

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
from codd.cli.measuring import open_console, show_progress, write_json
from codd.evaluation.caches import CacheProtocol, measure_caches
from codd.evaluation.report import caches_table


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "caches",
        help="measure what key-value caches change",
        description="Continues held-out prompts with each kind of cache from the same seed, and "
        "prints the share of tokens that differ from those without a cache; and the conditional "
        "log-likelihood of true tokens in the middle of a block, with what each cache changes of "
        "it. A denoiser under a block-causal mask changes nothing.",
    )
    add_model(parser)
    add_corpus(parser)
    parser.add_argument(
        "--windows", type=int, default=128, metavar="N", help="most windows; default %(default)s"
    )
    parser.add_argument(
        "--block-length",
        type=int,
        metavar="N",
        help="tokens of each of the two blocks; default half the model's block",
    )
    parser.add_argument(
        "--tokens-per-step", type=int, default=2, metavar="N", help="default %(default)s"
    )
    add_result(parser, "caches.json")
    add_seed(parser)
    add_placement(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measures, prints and writes.

    Raises:
        CoddError: If the model, the corpus or an option is wrong.
    """
    set_threads(args.threads)
    prepare_folder(args.out.parent)
    model = read_model(args)
    corpus = read_corpus(args.corpus)
    windows = held_out_windows(corpus, model.vocabulary, model.max_length, args.windows)
    windows = windows.to(model.device)
    block = max(1, model.block // 2) if args.block_length is None else args.block_length
    protocol = CacheProtocol(block, tokens_per_step=args.tokens_per_step, seed=args.seed)
    with show_progress("caches") as report:
        result = measure_caches(model, windows, protocol, progress=report)
    console = open_console()
    console.print(caches_table(result))
    about = {
        "command": args.command_line,
        "model": str(args.model),
        "corpus": {"sha256": corpus.sha256, "source": corpus.source, "split": "test"},
    }
    write_json(args.out, {**about, **result.to_json()})
    console.print(f"wrote {args.out}")
