"""Trains the small transformer denoiser: deterministic, interruptible, exactly resumable."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

import pcircuits as pc
from codd.checkpoint import load_checkpoint
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, ConfigError
from codd.training.corpus import Corpus
from codd.training.corruption import CorruptedBatch, corrupt, prompted_rows, stratified_ratios
from codd.training.denoiser_config import DenoiserTraining
from codd.training.gradient import AVERAGE_PREFIX, Group
from codd.training.loop import optimise
from codd.training.objective import diffusion_loss, plain_loss, validation_loss
from codd.training.processes import check_shares
from codd.training.run_state import HistoryEntry
from codd.training.schedule import step_seed
from codd.training.windows import encode_split, evaluation_windows, sample_windows
from codd.vocabulary import Vocabulary, vocabulary_from_json

KIND = "denoiser-training"


@dataclass(frozen=True)
class TrainedDenoiser:
    """What training returns.

    Attributes:
        model: The denoiser with averaged weights, float32, in evaluation mode.
        history: One entry a validation.
        step: Optimiser steps done; fewer than asked for after an interrupt.
    """

    model: TransformerDenoiser
    history: tuple[HistoryEntry, ...]
    step: int


def train_denoiser(
    corpus: Corpus,
    vocabulary: Vocabulary,
    model_config: TransformerConfig,
    training: DenoiserTraining,
    folder: str | Path,
    *,
    resume: bool = False,
    group: dist.ProcessGroup | None = None,
    log: Callable[[HistoryEntry], None] | None = None,
    show_progress: bool = True,
) -> TrainedDenoiser:
    """Trains a transformer denoiser on a corpus.

    The same arguments give the same weights bit for bit on the same machine with the same number
    of threads, also across an interruption. The first Ctrl-C ends the run after the current step
    with a checkpoint; `resume` continues it.

    Args:
        corpus: Text; its train and valid splits are used.
        vocabulary: Text to ids; V must be the model's.
        model_config: Shape of the network.
        training: How it is trained.
        folder: Where checkpoints go.
        resume: Continue from the checkpoint in `folder` if there is one.
        group: Processes that share every batch; each is given the same arguments, and all end with
            the same weights.
        log: Called with every validation, by the first process only.
        show_progress: Draw a progress bar and print validations.

    Raises:
        ConfigError: If the configurations contradict each other.
        CorpusError: If a split is shorter than a window.
        CheckpointError: If `folder` holds a checkpoint of another run, or one while not resuming.
        TrainingError: If the loss stops being finite.
    """
    _check_agreement(vocabulary, model_config, training)
    check_shares(group, training.batch_size)
    processes = pc.Processes(group, torch.device("cpu"))
    data = _Data.encoded(corpus, vocabulary, training)
    model = TransformerDenoiser(model_config, seed=training.seed)

    def validate() -> float:
        quick = copy.deepcopy(model).to(training.dtype).eval()
        return validation_loss(
            quick,
            data.valid,
            block_length=training.block_length,
            prompt_fraction=training.prompt_fraction,
            seed=training.seed,
        )

    outcome = optimise(
        lambda step: [_loss(model, data.train, step, training, processes)],
        validate,
        _groups(model, training),
        training.schedule,
        folder,
        _identity(corpus, vocabulary, model_config, training),
        title="denoiser",
        resume=resume,
        group=group,
        log=log,
        show_progress=show_progress,
    )
    return TrainedDenoiser(model.eval().requires_grad_(False), outcome.history, outcome.step)


def load_trained_denoiser(folder: str | Path) -> tuple[TransformerDenoiser, Vocabulary]:
    """Reads the averaged weights and the vocabulary out of a training checkpoint.

    Args:
        folder: What `train_denoiser` was given.

    Returns:
        The denoiser, float32, in evaluation mode, and its vocabulary.

    Raises:
        CheckpointError: If it is missing, damaged or not a denoiser's.
    """
    checkpoint = load_checkpoint(folder)
    found = checkpoint.metadata.get("kind")
    if found != KIND:
        raise CheckpointError(f"{folder}: expected a checkpoint of kind {KIND!r}, found {found!r}")
    weights = {
        name.removeprefix(AVERAGE_PREFIX): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(AVERAGE_PREFIX)
    }
    try:
        model = TransformerDenoiser(TransformerConfig(**checkpoint.metadata["model"]))
        model.load_state_dict(weights)
        vocabulary = vocabulary_from_json(checkpoint.metadata["vocabulary"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: missing or misshapen entry: {error}") from error
    return model.eval().requires_grad_(False), vocabulary


@dataclass(frozen=True)
class _Data:
    train: Tensor  # (N,), or (N, R) rows
    valid: Tensor  # (W, L)

    @classmethod
    def encoded(cls, corpus: Corpus, vocabulary: Vocabulary, training: DenoiserTraining) -> "_Data":
        train = encode_split(corpus.train, vocabulary, rows=corpus.rows)
        valid = encode_split(corpus.valid, vocabulary, rows=corpus.rows)
        evaluation_windows(train, training.window_length)  # too short a split fails here
        windows = evaluation_windows(valid, training.window_length)
        stride = max(1, len(windows) // training.validation_windows)
        return cls(train, windows[::stride][: training.validation_windows])


def _groups(model: TransformerDenoiser, training: DenoiserTraining) -> list[Group]:
    """Muon for the blocks' weight matrices, AdamW for all else."""
    matrices: dict[str, nn.Parameter] = {}
    others: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        inside = name.startswith("blocks.") and parameter.dim() == 2
        (matrices if inside else others)[name] = parameter
    muon = Group(
        matrices,
        training.matrix_learning_rate,
        training.weight_decay,
        method="muon",
        momentum=training.momentum,
        dtype=training.dtype,
    )
    return [muon, Group(others, training.learning_rate)]


