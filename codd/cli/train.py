"""`codd train`: the denoiser, the circuit and their coupling, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from codd.checkpoint import has_checkpoint
from codd.cli.asked_recipe import is_joint, recipe_of
from codd.cli.coupling_stages import coupling_stage, joint_stage
from codd.cli.inputs import prepare_folder, read_corpus, set_threads
from codd.cli.material import Material, complete_cache, published_denoiser
from codd.cli.part_stages import circuit_stage, denoiser_stage
from codd.cli.presets import MINUTES, as_preset, fill_in
from codd.cli.recipe import JOINT, STAGES
from codd.cli.run_record import run_record
from codd.cli.train_arguments import add_arguments
from codd.cli.workshop import StageLog, Workshop
from codd.denoisers.registry import OWN
from codd.denoisers.transformer import TransformerConfig
from codd.errors import CheckpointError, ConfigError
from codd.model import CoupledModel
from codd.training.cache import DenoiserCache
from codd.training.cache_layout import CacheSettings
from codd.training.corpus import Corpus
from codd.training.processes import launched_group
from codd.vocabulary import BPEVocabulary, ByteVocabulary, CharacterVocabulary, Vocabulary

MODEL = "model"
_LOSSES = {
    "denoiser": "a token",
    "circuit": "a token",
    "coupling": "a masked token",
    JOINT: "a masked token",
}


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
        "package was made with the default options; `--preset quick` takes a quarter of the time.",
    )
    add_arguments(parser)
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
    fill_in(args)
    set_threads(args.threads)
    stages = _stages(args)
    _refuse_to_overwrite(args, stages)
    recipe = recipe_of(args)
    material = _material(args)
    corpus, vocabulary = material.corpus, material.vocabulary
    console.print(
        f"corpus: {corpus.source}; {material.train.numel():,} training tokens of "
        f"{vocabulary.size} categories"
    )
    _tell_time(args, console)
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


def _tell_time(args: argparse.Namespace, console: Console) -> None:
    """Says how long it will take, where that was measured."""
    if args.stage != "all" or args.denoiser is not None or not as_preset(args):
        return
    hint = "" if args.preset == "quick" else f"; --preset quick takes {MINUTES['quick']}"
    console.print(
        f"preset {args.preset}: about {MINUTES[args.preset]} minutes on two cores{hint}. Ctrl-C "
        f"stops with a checkpoint"
    )


def _stages(args: argparse.Namespace) -> tuple[str, ...]:
    if args.stage != "all":
        if args.stage == "denoiser" and args.denoiser is not None:
            raise ConfigError("--stage denoiser trains a denoiser, --denoiser brings one")
        return (str(args.stage),)
    asked = (*STAGES, JOINT) if is_joint(args) else STAGES
    return asked if args.denoiser is None else asked[1:]


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
    if is_joint(args) and args.lora_rank is None and denoiser.kind not in OWN:
        raise ConfigError(
            f"--joint: expected --lora-rank with {args.denoiser}: only adapters to it can be stored"
        )
    return Material.encoded(corpus, vocabulary, denoiser, args.max_length)


def _run_stages(
    args: argparse.Namespace, workshop: Workshop, stages: tuple[str, ...], console: Console
) -> None:
    if args.stage in ("all", "coupling", JOINT):
        model, logs = _train_all(workshop, stages, console)
        omitted = getattr(logs["coupling"], "mean_omitted", None)
        if omitted is not None:
            console.print(f"cache: at most {omitted:.2e} of a window's probability is not listed")
        if workshop.leads:
            model.save_pretrained(
                args.out / MODEL, dtype=args.dtype, record=run_record(workshop, logs)
            )
            console.print(f"wrote {args.out / MODEL}")
    elif args.stage == "denoiser":
        denoiser_stage(workshop, resume=args.resume)
    else:
        circuit_stage(workshop, resume=args.resume)


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
    workshop: Workshop, stages: tuple[str, ...], console: Console
) -> tuple[CoupledModel, dict[str, StageLog | None]]:
    """The coupled model; stages that are not asked for must have been finished before."""
    needed: tuple[str, ...] = STAGES if workshop.material.published is None else STAGES[1:]
    if not workshop.recipe.trains_coupling:
        needed = tuple(stage for stage in needed if stage != "coupling")
    for stage in needed:
        if stage not in stages:
            workshop.require_finished(stage)
    resume = {stage: workshop.resume or stage not in stages for stage in STAGES}
    logs: dict[str, StageLog | None] = {}
    denoiser, logs["denoiser"] = denoiser_stage(workshop, resume=resume["denoiser"])
    _tell_stage(console, "denoiser", logs)
    circuit, logs["circuit"] = circuit_stage(workshop, resume=resume["circuit"])
    _tell_stage(console, "circuit", logs)
    model, logs["coupling"] = coupling_stage(workshop, denoiser, circuit, resume=resume["coupling"])
    _tell_stage(console, "coupling", logs)
    if JOINT in stages:
        logs[JOINT] = joint_stage(workshop, model, resume=workshop.resume)
        _tell_stage(console, JOINT, logs)
    return model, logs


def _tell_stage(console: Console, stage: str, logs: Mapping[str, StageLog | None]) -> None:
    """One line on a stage that is done, also where no progress bar is drawn."""
    log = logs[stage]
    if log is not None:
        console.print(
            f"{stage}: {log.steps:,} steps in {log.seconds:.0f} s, held-out loss "
            f"{log.valid_loss:.4f} nats {_LOSSES[stage]}"
        )


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
