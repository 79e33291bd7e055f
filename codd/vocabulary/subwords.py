"""Vocabularies of the package `tokenizers`, which is imported only when one is made."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codd.errors import VocabularyError
from codd.vocabulary.base import MASK_SYMBOL, DescribedVocabulary, Ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class BPEVocabulary(DescribedVocabulary):
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909).

    Needs the `tokenizers` package.

    Attributes:
        tokenizer_json: The Hugging Face tokenizer's own description.

    Examples:
        Needs the extra `hub`:

        >>> vocabulary = codd.BPEVocabulary.from_text(["low lower lowest"] * 10, size=260)
        >>> ids = vocabulary.encode("lower")
        >>> len(ids) < len("lower".encode()), vocabulary.decode(ids)
        (True, 'lower')
    """

    tokenizer_json: str

    def __post_init__(self) -> None:
        """Reads the description once, so that a damaged one is refused here.

        Raises:
            VocabularyError: If it is not a tokenizer's, or `tokenizers` is not installed.
        """
        library = _tokenizers()
        try:
            library.Tokenizer.from_str(self.tokenizer_json)
        except BaseException as error:  # the library raises nothing narrower, and may panic
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise VocabularyError(
                f"BPE vocabulary: expected a tokenizer description, found {error}"
            ) from error

    @classmethod
    def from_text(cls, texts: Iterable[str], *, size: int = 1024) -> "BPEVocabulary":
        """Learns merges from text.

        Args:
            texts: What to learn from.
            size: V wanted; at least the 256 bytes. Little text may give fewer.

        Raises:
            VocabularyError: If `size` is below 256 or `tokenizers` is not installed.
        """
        if size < 256:
            raise VocabularyError(f"size: expected at least the 256 bytes, found {size}")
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(json.dumps(json.loads(tokenizer.to_str())))

    @property
    def size(self) -> int:
        """V, bytes and merges."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> Tensor:
        """Turns text into (L,) int64 ids."""
        return torch.tensor(self._tokenizer.encode(text).ids, dtype=torch.int64)

    def decode(self, ids: Ids, *, mask_symbol: str = MASK_SYMBOL) -> str:
        """Turns (L,) ids into text, `mask_symbol` where masked.

        Raises:
            VocabularyError: If an id is out of range.
        """
        runs = _runs(self._checked(ids), self.mask_id)
        return mask_symbol.join(self._tokenizer.decode(run) for run in runs)

    def to_json(self) -> dict[str, Any]:
        """Describes the vocabulary; `vocabulary_from_json` reads it."""
        return {"kind": "bpe", "tokenizer": json.loads(self.tokenizer_json)}

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        tokenizer: Tokenizer = _tokenizers().Tokenizer.from_str(self.tokenizer_json)
        return tokenizer


@dataclass(frozen=True)
class PublishedVocabulary(DescribedVocabulary):
    """The tokenizer of a published network, which may know more ids than have a token.

    Needs the `tokenizers` package.

    Attributes:
        tokenizer_json: The Hugging Face tokenizer's own description.
        num_categories: V of the network.
        mask: The id of its mask.

    Examples:
        Of a network whose tokenizer knows its own mask; needs the extra `hub`:

        >>> tokenizer = codd.BPEVocabulary.from_text(["low lower"], size=258).tokenizer_json
        >>> published = codd.PublishedVocabulary(tokenizer, num_categories=300, mask=299)
        >>> published.size, published.mask_id, published.decode(published.encode("low"))
        (300, 299, 'low')
    """

    tokenizer_json: str
    num_categories: int
    mask: int

    def __post_init__(self) -> None:
        """Checks that the network has an id for every token.

        Raises:
            VocabularyError: If it has not, the description is not a tokenizer's, or `tokenizers` is
                not installed.
        """
        found = BPEVocabulary(self.tokenizer_json).size
        if found > self.num_categories + (self.mask >= self.num_categories):
            raise VocabularyError(
                f"tokenizer: expected at most the network's {self.num_categories} tokens, found "
                f"{found}"
            )

    @property
    def size(self) -> int:
        """V of the network."""
        return self.num_categories

    @property
    def mask_id(self) -> int:
        """The network's id of a hidden token."""
        return self.mask

    def encode(self, text: str) -> Tensor:
        """Turns text into (L,) int64 ids; nothing is put before or after it."""
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        return torch.tensor(found, dtype=torch.int64)

    def decode(self, ids: Ids, *, mask_symbol: str = MASK_SYMBOL) -> str:
        """Turns (L,) ids into text with its special tokens, `mask_symbol` where masked.

        Raises:
            VocabularyError: If an id is out of range.
        """
        runs = _runs(self._checked(ids), self.mask_id)
        return mask_symbol.join(
            self._tokenizer.decode(run, skip_special_tokens=False) for run in runs
        )

    def to_json(self) -> dict[str, Any]:
        """Describes the vocabulary; `vocabulary_from_json` reads it."""
        return {
            "kind": "published",
            "tokenizer": json.loads(self.tokenizer_json),
            "num_categories": self.num_categories,
            "mask": self.mask,
        }

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        tokenizer: Tokenizer = _tokenizers().Tokenizer.from_str(self.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def _runs(ids: Sequence[int], mask_id: int) -> list[list[int]]:
    """The ids between masks: a character may be spread over several, so each run is one text."""
    runs: list[list[int]] = [[]]
    for i in ids:
        if i == mask_id:
            runs.append([])
        else:
            runs[-1].append(i)
    return runs


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise VocabularyError(
            "BPE vocabulary: expected the package 'tokenizers', found none; pip install tokenizers"
        ) from error
    return tokenizers
