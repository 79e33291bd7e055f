"""`codd train`: the denoiser, the circuit and their coupling, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from codd.checkpoint import has_checkpoint
from codd.cli.inputs import add_corpus, add_threads, prepare_folder, read_corpus, set_threads
from codd.cli.material import Material, complete_cache, published_denoiser
from codd.cli.stages import JOINT, STAGES, Recipe, StageLog, Workshop
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.lora import LoraSettings
from codd.denoisers.transformer import TransformerConfig
from codd.errors import CheckpointError, CoddError, ConfigError
from codd.model import CoupledModel
from codd.modulators.registry import MODULATORS
from codd.training.cache import CacheSettings, DenoiserCache
from codd.training.circuit_loop import CircuitTraining
from codd.training.corpus import Corpus
from codd.training.coupling_loop import CouplingTraining
from codd.training.denoiser_config import DenoiserTraining
from codd.training.loop import Schedule
from codd.training.processes import launched_group
from codd.vocabulary import BPEVocabulary, ByteVocabulary, CharacterVocabulary, Vocabulary

MODEL = "model"
_VOCABULARIES = ("character", "byte", "bpe")
_COUPLINGS = ("copula", "product", "local")
_CIRCUIT_LEARNING_RATE = 2e-3
_JOINT_LEARNING_RATE = 2e-4
_JOINT_HEAD_LEARNING_RATE = 5e-4


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a denoiser, a circuit and their coupling",
        description="Trains in three stages, each with checkpoints in its own folder RUN/denoiser, "
        "RUN/circuit and RUN/coupling, then writes the model to RUN/model. With --denoiser a "
        "published network takes the place of the first: its tokenizer reads the text, and the "
        "coupling is trained from what it says, kept in RUN/cache. A fourth stage, joint, trains "
        "everything along. Under torchrun the processes share every batch. Ctrl-C stops with a "
        "checkpoint; --resume continues to the same result. The model that is shipped with the "
        "package was made with the default options.",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--stage", choices=("all", *STAGES, JOINT), default="all", help=_told("what to train")
    )
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Trains.

    Raises:
        KeyboardInterrupt: After Ctrl-C, saying how to continue.
        CoddError: If the input is wrong.
    """
    try:
        _train(args)
    except KeyboardInterrupt:
        again = args.command_line + ("" if args.resume else " --resume")
        raise KeyboardInterrupt(f"; continue with: {again}") from None


def _train(args: argparse.Namespace) -> None:
    console = Console(highlight=False)
    set_threads(args.threads)
    stages = _stages(args)
    _refuse_to_overwrite(args, stages)
    recipe = _recipe(args)
    material = _material(args)
    corpus, vocabulary = material.corpus, material.vocabulary
    console.print(
        f"corpus: {corpus.source}; {material.train.numel():,} training tokens of "
        f"{vocabulary.size} categories"
    )
    prepare_folder(args.out)
    with launched_group(torch.device(args.device).type) as group:
        cache = _cache(args, material, stages, group)
        workshop = Workshop(
            recipe,
            material,
            args.out,
            args.resume,
            group,
            cache,
            args.tensorboard,
            args.device,
        )
        _run_stages(args, workshop, stages, console)


def _stages(args: argparse.Namespace) -> tuple[str, ...]:
    if args.stage != "all":
        if args.stage == "denoiser" and args.denoiser is not None:
            raise ConfigError("--stage denoiser trains a denoiser, --denoiser brings one")
        return (str(args.stage),)
    asked = (*STAGES, JOINT) if _is_joint(args) else STAGES
    return asked if args.denoiser is None else asked[1:]


def _is_joint(args: argparse.Namespace) -> bool:
    return args.joint or args.stage == JOINT or args.lora_rank is not None


def _material(args: argparse.Namespace) -> Material:
    corpus = read_corpus(args.corpus, rows=args.rows)
    if args.denoiser is None:
        vocabulary = _vocabulary(args, corpus)
        return Material.encoded(corpus, vocabulary, _network(args, vocabulary), args.max_length)
    denoiser, vocabulary = published_denoiser(args.denoiser, device=args.device)
    if args.max_length > denoiser.max_length:
        raise ConfigError(
            f"--max-length: expected at most the denoiser's {denoiser.max_length}, found "
            f"{args.max_length}"
        )
    return Material.encoded(corpus, vocabulary, denoiser, args.max_length)


