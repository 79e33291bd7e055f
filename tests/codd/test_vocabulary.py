import pytest
import torch

from codd.errors import VocabularyError
from codd.vocabulary import (
    REPLACEMENT,
    BPEVocabulary,
    ByteVocabulary,
    CharacterVocabulary,
    Vocabulary,
    vocabulary_from_json,
)

TEXT = "the mask hides the tokens that the circuit couples; naïve “quotes” — and more\n"


def vocabularies() -> list[Vocabulary]:
    return [
        CharacterVocabulary.from_text([TEXT]),
        ByteVocabulary(),
        BPEVocabulary.from_text([TEXT] * 4, size=280),
    ]


@pytest.mark.parametrize("vocabulary", vocabularies(), ids=lambda v: type(v).__name__)
class TestEveryVocabulary:
    def test_implements_the_protocol(self, vocabulary: Vocabulary) -> None:
        assert isinstance(vocabulary, Vocabulary)
        assert vocabulary.mask_id == vocabulary.size

    def test_text_survives_the_round_trip(self, vocabulary: Vocabulary) -> None:
        ids = vocabulary.encode(TEXT)
        assert ids.dtype == torch.int64 and ids.dim() == 1
        low, high = ids.aminmax()
        assert low >= 0 and high < vocabulary.size
        assert vocabulary.decode(ids) == TEXT
        assert vocabulary.decode(ids.tolist()) == TEXT

    def test_masks_show_as_the_symbol(self, vocabulary: Vocabulary) -> None:
        left, right = vocabulary.encode("the").tolist(), vocabulary.encode("mask").tolist()
        ids = [*left, vocabulary.mask_id, vocabulary.mask_id, *right]
        assert vocabulary.decode(ids) == "the▁▁mask"
        assert vocabulary.decode(ids, mask_symbol="[m]") == "the[m][m]mask"

    def test_ids_out_of_range_are_refused(self, vocabulary: Vocabulary) -> None:
        for wrong in (-1, vocabulary.mask_id + 1):
            with pytest.raises(VocabularyError, match=f"found {wrong}"):
                vocabulary.decode([0, wrong])

    def test_the_description_rebuilds_it(self, vocabulary: Vocabulary) -> None:
        again = vocabulary_from_json(vocabulary.to_json())
        assert again == vocabulary
        assert again.fingerprint == vocabulary.fingerprint
        assert torch.equal(again.encode(TEXT), vocabulary.encode(TEXT))


def test_fingerprints_differ() -> None:
    found = {v.fingerprint for v in vocabularies()}
    found.add(CharacterVocabulary.from_text(["abc"]).fingerprint)
    assert len(found) == 4


def test_rare_characters_become_the_replacement() -> None:
    vocabulary = CharacterVocabulary.from_text(["aab", "bc"], min_count=2)
    assert vocabulary.characters == ("a", "b", REPLACEMENT)
    assert vocabulary.decode(vocabulary.encode("abcé")) == f"ab{REPLACEMENT}{REPLACEMENT}"


def test_bpe_merges_what_is_frequent() -> None:
    vocabulary = BPEVocabulary.from_text(["abab" * 50], size=258)
    assert vocabulary.size == 258
    assert len(vocabulary.encode("abababab")) < len("abababab") // 2 + 1
    assert vocabulary.decode(vocabulary.encode("日本")) == "日本"


def test_a_character_cut_by_a_mask_decodes_to_the_replacement() -> None:
    vocabulary = ByteVocabulary()
    ids = [*"é".encode()[:1], vocabulary.mask_id]
    assert vocabulary.decode(ids) == f"{REPLACEMENT}▁"


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        (("a", "bc", REPLACEMENT), "found 'bc'"),
        (("a", "a", REPLACEMENT), "found 'a' twice"),
        (("a", "b"), "U\\+FFFD"),
    ],
)
def test_wrong_members_are_refused(characters: tuple[str, ...], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        CharacterVocabulary(characters)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "found None"),
        ({"kind": "words"}, "found 'words'"),
        ({"kind": "character"}, "missing or damaged field 'characters'"),
        ({"kind": "bpe", "tokenizer": {"model": 3}}, "expected a tokenizer description"),
    ],
)
def test_damaged_descriptions_are_refused(description: dict[str, object], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        vocabulary_from_json(description)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(VocabularyError, match="at least 9 times"):
        CharacterVocabulary.from_text(["abc"], min_count=9)
    with pytest.raises(VocabularyError, match="found 100"):
        BPEVocabulary.from_text(["abc"], size=100)
