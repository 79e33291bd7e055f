"""`codd cache`: what a frozen denoiser says of a corpus, on disk, to train couplings from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from codd.cli.inputs import add_corpus, add_number, add_threads, read_corpus, set_threads
from codd.cli.material import cache_source, published_denoiser
from codd.denoisers.base import Denoiser
from codd.model import CoupledModel
from codd.training.cache_layout import CacheLayout, CacheSettings
from codd.training.cache_writer import plan_cache, write_cache
from codd.training.denoiser_loop import load_trained_denoiser
from codd.training.processes import torchrun_share
from codd.training.windows import encode_documents, evaluation_windows
from codd.vocabulary import Vocabulary


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cache",
        help="store what a frozen denoiser says of a corpus",
        description="Masks the training text, asks the denoiser, and stores the likeliest "
        "categories of each position, the true one among them, in shards. Run again, it makes the "
        "shards that are missing. Under torchrun the processes share the shards.",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="CACHE", help="folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="NAME", help="folder or hub id of a coupled model")
    source.add_argument("--run", type=Path, dest="trained", metavar="RUN", help="of `codd train`")
    source.add_argument(
        "--denoiser",
        metavar="NAME",
        help="folder or hub id of LLaDA, Dream or another masked model",
    )
    add_corpus(parser)
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens of a sequence; default the denoiser's longest",
    )
    _add_settings(parser)
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="sequences a call")
    parser.add_argument("--device", default="cpu", help="where the denoiser runs; default cpu")
    parser.add_argument(
        "--estimate", action="store_true", help="print the size and compute nothing"
    )
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Makes or completes a cache.

    Raises:
        KeyboardInterrupt: After Ctrl-C, saying how to continue.
        CoddError: If the input is wrong.
    """
    console = Console(highlight=False)
    set_threads(args.threads)
    denoiser, vocabulary = _denoiser(args)
    corpus = read_corpus(args.corpus)
    length = denoiser.max_length if args.max_length is None else args.max_length
    sequences = evaluation_windows(encode_documents(corpus.train, vocabulary), length)
    source = cache_source(corpus, vocabulary, denoiser)
    layout = plan_cache(denoiser, sequences, _settings(args), source)
    console.print(estimate(layout))
    if args.estimate:
        return
    outcome = write_cache(
        denoiser,
        sequences,
        layout,
        args.out,
        batch_size=args.batch,
        device=torch.device(args.device),
        share=torchrun_share(),
    )
    console.print(f"{args.out}: {outcome.computed} shards made, {outcome.found} found")
    if outcome.interrupted:
        raise KeyboardInterrupt(f"; continue with: {args.command_line}")


def estimate(layout: CacheLayout) -> str:
    """A cache's size in words."""
    return (
        f"cache: {layout.num_rows:,} windows in {layout.num_shards:,} shards, "
        f"{layout.num_bytes / 1e9:.3f} GB"
    )


def _denoiser(args: argparse.Namespace) -> tuple[Denoiser, Vocabulary]:
    if args.denoiser is not None:
        return published_denoiser(args.denoiser, device=args.device)
    if args.trained is not None:
        network, vocabulary = load_trained_denoiser(args.trained / "denoiser")
        return network.to(args.device), vocabulary
    model = CoupledModel.from_pretrained(args.model)
    return model.denoiser.to(args.device), model.vocabulary


def _settings(args: argparse.Namespace) -> CacheSettings:
    return CacheSettings(
        top_k=args.top_k,
        window=args.window,
        block_length=args.block,
        prompt_fraction=args.prompt_fraction,
        passes=args.passes,
        hidden=args.hidden,
        dtype=args.dtype,
        shard_rows=args.shard_rows,
        seed=args.seed,
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is stored")
    own = CacheSettings()
    numbers = {
        "--top-k": (own.top_k, "categories at each position"),
        "--window": (own.window, "tokens of the circuit's window"),
        "--block": (own.block_length, "tokens of a block, at most --window"),
        "--passes": (own.passes, "how often each sequence is masked anew"),
        "--shard-rows": (own.shard_rows, "windows of a shard"),
        "--seed": (own.seed, "seed of everything random"),
    }
    for flag, (default, text) in numbers.items():
        add_number(group, flag, default, text)
    group.add_argument(
        "--prompt-fraction",
        type=float,
        default=own.prompt_fraction,
        metavar="F",
        help="share of sequences of which only the last block is masked; default %(default)s",
    )
    group.add_argument("--hidden", action="store_true", help="store hidden states too")
    group.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default=own.dtype,
        help="number type of the log-probabilities; default %(default)s",
    )
