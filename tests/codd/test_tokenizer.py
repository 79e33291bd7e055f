"""The tokenizer of a published network's folder as a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from codd.denoisers.registry import load_denoiser
from codd.denoisers.tokenizer import read_tokenizer
from codd.errors import CheckpointError, VocabularyError
from codd.vocabulary import PublishedVocabulary, Vocabulary, vocabulary_from_json
from tests.support.published import WORDS, word_tokenizer, write_masked_lm

TEXT = "the mask hides the tokens; naïve “quotes” — and more\n"


def byte_pairs() -> Tokenizer:
    """A byte-level tokenizer as Qwen2's, with a mask and padding of 4 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|mdm_mask|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(4)
    return tokenizer


def vocabulary(**changes: int) -> PublishedVocabulary:
    sizes = {"num_categories": 300, "mask": 0, **changes}
    return PublishedVocabulary(json.dumps(json.loads(byte_pairs().to_str())), **sizes)


def test_text_survives_whatever_the_tokenizer_pads_and_truncates() -> None:
    own = vocabulary()
    ids = own.encode(TEXT)

    assert isinstance(own, Vocabulary) and (own.size, own.mask_id) == (300, 0)
    assert own.decode(ids) == TEXT
    assert 4 < len(ids) < 64
    both = torch.cat((own.encode("the"), torch.tensor([0, 0]), own.encode("mask")))
    assert own.decode(both) == "the▁▁mask"


def test_ids_without_a_token_are_empty_and_those_beyond_are_refused() -> None:
    own = vocabulary()
    assert own.decode([299]) == ""
    with pytest.raises(VocabularyError, match=r"expected 0 to 299 \(0 is the mask\), found 300"):
        own.decode([300])
    with pytest.raises(VocabularyError, match="at most the network's 270 tokens, found 280"):
        vocabulary(num_categories=270)


def test_the_description_rebuilds_it() -> None:
    own = vocabulary()
    again = vocabulary_from_json(own.to_json())

    assert again == own and again.fingerprint == own.fingerprint
    others = (vocabulary(mask=1), vocabulary(num_categories=301))
    assert len({own.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_a_loaded_denoiser_brings_its_tokenizer(tmp_path: Path) -> None:
    write_masked_lm(tmp_path)
    found = load_denoiser(tmp_path).vocabulary

    assert found is not None
    assert found.encode("he is from new york").tolist() == [5, 6, 7, 8, 9]
    assert (found.size, found.mask_id) == (len(WORDS), WORDS.index("[MASK]"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vocabulary_and_merges_are_read_as_well(tmp_path: Path) -> None:
    byte_pairs().model.save(str(tmp_path))
    found = read_tokenizer(tmp_path, num_categories=400, mask_id=299)

    assert found is not None
    assert found.decode(found.encode("the mask")) == "the mask"


def test_none_is_none_and_damage_is_named(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path, num_categories=9, mask_id=4) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer: BPE vocabulary: expected a tokenizer"):
        read_tokenizer(tmp_path, num_categories=9, mask_id=4)
    (tmp_path / "tokenizer.json").write_text(word_tokenizer().to_str())
    with pytest.raises(CheckpointError, match="at most the network's 9 tokens, found 11"):
        read_tokenizer(tmp_path, num_categories=9, mask_id=4)
