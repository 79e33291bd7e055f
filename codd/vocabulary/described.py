"""Vocabularies from their descriptions."""

import json
from typing import Any

from codd.errors import VocabularyError
from codd.vocabulary.base import Vocabulary
from codd.vocabulary.plain import ByteVocabulary, CharacterVocabulary
from codd.vocabulary.subwords import BPEVocabulary, PublishedVocabulary


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
