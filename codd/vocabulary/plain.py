"""Vocabularies that need no library: characters, and bytes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from codd.errors import VocabularyError
from codd.vocabulary.base import MASK_SYMBOL, REPLACEMENT, DescribedVocabulary, Ids


@dataclass(frozen=True)
class CharacterVocabulary(DescribedVocabulary):
    """One category a character; characters outside encode as U+FFFD, which is a member.

    Attributes:
        characters: The members in the order of their ids; single, distinct, with U+FFFD.

    Examples:
        >>> vocabulary = codd.CharacterVocabulary.from_text(["banana"])
        >>> vocabulary.characters, vocabulary.mask_id
        (('a', 'b', 'n', '�'), 4)
        >>> tokens = vocabulary.encode("nab")
        >>> tokens[1] = vocabulary.mask_id
        >>> vocabulary.decode(tokens)
        'n▁b'
    """

    characters: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks the members.

        Raises:
            VocabularyError: If one is not a single character, occurs twice, or U+FFFD is missing.
        """
        wrong = [c for c in self.characters if not isinstance(c, str) or len(c) != 1]
        if wrong:
            raise VocabularyError(f"characters: expected single characters, found {wrong[0]!r}")
        lone = [c for c in self.characters if "\ud800" <= c <= "\udfff"]
        if lone:
            raise VocabularyError(f"characters: expected characters of text, found {lone[0]!r}")
        twice = [c for c, count in Counter(self.characters).items() if count > 1]
        if twice:
            raise VocabularyError(
                f"characters: expected distinct members, found {twice[0]!r} twice"
            )
        if REPLACEMENT not in self.characters:
            raise VocabularyError("characters: expected U+FFFD among the members, found none")

    @classmethod
    def from_text(cls, texts: Iterable[str], *, min_count: int = 1) -> "CharacterVocabulary":
        """Takes every character that occurs at least `min_count` times, in code point order.

        Args:
            texts: What to count characters in.
            min_count: Rarer ones are left to U+FFFD.

        Raises:
            VocabularyError: If no character is that frequent.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        frequent = {c for c, count in counts.items() if count >= min_count}
        if not frequent:
            raise VocabularyError(
                f"text: expected a character that occurs at least {min_count} times, found none"
            )
        return cls(tuple(sorted(frequent | {REPLACEMENT})))

    @property
    def size(self) -> int:
        """V, the number of members."""
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Turns text into (L,) int64 ids; unknown characters become U+FFFD."""
        unknown = self._ids[REPLACEMENT]
        return torch.tensor([self._ids.get(c, unknown) for c in text], dtype=torch.int64)

    def decode(self, ids: Ids, *, mask_symbol: str = MASK_SYMBOL) -> str:
        """Turns (L,) ids into text, `mask_symbol` where masked.

        Raises:
            VocabularyError: If an id is out of range.
        """
        symbols = (*self.characters, mask_symbol)
        return "".join(symbols[i] for i in self._checked(ids))

    def to_json(self) -> dict[str, Any]:
        """Describes the vocabulary; `vocabulary_from_json` reads it."""
        return {"kind": "character", "characters": list(self.characters)}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.characters)}


@dataclass(frozen=True)
class ByteVocabulary(DescribedVocabulary):
    """The 256 bytes of UTF-8: nothing to learn, nothing outside.

    Examples:
        >>> vocabulary = codd.ByteVocabulary()
        >>> vocabulary.encode("né")  # é is two bytes
        tensor([110, 195, 169])
        >>> vocabulary.decode([110, 256, 195, 169])  # 256 is the mask
        'n▁é'
    """

    @property
    def size(self) -> int:
        """V = 256."""
        return 256

    def encode(self, text: str) -> Tensor:
        """Turns text into (L,) int64 byte values."""
        return torch.tensor(list(text.encode("utf-8")), dtype=torch.int64)

    def decode(self, ids: Ids, *, mask_symbol: str = MASK_SYMBOL) -> str:
        """Turns (L,) ids into text; incomplete UTF-8 becomes U+FFFD.

        Raises:
            VocabularyError: If an id is out of range.
        """
        mask = mask_symbol.encode("utf-8")
        joined = b"".join(mask if i == self.mask_id else bytes((i,)) for i in self._checked(ids))
        return joined.decode("utf-8", errors="replace")

    def to_json(self) -> dict[str, Any]:
        """Describes the vocabulary; `vocabulary_from_json` reads it."""
        return {"kind": "byte"}
