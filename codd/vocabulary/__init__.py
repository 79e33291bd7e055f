"""Vocabularies: text to ids and back. The mask is one id beyond the V categories."""

from codd.vocabulary.base import MASK_SYMBOL, REPLACEMENT, Ids, Vocabulary
from codd.vocabulary.described import vocabulary_from_json
from codd.vocabulary.plain import ByteVocabulary, CharacterVocabulary
from codd.vocabulary.subwords import BPEVocabulary, PublishedVocabulary

__all__ = [
    "MASK_SYMBOL",
    "REPLACEMENT",
    "BPEVocabulary",
    "ByteVocabulary",
    "CharacterVocabulary",
    "Ids",
    "PublishedVocabulary",
    "Vocabulary",
    "vocabulary_from_json",
]