def _draw_batch(
    tokens: Tensor, mask_id: int, training: DenoiserTraining, seed: int
) -> CorruptedBatch:
    generator = torch.Generator().manual_seed(seed)
    return corrupt(
        sample_windows(tokens, training.window_length, training.batch_size, generator),
        stratified_ratios(training.batch_size, generator),
        prompted_rows(training.batch_size, training.prompt_fraction),
        block_length=training.block_length,
        mask_id=mask_id,
        generator=generator,
    )


def _loss(
    model: TransformerDenoiser,
    tokens: Tensor,
    step: int,
    training: DenoiserTraining,
    processes: pc.Processes,
) -> Tensor:
    """This process's share of a step's loss."""
    batch = _draw_batch(tokens, model.mask_id, training, step_seed(training.seed, step))
    own = processes.share(torch.arange(len(batch.tokens)))
    part = batch.select(own)
    # A cast copy of the weights runs the whole network in one type: autocast would widen the
    # norms and narrow again around every matrix product.
    weights = {name: p.to(training.dtype) for name, p in model.named_parameters()}
    logits = functional_call(model, weights, (part.tokens,)).logits
    if step < training.warmup_plain * training.steps:
        share = part.masked.sum().clamp(min=1) / batch.masked.sum().clamp(min=1)
        return plain_loss(logits, part) * share
    return diffusion_loss(logits, part) * (len(own) / len(batch.tokens))


def _check_agreement(
    vocabulary: Vocabulary, model_config: TransformerConfig, training: DenoiserTraining
) -> None:
    if model_config.num_categories != vocabulary.size:
        raise ConfigError(
            f"num_categories: expected the vocabulary's size {vocabulary.size}, "
            f"found {model_config.num_categories}"
        )
    if training.window_length > model_config.max_length:
        raise ConfigError(
            f"window_length: expected at most the model's max_length = "
            f"{model_config.max_length}, found {training.window_length}"
        )


def _identity(
    corpus: Corpus,
    vocabulary: Vocabulary,
    model_config: TransformerConfig,
    training: DenoiserTraining,
) -> dict[str, Any]:
    """What must be equal for a checkpoint to belong to this run, as JSON reads it back."""
    return {
        "kind": KIND,
        "corpus": {"sha256": corpus.sha256, "source": corpus.source},
        "vocabulary": vocabulary.to_json(),
        "model": asdict(model_config),
        "training": {**asdict(training), "betas": list(training.betas)},
    }
