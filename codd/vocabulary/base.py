"""What a vocabulary is, and what all of this package have in common."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from codd.errors import VocabularyError

REPLACEMENT = "\ufffd"
MASK_SYMBOL = "▁"

Ids = Sequence[int] | Tensor


@runtime_checkable
class Vocabulary(Protocol):
    """A reversible map between text and categories 0 .. V-1.

    Examples:
        >>> vocabulary: codd.Vocabulary = codd.ByteVocabulary()  # or one of your own
        >>> vocabulary.size, vocabulary.mask_id
        (256, 256)
        >>> vocabulary.decode(vocabulary.encode("any text"))
        'any text'
    """

    @property
    def size(self) -> int:
        """V, the number of categories."""

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token: `size`, or one of a published tokenizer's."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON description."""

    def encode(self, text: str) -> Tensor:
        """Turns text into (L,) int64 ids."""

    def decode(self, ids: Ids, *, mask_symbol: str = MASK_SYMBOL) -> str:
        """Turns (L,) ids into text, `mask_symbol` where masked."""

    def to_json(self) -> dict[str, Any]:
        """Describes the vocabulary; `vocabulary_from_json` reads it."""


class DescribedVocabulary(ABC):
    """What every vocabulary derives from its size and its description alone."""

    @property
    @abstractmethod
    def size(self) -> int:
        """V, the number of categories."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Describes the vocabulary; `vocabulary_from_json` reads it."""

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token; equals `size`."""
        return self.size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON description."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _checked(self, ids: Ids) -> list[int]:
        """The ids as numbers, none of them out of range."""
        listed = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        last = max(self.mask_id, self.size - 1)
        wrong = [i for i in listed if not 0 <= i <= last]
        if wrong:
            which = "the last" if self.mask_id == last else self.mask_id
            raise VocabularyError(
                f"ids: expected 0 to {last} ({which} is the mask), found {wrong[0]}"
            )
        return listed