def _run_stages(
    args: argparse.Namespace, workshop: Workshop, stages: tuple[str, ...], console: Console
) -> None:
    if args.stage in ("all", "coupling", JOINT):
        model, logs = _train_all(workshop, stages)
        omitted = getattr(logs["coupling"], "mean_omitted", None)
        if omitted is not None:
            console.print(f"cache: at most {omitted:.2e} of a window's probability is not listed")
        if workshop.leads:
            model.save_pretrained(args.out / MODEL, dtype=args.dtype, record=workshop.record(logs))
            console.print(f"wrote {args.out / MODEL}")
    elif args.stage == "denoiser":
        workshop.train_denoiser(resume=args.resume)
    else:
        workshop.train_circuit(resume=args.resume)


def _cache(
    args: argparse.Namespace,
    material: Material,
    stages: tuple[str, ...],
    group: dist.ProcessGroup | None,
) -> DenoiserCache | None:
    """The cache, checked to be of the same text; of a published denoiser it is made here."""
    if args.cache is not None:
        cache = DenoiserCache(args.cache)
        if dict(cache.layout.source) != material.cache_source():
            raise ConfigError(
                f"{args.cache}: expected a cache of this corpus, vocabulary and denoiser, found "
                "one of others"
            )
        return cache
    trained = args.modulator != "static" or args.train_circuit
    if material.published is None or not trained or not {"coupling", JOINT} & set(stages):
        return None
    settings = CacheSettings(
        top_k=min(args.top_k, material.num_categories),
        window=args.window,
        block_length=args.block,
        hidden=args.modulator != "static",
        seed=args.seed,
    )
    folder = args.out / "cache"
    found = complete_cache(material, settings, folder, device=args.device, group=group)
    if found is None:
        raise KeyboardInterrupt
    return found


def _train_all(
    workshop: Workshop, stages: tuple[str, ...]
) -> tuple[CoupledModel, dict[str, StageLog | None]]:
    """The coupled model; stages that are not asked for must have been finished before."""
    needed: tuple[str, ...] = STAGES if workshop.material.published is None else STAGES[1:]
    if not workshop.recipe.trains_coupling:
        needed = tuple(stage for stage in needed if stage != "coupling")
    for stage in needed:
        if stage not in stages:
            workshop.require_finished(stage)
    resume = {stage: workshop.resume or stage not in stages for stage in STAGES}
    denoiser, first = workshop.train_denoiser(resume=resume["denoiser"])
    circuit, second = workshop.train_circuit(resume=resume["circuit"])
    model, third = workshop.train_coupling(denoiser, circuit, resume=resume["coupling"])
    logs: dict[str, StageLog | None] = dict(zip(STAGES, (first, second, third), strict=True))
    if JOINT in stages:
        logs[JOINT] = workshop.train_joint(model, resume=workshop.resume)
    return model, logs


def _refuse_to_overwrite(args: argparse.Namespace, stages: tuple[str, ...]) -> None:
    if args.resume:
        return
    writes = bool({"coupling", JOINT} & set(stages))
    written = [*stages, MODEL] if writes and args.stage != JOINT else list(stages)
    for name in written:
        if has_checkpoint(args.out / name):
            raise CheckpointError(
                f"{args.out / name}: expected none, found one of an earlier run; continue it with "
                "--resume or choose another --out"
            )


def _recipe(args: argparse.Namespace) -> Recipe:
    with _about("denoiser"):
        denoiser = DenoiserTraining(
            steps=args.denoiser_steps,
            batch_size=args.denoiser_batch,
            window_length=args.max_length,
            block_length=args.block,
            seed=args.seed,
        )
    with _about("circuit"):
        circuit = CircuitTraining(
            num_states=args.states,
            steps=args.circuit_steps,
            batch_size=args.circuit_batch,
            seed=args.seed,
        )
    with _about("coupling"):
        coupling = CouplingTraining(
            batch_size=args.coupling_batch,
            circuit_learning_rate=_CIRCUIT_LEARNING_RATE if args.train_circuit else 0.0,
            micro_batches=args.micro_batches,
        )
        schedule = Schedule(args.coupling_steps, seed=args.seed)
    with _about(JOINT):
        lora = LoraSettings(args.lora_rank) if args.lora_rank is not None else None
        joint = replace(
            coupling,
            batch_size=args.joint_batch,
            modulator_learning_rate=_JOINT_HEAD_LEARNING_RATE,
            denoiser_learning_rate=_JOINT_LEARNING_RATE,
        )
        joint_schedule = Schedule(args.joint_steps, seed=args.seed)
    return Recipe(
        denoiser,
        circuit,
        coupling,
        schedule,
        joint if _is_joint(args) else None,
        joint_schedule,
        lora,
        CouplingSettings(args.coupling),
        window=args.window,
        block=args.block,
        modulator=args.modulator,
        rank=args.rank,
    )


