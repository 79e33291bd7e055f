"""Vocabularies: text to ids and back. The mask is one id beyond the V categories."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from codd.errors import VocabularyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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


class _Described(ABC):
    """What every vocabulary derives from its size and its description alone."""

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...

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
        listed = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        last = max(self.mask_id, self.size - 1)
        wrong = [i for i in listed if not 0 <= i <= last]
        if wrong:
            which = "the last" if self.mask_id == last else self.mask_id
            raise VocabularyError(
                f"ids: expected 0 to {last} ({which} is the mask), found {wrong[0]}"
            )
        return listed


@dataclass(frozen=True)
class CharacterVocabulary(_Described):
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
class ByteVocabulary(_Described):
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


@dataclass(frozen=True)
class BPEVocabulary(_Described):
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
class PublishedVocabulary(_Described):
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


def vocabulary_from_json(description: dict[str, Any]) -> Vocabulary:
    """Reads what `to_json` wrote.

    Args:
        description: The parsed JSON.

    Returns:
        The vocabulary, of the class that its `kind` names.

    Raises:
        VocabularyError: If the kind is unknown or its fields are missing or damaged.

    Examples:
        >>> vocabulary = codd.CharacterVocabulary.from_text(["banana"])
        >>> again = codd.vocabulary_from_json(vocabulary.to_json())
        >>> again.fingerprint == vocabulary.fingerprint
        True
    """
    kind = description.get("kind") if isinstance(description, dict) else None
    try:
        if kind == "character":
            return CharacterVocabulary(tuple(description["characters"]))
        if kind == "byte":
            return ByteVocabulary()
        if kind == "bpe":
            return BPEVocabulary(json.dumps(description["tokenizer"]))
        if kind == "published":
            sizes = _size(description, "num_categories"), _size(description, "mask")
            return PublishedVocabulary(json.dumps(description["tokenizer"]), *sizes)
    except (KeyError, TypeError) as error:
        raise VocabularyError(f"{kind} vocabulary: missing or damaged field {error}") from error
    kinds = "'character', 'byte', 'bpe' or 'published'"
    raise VocabularyError(f"vocabulary: expected kind {kinds}, found {kind!r}")


def _size(description: dict[str, Any], name: str) -> int:
    value = description[name]
    if type(value) is not int or not 0 <= value < 2**31:
        raise VocabularyError(f"{name}: expected an integer from 0 to 2**31, found {value!r:.60}")
    return value


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
