"""What `codd train` works on: text, its vocabulary, and a denoiser, own or published."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from codd.denoisers.base import Denoiser, DenoiserModule, Origin
from codd.denoisers.registry import load_denoiser
from codd.denoisers.transformer import TransformerConfig
from codd.errors import ConfigError
from codd.training.cache import DenoiserCache
from codd.training.cache_layout import CacheSettings
from codd.training.cache_writer import plan_cache, write_cache
from codd.training.corpus import Corpus
from codd.training.processes import torchrun_share
from codd.training.windows import encode_split, evaluation_windows
from codd.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained on, and the network that fits it.

    Attributes:
        corpus: Text.
        vocabulary: Text to ids.
        network: Shape of the denoiser that is trained, or the published one that is there.
        length: Tokens L of a training sequence.
        train: (N,) ids of the training split; (N, R) where the corpus has rows.
        valid: (M,) ids of the validation split; (M, R) where the corpus has rows.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    network: TransformerConfig | DenoiserModule
    length: int
    train: Tensor
    valid: Tensor

    @classmethod
    def encoded(
        cls,
        corpus: Corpus,
        vocabulary: Vocabulary,
        network: TransformerConfig | DenoiserModule,
        length: int,
    ) -> Material:
        """Encodes both splits.

        Raises:
            CorpusError: If one is shorter than a sequence.
        """
        splits = [
            encode_split(split, vocabulary, rows=corpus.rows)
            for split in (corpus.train, corpus.valid)
        ]
        for tokens in splits:
            evaluation_windows(tokens, length)
        return cls(corpus, vocabulary, network, length, *splits)

    @property
    def published(self) -> DenoiserModule | None:
        """The published denoiser; None if one is trained."""
        return self.network if isinstance(self.network, DenoiserModule) else None

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return self.network.num_categories

    def sequences(self) -> Tensor:
        """(N, L) training sequences that do not overlap."""
        return evaluation_windows(self.train, self.length)

    def held_out(self) -> Tensor:
        """(M, L) sequences of the validation split."""
        return evaluation_windows(self.valid, self.length)

    def identity(self, kind: str) -> dict[str, Any]:
        """What a checkpoint of this kind must agree on, as JSON."""
        return {
            "kind": kind,
            "corpus": {"sha256": self.corpus.sha256, "source": self.corpus.source},
            "vocabulary": self.vocabulary.fingerprint,
        }

    def network_identity(self) -> dict[str, Any]:
        """Which denoiser it is, as JSON."""
        if isinstance(self.network, TransformerConfig):
            return asdict(self.network)
        return {"kind": self.network.kind, "fingerprint": _fingerprint(self.network)}

    def cache_source(self) -> dict[str, Any]:
        """What a cache of this material must agree on."""
        return cache_source(self.corpus, self.vocabulary, self.published)


def cache_source(
    corpus: Corpus, vocabulary: Vocabulary, denoiser: Denoiser | None
) -> dict[str, Any]:
    """What a cache's description says of its corpus, vocabulary and published denoiser."""
    source: dict[str, Any] = {"corpus": corpus.sha256, "vocabulary": vocabulary.fingerprint}
    fingerprint = _fingerprint(denoiser)
    return source if fingerprint is None else {**source, "denoiser": fingerprint}


def published_denoiser(
    name: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[DenoiserModule, Vocabulary]:
    """A published denoiser and the tokenizer of its folder.

    Raises:
        CheckpointError: If it cannot be read.
        ConfigError: If no tokenizer lies there.
    """
    denoiser = load_denoiser(name, dtype=dtype)
    if denoiser.vocabulary is None:
        raise ConfigError(f"{name}: expected a tokenizer beside the network, found none")
    return denoiser.to(device), denoiser.vocabulary


def complete_cache(
    material: Material,
    settings: CacheSettings,
    folder: Path,
    *,
    device: str = "cpu",
    group: dist.ProcessGroup | None = None,
) -> DenoiserCache | None:
    """What the published denoiser says of the training text: made, completed or as it was.

    Args:
        material: With a published denoiser.
        settings: What is kept.
        folder: Of the cache.
        device: Where the denoiser is.
        group: Processes that share the work.

    Returns:
        The cache; None after Ctrl-C.

    Raises:
        CheckpointError: If the folder holds another cache.
    """
    denoiser = material.published
    assert denoiser is not None, "only a published denoiser is frozen before the coupling"
    sequences = material.sequences()
    layout = plan_cache(denoiser, sequences, settings, material.cache_source())
    outcome = write_cache(
        denoiser, sequences, layout, folder, device=device, share=torchrun_share()
    )
    if group is not None:
        dist.barrier(group)
    return None if outcome.interrupted else DenoiserCache(folder)


def _fingerprint(denoiser: Denoiser | None) -> str | None:
    origin = getattr(denoiser, "origin", None)
    return origin.fingerprint if isinstance(origin, Origin) else None