@contextmanager
def _about(stage: str) -> Iterator[None]:
    try:
        yield
    except CoddError as error:
        raise ConfigError(f"{stage}: {error}") from error


def _vocabulary(args: argparse.Namespace, corpus: Corpus) -> Vocabulary:
    if args.vocabulary == "byte":
        return ByteVocabulary()
    if args.vocabulary == "bpe":
        return BPEVocabulary.from_text(corpus.train, size=args.vocabulary_size)
    return CharacterVocabulary.from_text(corpus.train, min_count=args.min_count)


def _network(args: argparse.Namespace, vocabulary: Vocabulary) -> TransformerConfig:
    return TransformerConfig(
        num_categories=vocabulary.size,
        max_length=args.max_length,
        width=args.width,
        num_layers=args.layers,
        num_heads=args.heads,
    )


def _add_published(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a published denoiser")
    group.add_argument(
        "--denoiser",
        metavar="NAME",
        help="folder or hub id of LLaDA, Dream or another masked model; it stays as it is unless "
        "there is a joint stage",
    )
    _number(group, "--top-k", CacheSettings.top_k, "categories of a position that are cached")
    group.add_argument("--device", default="cpu", help=_told("where everything runs"))


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("vocabulary")
    group.add_argument(
        "--vocabulary",
        choices=_VOCABULARIES,
        default="character",
        help=_told("what a token is; bpe needs the package tokenizers"),
    )
    _number(group, "--min-count", 30, "characters rarer than this in the training text are unknown")
    _number(group, "--vocabulary-size", 1024, "categories of a bpe vocabulary")


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sizes")
    _number(group, "--max-length", TransformerConfig.max_length, "longest sequence, in tokens")
    _number(group, "--window", 48, "tokens that the circuit couples, at most --max-length")
    _number(group, "--block", DenoiserTraining.block_length, "tokens of a block, at most --window")
    _number(group, "--width", TransformerConfig.width, "width of the denoiser")
    _number(group, "--layers", TransformerConfig.num_layers, "layers of the denoiser")
    _number(group, "--heads", TransformerConfig.num_heads, "attention heads of the denoiser")
    _number(group, "--states", CircuitTraining.num_states, "hidden states of the circuit")
    group.add_argument(
        "--modulator",
        choices=MODULATORS,
        default="latent",
        help=_told("how the denoiser's hidden states steer the circuit; static: not at all"),
    )
    _number(group, "--rank", 64, "width of the modulator's bottlenecks")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float16",
        help=_told("number type of the written model"),
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--coupling",
        choices=_COUPLINGS,
        default="copula",
        help=_told("the coupling that the third stage trains and the model then uses"),
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
    _number(group, "--joint-steps", 200, "steps of the joint stage")
    _number(
        group, "--joint-batch", CouplingTraining.batch_size, "windows a step of the joint stage"
    )
    _number(
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
    steps = {"denoiser": DenoiserTraining.steps, "circuit": CircuitTraining.steps, "coupling": 450}
    rows = {
        "denoiser": DenoiserTraining.batch_size,
        "circuit": CircuitTraining.batch_size,
        "coupling": CouplingTraining.batch_size,
    }
    for stage in STAGES:
        _number(group, f"--{stage}-steps", steps[stage], f"steps of the {stage} stage")
        _number(group, f"--{stage}-batch", rows[stage], f"windows a step of the {stage} stage")
    _number(group, "--seed", 0, "seed of everything random")


def _number(group: Any, flag: str, default: int, text: str) -> None:
    group.add_argument(flag, type=int, default=default, metavar="N", help=_told(text))


def _told(text: str) -> str:
    return f"{text}; default %(default)s"
