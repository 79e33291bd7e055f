"""The arguments of `codd train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from codd.cli.inputs import add_corpus, add_number, add_threads, told
from codd.cli.presets import add_preset, add_preset_number
from codd.cli.recipe import JOINT, STAGES
from codd.denoisers.transformer import TransformerConfig
from codd.modulators.registry import MODULATORS
from codd.training.cache_layout import CacheSettings
from codd.training.coupling_loop import CouplingTraining
from codd.training.denoiser_config import DenoiserTraining

_VOCABULARIES = ("character", "byte", "bpe")
_COUPLINGS = ("copula", "product", "local")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them all."""
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--stage", choices=("all", *STAGES, JOINT), default="all", help=told("what to train")
    )
    add_preset(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in RUN; finished stages are not repeated",
    )
    add_corpus(parser)
    parser.add_argument(
        "--rows",
        action="store_true",
        help="every document of the corpus' folder is an example of --max-length tokens, as `codd "
        "tasks` writes them: blocks and windows are its end",
    )
    _add_published(parser)
    _add_vocabulary(parser)
    _add_sizes(parser)
    _add_training(parser)
    add_threads(parser)


def _add_published(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a published denoiser")
    group.add_argument(
        "--denoiser",
        metavar="NAME",
        help="folder or hub id of LLaDA, Dream or another masked model; it stays as it is unless "
        "there is a joint stage",
    )
    add_number(group, "--top-k", CacheSettings.top_k, "categories of a position that are cached")
    group.add_argument("--device", default="cpu", help=told("where everything runs"))


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("vocabulary")
    group.add_argument(
        "--vocabulary",
        choices=_VOCABULARIES,
        default="character",
        help=told("what a token is; bpe needs the package tokenizers"),
    )
    add_number(
        group, "--min-count", 30, "characters rarer than this in the training text are unknown"
    )
    add_number(group, "--vocabulary-size", 1024, "categories of a bpe vocabulary")


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sizes")
    add_number(group, "--max-length", TransformerConfig.max_length, "longest sequence, in tokens")
    add_number(group, "--window", 48, "tokens that the circuit couples, at most --max-length")
    add_number(
        group, "--block", DenoiserTraining.block_length, "tokens of a block, at most --window"
    )
    add_preset_number(group, "--width", "width of the denoiser")
    add_preset_number(group, "--layers", "layers of the denoiser")
    add_preset_number(group, "--heads", "attention heads of the denoiser")
    add_preset_number(group, "--states", "hidden states of the circuit")
    group.add_argument(
        "--modulator",
        choices=MODULATORS,
        default="latent",
        help=told("how the denoiser's hidden states steer the circuit; static: not at all"),
    )
    add_preset_number(group, "--rank", "width of the modulator's bottlenecks")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float16",
        help=told("number type of the written model"),
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--coupling",
        choices=_COUPLINGS,
        default="copula",
        help=told("the coupling that the third stage trains and the model then uses"),
    )
    group.add_argument(
        "--joint", action="store_true", help="add the joint stage, which trains the denoiser too"
    )
    group.add_argument(
        "--lora-rank",
        type=int,
        metavar="R",
        help="in the joint stage train low-rank adapters of the denoiser, not all of it; adds the "
        "stage, needs the extra train",
    )
    add_number(group, "--joint-steps", 200, "steps of the joint stage")
    add_number(
        group, "--joint-batch", CouplingTraining.batch_size, "windows a step of the joint stage"
    )
    add_number(
        group,
        "--micro-batches",
        CouplingTraining.micro_batches,
        "parts of a step of the last two stages, which take the memory of one part",
    )
    group.add_argument(
        "--cache",
        type=Path,
        metavar="CACHE",
        help="train the coupling from a cache that `codd cache` made, not from the denoiser",
    )
    group.add_argument(
        "--tensorboard",
        type=Path,
        metavar="FOLDER",
        help="log all validations there; needs the extra train",
    )
    group.add_argument(
        "--train-circuit", action="store_true", help="train the circuit along in the third stage"
    )
    for stage in STAGES:
        add_preset_number(group, f"--{stage}-steps", f"steps of the {stage} stage")
        add_preset_number(group, f"--{stage}-batch", f"windows a step of the {stage} stage")
    add_number(group, "--seed", 0, "seed of everything random")
